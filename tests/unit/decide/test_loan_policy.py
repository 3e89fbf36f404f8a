"""Returned loan units under the rules of `loans`."""

from typing import Any

import pytest

from pipeline.decide.decision import decide
from schemas.decisions import Decision, Reason, Verdict
from schemas.findings import FindingCode
from schemas.jobs import Method
from tests.factories import DAY, HOUR, NIGHTS, NOW, mac, policy, situation


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
