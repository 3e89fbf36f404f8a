"""`drydock attempts reset` while no service runs, and what a Mac gets afterwards."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.embedded.service import Service
from pipeline.embedded.unsent_jobs import load_issued_job
from pipeline.signing_keys import KeyStore
from pipeline.state.jobs import JobHistory
from runtime.trusted_keys import KeyRing, Purpose
from schemas.jobs import JobIssued
from schemas.results import ErrorCode, Outcome
from tests.embedded_world import POLICY
from tests.factories import resulted
from tests.factories.sites import critical_release, osquery_report

START = datetime.now(UTC) - timedelta(days=1)
ONE_ATTEMPT = POLICY.replace("thresholds: {", "thresholds: {max_attempts: 1, ")


def opened(folder: Path, now: datetime) -> Service:
    keys = folder / "keys"
    return Service.open(
        folder,
        now=now,
        signer=KeyStore(keys).signer(Purpose.JOBS),
        trust=KeyRing.load(keys),
        policy_text=ONE_ATTEMPT,
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return a data directory with two Macs whose only attempt failed."""
    for purpose in Purpose:
        KeyStore(tmp_path / "keys").make(purpose)
    (tmp_path / "keys" / "redaction.key").write_bytes(b"k" * 32)
    service = opened(tmp_path, START)
    old = {"os_version": "26.1", "build": "25B78", "model": "Mac14,2", "free_disk_gb": 99.0}
    service.accept([critical_release("26.2", "25C56", START)], (), START)
    for udid, code in (("MAC-1", ErrorCode.INSTALL_FAILED), ("MAC-2", ErrorCode.COMMAND_REJECTED)):
        service.accept([osquery_report(udid, START, **old)], (), START)
        (entry,) = service.reconciler.fleet.job_histories[udid]
        issued = load_issued_job(service.store, entry, udid, START)
        assert isinstance(issued, JobIssued)
        job = issued.job
        service.accept([resulted(job, Outcome.FAILED, START, code)], (), START)
    service.close()
    return tmp_path


def histories(data_dir: Path) -> dict[str, JobHistory]:
    service = opened(data_dir, datetime.now(UTC))
    found = dict(service.reconciler.fleet.job_histories)
    service.close()
    return found


def drydock(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def reset(data_dir: Path, *arguments: str) -> Result:
    options = ("--data-dir", data_dir, "--by", "ada", "--why", "cable replaced")
    return drydock("attempts", "reset", *arguments, *options)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("all",), {"MAC-1", "MAC-2"}),
        (("site:london",), {"MAC-1", "MAC-2"}),
        (("C02MAC-2",), {"MAC-2"}),
        (("all", "--cause", "command_rejected"), {"MAC-2"}),
        (("all", "--cause", "bug"), set()),
    ],
    ids=["everything", "a site", "a Mac", "a cause", "another cause"],
)
def test_mac_whose_attempts_were_reset_gets_its_next_job(
    data_dir: Path, arguments: tuple[str, ...], expected: set[str]
) -> None:
    done = reset(data_dir, *arguments)
    assert (done.exit_code, done.output.split(":")[0]) == (0, "attempts reset")
    service = opened(data_dir, START + timedelta(hours=1))
    service.tick(START + timedelta(hours=1))
    sent = {udid for udid, jobs in service.reconciler.fleet.job_histories.items() if len(jobs) == 2}
    service.close()
    assert sent == expected
    verified = drydock("replay", "--data-dir", data_dir, "--verify")
    assert verified.exit_code == 0, verified.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("all", "--cause", "rain"), "unknown error code 'rain'; one of: bad_signature"),
        (("site:berln",), "no site 'berln'; the sites are london"),
        (("C02UNKNOWN",), "no Mac is known as 'C02UNKNOWN'"),
        (("all", "--bootstrap", "127.0.0.1:1"), "choose one"),
    ],
)
def test_reset_of_something_unknown_changes_nothing(
    data_dir: Path, arguments: tuple[str, ...], message: str
) -> None:
    before = histories(data_dir)
    done = reset(data_dir, *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert histories(data_dir) == before
