"""Reports of the system that ran before an installation do not describe the one that runs now."""

from typing import Any

import pytest

from pipeline.decide.decision import decide, evaluate
from pipeline.state.device import Device
from pipeline.state.jobs import JobHistory
from schemas.decisions import Reason, Verdict
from schemas.jobs import Action, Method
from schemas.results import Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    entry,
    mac,
    policy,
    situation,
    with_report,
)

RULE = {"models": ["Mac16,*"], "version": "26.2", "firmware": "13822.61.10"}
RULES = policy(firmware=[RULE], follow_up={"compliant": False})
BROKEN: dict[str, Any] = {"source": "mdm", "system_volume_sealed": False}
OLD: dict[str, Any] = {"source": "mdm", "firmware": "13822.50.1"}


def installed(action: Action, intent: str, *, erases: bool = False) -> JobHistory:
    """Return the job of an installation that was done ten hours ago."""
    done = entry(
        intent,
        action=action,
        method=Method.STARTOSINSTALL,
        erases=erases,
        issued_at=NOW - 11 * HOUR,
        acted_at=NOW - 10 * HOUR,
        outcome=Outcome.SUCCEEDED,
        outcome_at=NOW - 9 * HOUR,
    )
    return (done,)


def reported_before(version: str = "26.2", **fields: Any) -> Device:
    """Return a Mac whose last report with these fields is two days old."""
    device = mac(version, seen_at=NOW - 2 * DAY, **fields)
    return with_report(device, NOW - HOUR, "mdm", user_approved=True, os_version=version)


@pytest.mark.parametrize(
    ("fields", "intent"), [(BROKEN, "seal"), (OLD, "firmware:13822.50.1:26.2")]
)
@pytest.mark.parametrize("action", [Action.REINSTALL, Action.UPDATE])
def test_fault_that_was_reported_before_the_installation_is_not_known_of_the_new_system(
    fields: dict[str, Any], intent: str, action: Action
) -> None:
    found = situation(reported_before(**fields), rules=RULES, job_history=installed(action, intent))
    assert decide(found).reason is Reason.COMPLIANT


@pytest.mark.parametrize("fields", [BROKEN, OLD])
def test_fault_that_was_reported_after_the_installation_counts(fields: dict[str, Any]) -> None:
    again = with_report(
        reported_before(**fields), NOW - HOUR, **{key: fields[key] for key in fields}
    )
    found = situation(again, rules=RULES, job_history=installed(Action.UPDATE, "26.2"))
    assert decide(found).action is Action.REINSTALL


def test_equal_report_after_the_installation_leads_to_a_new_decision() -> None:
    before = situation(reported_before(**BROKEN), job_history=installed(Action.UPDATE, "26.2"))
    assert evaluate(before).recheck_on_telemetry


def test_seal_of_a_system_that_was_never_replaced_counts() -> None:
    assert decide(situation(reported_before(**BROKEN), rules=RULES)).reason is Reason.SEAL_BROKEN


def test_free_space_from_before_an_erase_is_unknown() -> None:
    device = reported_before("26.1", free_disk_gb=3.0)
    held = decide(situation(device))
    assert (held.decision, held.reason) == (Verdict.HOLD, Reason.LOW_DISK)
    kept = decide(situation(device, job_history=installed(Action.REINSTALL, "seal")))
    assert kept.reason is Reason.LOW_DISK
    history = installed(Action.REINSTALL, "loan@1", erases=True)
    assert decide(situation(device, job_history=history)).reason is not Reason.LOW_DISK


def test_no_volume_owner_is_left_after_an_erase() -> None:
    device = reported_before("26.1", supervised=False, volume_owner_available=True)
    assert decide(situation(device)).method is Method.SOFTWAREUPDATE
    history = installed(Action.REINSTALL, "loan@1", erases=True)
    erased = decide(situation(device, job_history=history))
    assert (erased.decision, erased.reason) == (Verdict.HOLD, Reason.NOT_SUPERVISED)
    owned = with_report(device, NOW - HOUR, volume_owner_available=True)
    assert decide(situation(owned, job_history=history)).method is Method.SOFTWAREUPDATE


@pytest.mark.parametrize(
    ("sealed", "method"),
    [(True, Method.ERASE_DEVICE), (None, Method.ERASE_DEVICE), (False, Method.STARTOSINSTALL)],
)
def test_erase_that_keeps_the_system_is_first_unless_its_seal_is_broken(
    sealed: bool | None, method: Method
) -> None:
    device = mac("26.2", source="mdm", system_volume_sealed=sealed, loan_returned_at=NOW - HOUR)
    assert decide(situation(device)).method is method
