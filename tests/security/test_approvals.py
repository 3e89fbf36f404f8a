"""Approvals that reach another Mac than the approver sees, or another job (A3, A27)."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.payload_signing import sign_approval
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose
from schemas.envelope import ApprovalGrantedEvent, encode
from schemas.events.control import Approval
from schemas.ids import event_id
from tests.security.target import Target, release, report, target
from tests.security.test_signed_control import drydock

CURRENT: dict[str, Any] = {"os_version": "26.2", "build": "25C56"}
LOANER, VICTIM = "MAC-LOANER", "MAC-VICTIM"
SERIAL = f"C02{LOANER}"


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service with an approver's key; a returned loan unit waits for its erase."""
    folder = tmp_path_factory.mktemp("approvals")
    KeyStore(folder / "data" / "keys").make(Purpose.APPROVALS)
    with target(folder) as found:
        found.accept(release(), "sofa")
        for name in (LOANER, VICTIM):
            found.accept(report(name, source="mdm", mdm_enrolled=True, **CURRENT), "nanomdm")
        done = drydock(
            *("devices", "describe", LOANER, "--ownership", "loan", "--loan-returned"),
            *("--data-dir", str(found.data_dir), "--by", "ada"),
        )
        assert done.returncode == 0, done.stderr
        assert found.decision(LOANER)["reason"] == "awaiting_approval"
        yield found


def erasing_jobs(at: Target, name: str) -> list[str]:
    """Return the jobs of a Mac that erase it."""
    found = at.mac(name)
    assert found is not None
    return [job["job_id"] for job in found["jobs"] if job["action"] in ("reinstall", "reimage")]


def grant(at: Target, made_at: datetime | None = None, **changes: Any) -> int:
    """Post an approval of the loan unit's job with changes, signed by the approver.

    Return the status of the response.
    """
    decision = at.decision(LOANER)
    now = datetime.now(UTC)
    fields = {
        "udid": LOANER,
        "job_id": decision["job_id"],
        "action": decision["action"],
        "by": "approver",
        "expires_at": now + timedelta(hours=2),
        "serial": SERIAL,
        "method": decision["method"],
        **changes,
    }
    key = KeyStore(at.data_dir / "keys").signer(Purpose.APPROVALS)
    event = ApprovalGrantedEvent(
        id=event_id("approval", json.dumps(fields, default=str)),
        source="/attacker",
        subject=fields["udid"],
        time=made_at or now,
        data=sign_approval(Approval(**fields), key),
    )
    token = (at.data_dir / "keys" / "admin.token").read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    return at.http.post("/v1/approvals", content=encode(event), headers=headers).status_code


FORGED: dict[str, dict[str, Any]] = {
    "unknown Mac": {"udid": "MAC-OF-NOBODY"},
    "Mac that waits for nothing": {"udid": VICTIM},
    "unknown job": {"job_id": "job-0123456789abcdef"},
    "another action": {"action": "reimage"},
    "another serial number": {"serial": f"C02{VICTIM}"},
    "without a serial number": {"serial": None},
    "until the year 9999": {"expires_at": datetime(9999, 1, 1, tzinfo=UTC)},
    "longer than the policy permits": {"expires_at": datetime.now(UTC) + timedelta(days=400)},
    "ended": {"expires_at": datetime.now(UTC) - timedelta(minutes=1)},
    "made in the year 9926": {"made_at": datetime(9926, 1, 1, tzinfo=UTC)},
}


@pytest.mark.parametrize("changes", FORGED.values(), ids=FORGED.keys())
def test_a27_approval_for_no_waiting_job_is_refused(at: Target, changes: dict[str, Any]) -> None:
    assert grant(at, **changes) in {400, 409}
    assert erasing_jobs(at, LOANER) == erasing_jobs(at, VICTIM) == []


@pytest.mark.parametrize("sender", ["events", "osquery", "nanomdm"])
def test_a03_approval_of_a_serial_number_erases_no_other_mac(at: Target, sender: str) -> None:
    """Run last in this module: the serial number stays in conflict."""
    source = "mdm" if sender == "nanomdm" else "osquery"
    claim = report(VICTIM, serial=SERIAL, source=source, **CURRENT)
    loan = {"loan_returned_at": datetime.now(UTC).isoformat()}
    at.event({**claim, "data": {**claim["data"], **loan}}, sender)
    at.accept(claim | {"id": f"{claim['id']}-2"}, sender)
    assert at.decision(VICTIM)["serial"] == SERIAL
    done = drydock("approve", SERIAL, "--data-dir", str(at.data_dir), "--yes", "--by", "ada")
    assert done.returncode == 2, done.stdout
    assert LOANER in done.stderr
    assert VICTIM in done.stderr
    for name in (LOANER, VICTIM):
        done = drydock("approve", name, "--data-dir", str(at.data_dir), "--yes", "--by", "ada")
        assert done.returncode == 2, done.stdout
        assert erasing_jobs(at, name) == []
