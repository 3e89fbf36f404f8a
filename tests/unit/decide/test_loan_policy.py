"""Returned loan units under the rules of `loans`."""

from typing import Any

import pytest

from pipeline.decide.decision import decide, evaluate
from pipeline.state.device import to_us
from schemas.decisions import Decision, Reason, Verdict
from schemas.findings import FindingCode
from schemas.jobs import Action, Method
from schemas.results import ErrorCode
from tests.factories import (
    DAY,
    HOUR,
    NIGHTS,
    NOW,
    UDID,
    entry,
    failed,
    halt,
    mac,
    policy,
    situation,
)


def returned(version: str, facts: dict[str, Any], **loans: Any) -> Decision:
    device = mac(version, loan_returned_at=NOW - HOUR, **facts)
    return decide(situation(device, rules=policy(loans=loans, windows=NIGHTS)))


@pytest.mark.parametrize(
    ("version", "system", "want"),
    [
        pytest.param("15.7.3", "same_line", (Method.ERASE_DEVICE, "15.7.3"), id="same-line"),
        pytest.param("15.7.3", "newest", (Method.STARTOSINSTALL, "26.2"), id="newest"),
        pytest.param("26.2", "newest", (Method.ERASE_DEVICE, "26.2"), id="has-the-newest"),
        pytest.param("13.7.8", "newest", (Method.STARTOSINSTALL, "26.2"), id="dead-line"),
    ],
)
def test_loan_unit_gets_the_system_of_the_policy(
    version: str, system: str, want: tuple[Method, str]
) -> None:
    decision = returned(version, {}, system=system)
    assert decision.erases
    assert decision.target is not None
    assert (decision.method, str(decision.target.version)) == want


def test_newest_system_is_kept_within_the_policys_line_and_deferral() -> None:
    device = mac("15.7.2", loan_returned_at=NOW - HOUR)
    for upgrades in ({"to": "15"}, {"deferral": 200 * DAY, "supported_lines": ["26"]}):
        rules = policy(loans={"system": "newest"}, upgrades=upgrades)
        target = decide(situation(device, rules=rules)).target
        assert target is not None
        assert str(target.version) == "15.7.3"


def test_loan_unit_without_ssh_is_erased_with_the_system_that_runs() -> None:
    sites = {"london": {"time_zone": "Europe/London", "ssh": False}}
    rules = policy(sites=sites, loans={"system": "newest"})
    decision = decide(situation(mac("15.7.3", loan_returned_at=NOW - HOUR), rules=rules))
    assert decision.method is Method.ERASE_DEVICE


@pytest.mark.parametrize(("waits", "passes"), [(False, True), (True, False)])
def test_loan_unit_waits_for_a_window_only_if_the_policy_wants_it(
    *, waits: bool, passes: bool
) -> None:
    decision = returned("26.2", {}, wait_for_window=waits)
    (window,) = [gate for gate in decision.gates if gate.gate == "window"]
    assert window.passed is passes


@pytest.mark.parametrize("known", [False, None])
def test_loan_unit_that_would_not_enroll_by_itself_is_left_to_a_person(known: bool | None) -> None:
    facts = {"ade_enrolled": known}
    assert returned("26.2", facts).reason is Reason.AWAITING_APPROVAL
    decision = returned("26.2", facts, require_ade=True)
    assert (decision.decision, decision.reason) == (Verdict.HOLD, Reason.NEEDS_PERSON)
    assert FindingCode.NOT_IN_ADE in decision.findings
    assert returned("26.2", {}, require_ade=True).reason is Reason.AWAITING_APPROVAL


def test_loan_unit_that_is_left_to_a_person_is_not_updated_with_the_borrowers_data() -> None:
    decision = returned("26.1", {"ade_enrolled": False}, require_ade=True)
    assert decision.decision is Verdict.HOLD


@pytest.mark.parametrize(
    ("facts", "target", "reason"),
    [
        pytest.param({}, "26.2", Reason.AWAITING_APPROVAL, id="newest-that-the-model-runs"),
        pytest.param({"model": "iMac19,1"}, "15.7.3", Reason.AWAITING_APPROVAL, id="Intel"),
        pytest.param({"model": "Mac99,1"}, None, Reason.NO_RELEASE, id="unknown-model"),
    ],
)
def test_loan_unit_of_unknown_version_is_erased_all_the_same(
    facts: dict[str, Any], target: str | None, reason: Reason
) -> None:
    unknown = {"build": None, "device_id": None, **facts}
    decision = decide(situation(mac(None, loan_returned_at=NOW - HOUR, **unknown)))
    assert (decision.decision, decision.action, decision.erases) == ("hold", "reinstall", True)
    assert decision.reason is reason
    assert (decision.target and str(decision.target.version)) == target


def test_broken_seal_of_a_mac_of_unknown_version_waits_for_a_release() -> None:
    decision = decide(situation(mac(None, build=None, system_volume_sealed=False)))
    assert (decision.decision, decision.action) == ("hold", "reinstall")
    assert decision.reason is Reason.NO_RELEASE


@pytest.mark.parametrize(
    ("known", "detail"),
    [
        (True, "it keeps its system (EACS) and enrolls again through ADE"),
        (None, "it keeps its system (EACS) and enrolls again only through ADE, which is not known"),
    ],
)
@pytest.mark.parametrize("model", ["Mac14,2", "MacBookPro16,1"])
def test_decision_to_erase_over_mdm_has_what_follows(
    model: str, known: bool | None, detail: str
) -> None:
    decision = returned("26.2", {"model": model, "device_id": None, "ade_enrolled": known})
    (method,) = [gate for gate in decision.gates if gate.gate == "method"]
    assert method.detail.startswith(f"erase_device on macOS 26.2: {detail}")


NOT_ENROLLED: dict[str, Any] = {"enrolled": False, "mdm_enrolled": False}


def test_loan_unit_that_left_mdm_is_erased_before_anybody_is_asked_to_enroll_it() -> None:
    device = mac("26.2", loan_returned_at=NOW - HOUR, **NOT_ENROLLED)
    found = evaluate(situation(device))
    assert (found.decision.action, found.decision.erases) == (Action.REINSTALL, True)
    assert found.decision.method is Method.STARTOSINSTALL
    assert found.decision.reason is Reason.AWAITING_APPROVAL
    # A contact through MDM permits EraseDevice.
    assert found.recheck_on_telemetry


@pytest.mark.parametrize(
    ("facts", "rules"),
    [
        pytest.param({}, {"methods": {"reinstall": ["erase_device"]}}, id="only MDM can erase it"),
        pytest.param(
            {"ade_enrolled": None}, {"loans": {"require_ade": True}}, id="left to a person"
        ),
        pytest.param({"volume_owner_available": False}, {}, id="no volume owner"),
    ],
)
def test_loan_unit_that_cannot_be_erased_without_mdm_enrolls_first(
    facts: dict[str, Any], rules: dict[str, Any]
) -> None:
    device = mac("26.2", loan_returned_at=NOW - HOUR, **NOT_ENROLLED, **facts)
    decision = decide(situation(device, rules=policy(**rules)))
    assert (decision.decision, decision.action) == (Verdict.SEND, Action.REENROLL)


RETURNED = NOW - 6 * DAY
ERASE: dict[str, Any] = {
    "action": Action.REINSTALL,
    "method": Method.STARTOSINSTALL,
    "intent": f"loan@{to_us(RETURNED)}",
    "erases": True,
}
HALTS_ERASE = (halt(site="london", action="reinstall"),)
OPEN = entry(**ERASE)


@pytest.mark.parametrize(
    ("rules", "given", "action"),
    [
        pytest.param({}, {"halts": HALTS_ERASE}, Action.REENROLL, id="the erase is halted"),
        pytest.param(
            {},
            {"halts": (halt(site="london", action="reenroll"),)},
            Action.REINSTALL,
            id="the enrollment is halted",
        ),
        pytest.param(
            {},
            {"job_history": failed(5, first_at=NOW - 5 * DAY, **ERASE)},
            Action.REENROLL,
            id="no attempt is left",
        ),
        pytest.param(
            {},
            {"job_history": failed(5, ErrorCode.UNREACHABLE, first_at=NOW - 5 * DAY, **ERASE)},
            Action.REINSTALL,
            id="no job reached the Mac",
        ),
        pytest.param(
            {"exemptions": [{"who": {"udids": [UDID]}, "actions": ["reinstall"], "why": "kept"}]},
            {},
            Action.REENROLL,
            id="exempt from the erase",
        ),
        pytest.param(
            {"loans": {"wait_for_window": True}, "windows": NIGHTS},
            {},
            Action.REINSTALL,
            id="the erase waits for a window",
        ),
        pytest.param(
            {},
            {"halts": HALTS_ERASE, "job_history": (OPEN,)},
            Action.REINSTALL,
            id="its job is open",
        ),
    ],
)
def test_loan_unit_whose_erase_is_stopped_enrolls_meanwhile(
    rules: dict[str, Any], given: dict[str, Any], action: Action
) -> None:
    device = mac("26.2", loan_returned_at=RETURNED, **NOT_ENROLLED)
    assert decide(situation(device, rules=policy(**rules), **given)).action is action


def test_loan_unit_whose_erase_nobody_approves_for_a_week_enrolls() -> None:
    """An approval that was denied looks like one that is pending."""
    device = mac("26.2", loan_returned_at=NOW - HOUR, **NOT_ENROLLED)
    first = decide(situation(device))
    assert (first.decision, first.action) == (Verdict.HOLD, Action.REINSTALL)
    assert first.next_eligible_at == NOW - HOUR + 7 * DAY
    later = mac("26.2", loan_returned_at=NOW - 7 * DAY, **NOT_ENROLLED)
    decision = decide(situation(later))
    assert (decision.decision, decision.action) == (Verdict.SEND, Action.REENROLL)
