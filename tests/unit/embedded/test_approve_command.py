"""`drydock approve` while no service runs."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.embedded.log import Log
from pipeline.embedded.service import Service
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import KeyRing, Purpose
from schemas.envelope import ApprovalGrantedEvent, decode
from tests.embedded_world import POLICY
from tests.factories.sites import critical_release, osquery_report

NOW = datetime.now(UTC)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Return a data directory: MAC-1 is a returned loan to be erased, MAC-2 needs nothing."""
    keys = tmp_path / "keys"
    for purpose in Purpose:
        KeyStore(keys).make(purpose)
    (keys / "redaction.key").write_bytes(b"k" * 32)
    service = Service.open(
        tmp_path,
        now=NOW,
        signer=KeyStore(keys).signer(Purpose.JOBS),
        trust=KeyRing.load(keys),
        policy_text=POLICY,
    )
    sound = {"os_version": "26.2", "build": "25C56", "model": "Mac14,2"}
    service.accept(
        [
            critical_release("26.2", "25C56", NOW - timedelta(days=1)),
            osquery_report("MAC-1", NOW, loan_returned_at=NOW - timedelta(hours=1), **sound),
            osquery_report("MAC-2", NOW, **sound),
        ],
        (),
        NOW,
    )
    service.close()
    return tmp_path


def approve(
    data_dir: Path, name: str, *options: str, expected_error: str | None = None
) -> tuple[int, str]:
    arguments = ["approve", name, "--data-dir", str(data_dir), "--by", "me", *options]
    done = CliRunner().invoke(app, arguments, input=expected_error)
    return done.exit_code, done.output


def granted(data_dir: Path) -> list[ApprovalGrantedEvent]:
    with Log.open(data_dir) as log:
        events = [decode(row.body) for row in log.entries(kind="event")]
    return [event for event in events if isinstance(event, ApprovalGrantedEvent)]


def test_approval_is_signed_and_durable(data_dir: Path) -> None:
    code, out = approve(data_dir, "c02mac-1", "--yes", "--hours", "2")
    assert code == 0, out
    (event,) = granted(data_dir)
    assert (event.data.approval.udid, event.data.approval.by) == ("MAC-1", "me")
    assert event.data.approval.expires_at <= datetime.now(UTC) + timedelta(hours=2)
    with Log.open(data_dir) as log:
        assert any(row.type == "drydock.job.issued.v1" for row in log.entries(kind="event"))


def test_refused_confirmation_approves_nothing(data_dir: Path) -> None:
    code, out = approve(data_dir, "MAC-1", expected_error="n\n")
    assert code == 1
    assert "ERASES C02MAC-1" in out
    assert granted(data_dir) == []


@pytest.mark.parametrize(
    ("name", "expected_error"),
    [("MAC-2", "awaits no approval"), ("MAC-3", "no Mac is known as MAC-3")],
)
def test_approving_a_mac_that_awaits_no_approval_is_an_error(
    data_dir: Path, name: str, expected_error: str
) -> None:
    code, out = approve(data_dir, name, "--yes")
    assert code == 2
    assert expected_error in out
