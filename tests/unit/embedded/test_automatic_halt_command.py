"""An action that Drydock itself halted: what `status` shows, and what `resume` does."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.embedded.service import Service
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import KeyRing, Purpose
from tests.embedded_world import POLICY
from tests.factories import full_report
from tests.factories.sites import critical_release

START = datetime.now(UTC) - timedelta(hours=1)
MACS = [f"MAC-{number}" for number in range(8)]


def opened(folder: Path, now: datetime) -> Service:
    keys = folder / "keys"
    signer, trust = KeyStore(keys).signer(Purpose.JOBS), KeyRing.load(keys)
    return Service.open(folder, now=now, signer=signer, trust=trust, policy_text=POLICY)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return a data directory with eight Macs whose enrollment is not approved."""
    for purpose in Purpose:
        KeyStore(tmp_path / "keys").make(purpose)
    (tmp_path / "keys" / "redaction.key").write_bytes(b"k" * 32)
    service = opened(tmp_path, START)
    service.accept([critical_release("26.2", "25C56", START)], (), START)
    for number, udid in enumerate(MACS):
        report = full_report("26.2", udid, START, serial=f"C02{number}", user_approved=False)
        service.accept([report], (), START)
    service.tick(START)
    service.close()
    return tmp_path


def drydock(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def macs_with_jobs(data_dir: Path) -> list[str]:
    now = datetime.now(UTC)
    service = opened(data_dir, now)
    service.tick(now)
    found = sorted(service.reconciler.fleet.job_histories)
    service.close()
    return found


def test_status_shows_the_halted_action_and_its_cause(data_dir: Path) -> None:
    status = drydock("status", "--data-dir", data_dir, "--json")
    assert status.exit_code == 1
    found = json.loads(status.stdout.splitlines()[0])
    (problem,) = [one for one in found["problems"] if "halted" in one]
    assert problem == (
        "Drydock halted site:london/reenroll itself: 5 of 6 Macs got a job for reenroll within a"
        " day, and more need it; find the cause, then: drydock resume site:london/reenroll"
    )
    assert found["halts"] == ["site:london/reenroll"]
    assert found["findings"]["london"]["action_halted"] == 8


def test_resumed_action_continues_and_the_log_verifies(data_dir: Path) -> None:
    assert macs_with_jobs(data_dir) == MACS[:5]
    scope = "site:london/reenroll"
    resumed = drydock("resume", scope, "--data-dir", data_dir, "--by", "ada", "--why", "profile")
    assert (resumed.exit_code, resumed.stdout) == (0, f"resumed: {scope}\n")
    assert macs_with_jobs(data_dir) == MACS
    status = json.loads(drydock("status", "--data-dir", data_dir, "--json").stdout.splitlines()[0])
    assert not [one for one in status["problems"] if "halted" in one]
    verified = drydock("replay", "--data-dir", data_dir, "--verify")
    assert verified.exit_code == 0, verified.output


@pytest.mark.parametrize("scope", ["site:london/", "site:london/erase", "advisory:x/reenroll"])
def test_wrong_scope_of_an_action_is_refused(data_dir: Path, scope: str) -> None:
    refused = drydock("resume", scope, "--data-dir", data_dir, "--by", "ada")
    assert refused.exit_code == 2


def test_operator_halts_and_resumes_an_action(data_dir: Path) -> None:
    options = ("site:london/reinstall", "--data-dir", data_dir, "--by", "ada")
    halted = drydock("halt", *options)
    assert (halted.exit_code, halted.stdout) == (0, "halted: site:london/reinstall\n")
    assert drydock("resume", *options).exit_code == 0
