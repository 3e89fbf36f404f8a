"""The restart of a Mac between updates that keep failing and the reinstall."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.job import build_job
from pipeline.policy.model import Policy
from pipeline.state.jobs import JobEntry, JobHistory
from schemas.decisions import Decision, Reason, Verdict
from schemas.jobs import Action, Method
from schemas.results import ErrorCode, Outcome
from tests.factories import DAY, HOUR, NOW, entry, mac, policy, situation

BY_MDM = {"update": ["ddm"], "restart": ["restart_device"]}
ONLY_DDM = policy(methods=BY_MDM)
BOTH = {"update": ["ddm"], "restart": ["restart_update_service", "restart_device"]}
BOTH_RESTARTS = policy(methods=BOTH)
INTENT = "failing:26.2"


def updates(count: int, **changes: Any) -> JobHistory:
    """Return failed updates, one a day, the last one two days ago."""
    times = (NOW - (count + 1 - number) * DAY for number in range(count))
    return tuple(update(number, when, **changes) for number, when in enumerate(times))


def update(generation: int, issued_at: datetime, **changes: Any) -> JobEntry:
    fields = {"error_code": ErrorCode.INSTALL_FAILED, "outcome": Outcome.FAILED} | changes
    return entry(
        "26.2",
        generation=generation,
        issued_at=issued_at,
        outcome_at=issued_at + HOUR,
        **fields,
    )


def restart(outcome: Outcome, code: ErrorCode | None = None, **changes: Any) -> JobEntry:
    """Return a restart that ended a day ago."""
    fields: dict[str, Any] = {
        "issued_at": NOW - 1.1 * DAY,
        "outcome_at": NOW - DAY,
        "method": Method.RESTART_DEVICE,
    } | changes
    return entry(
        INTENT,
        action=Action.RESTART,
        version=None,
        outcome=outcome,
        error_code=code,
        **fields,
    )


def decided(history: JobHistory, rules: Policy = ONLY_DDM, **facts: Any) -> Decision:
    return decide(situation(mac(**facts), rules=rules, job_history=history))


def test_mac_restarts_before_it_is_reinstalled() -> None:
    decision = decided(updates(3))
    assert (decision.decision, decision.reason) == (Verdict.SEND, Reason.UPDATE_KEEPS_FAILING)
    assert (decision.action, decision.method) == (Action.RESTART, Method.RESTART_DEVICE)
    assert (decision.intent, decision.target, decision.erases) == (INTENT, None, False)
    assert decision.evidence == ("ddm failed: install_failed",) * 3


def test_restart_is_confirmed_within_a_day() -> None:
    s = situation(rules=ONLY_DDM, job_history=updates(3))
    job = build_job(s, decide(s))
    assert job.report_by == NOW + DAY
    assert job.target is None


def test_restart_comes_before_the_last_attempt_although_a_method_is_left() -> None:
    both = policy(methods={"restart": ["restart_device"]})
    assert decided(updates(3), both).method is Method.SOFTWAREUPDATE
    assert decided(updates(4), both).action is Action.RESTART
    assert decided((*updates(4), restart(Outcome.SUCCEEDED)), both).action is Action.UPDATE


@pytest.mark.parametrize(
    ("code", "action"),
    [(ErrorCode.INSTALL_FAILED, Action.REINSTALL), (ErrorCode.UNREACHABLE, Action.UPDATE)],
)
def test_only_a_failure_at_the_mac_after_the_restart_leads_to_the_reinstall(
    code: ErrorCode, action: Action
) -> None:
    later = update(3, NOW - 0.9 * DAY, error_code=code)
    rules = policy(methods=BY_MDM, thresholds={"cool_down": "1m"})
    assert decided((*updates(3), restart(Outcome.SUCCEEDED), later), rules).action is action


# how the restart ended -> the action that follows
ENDS = [
    pytest.param(Outcome.SUCCEEDED, None, Action.UPDATE, id="booted"),
    pytest.param(Outcome.FAILED, ErrorCode.NO_REPORT, Action.UPDATE, id="no-report-of-a-boot"),
    pytest.param(Outcome.FAILED, ErrorCode.COMMAND_REJECTED, Action.UPDATE, id="rejected"),
    pytest.param(Outcome.REFUSED, ErrorCode.METHOD_NOT_ALLOWED, Action.UPDATE, id="not-allowed"),
    pytest.param(Outcome.FAILED, ErrorCode.UNREACHABLE, Action.RESTART, id="never-reached"),
    pytest.param(Outcome.EXPIRED, ErrorCode.EXPIRED, Action.RESTART, id="expired"),
    pytest.param(Outcome.SUPERSEDED, ErrorCode.SUPERSEDED, Action.RESTART, id="withdrawn"),
]


@pytest.mark.parametrize(("outcome", "code", "action"), ENDS)
def test_update_is_tried_once_more_after_a_restart(
    outcome: Outcome, code: ErrorCode | None, action: Action
) -> None:
    assert decided((*updates(3), restart(outcome, code))).action is action


def test_reinstall_follows_if_the_update_fails_after_the_restart() -> None:
    again = update(3, NOW - DAY / 2)
    decision = decided((*updates(3), restart(Outcome.SUCCEEDED), again))
    assert (decision.action, decision.method) == (Action.REINSTALL, Method.STARTOSINSTALL)
    assert decision.intent == INTENT


# history, policy and fields of a Mac that is reinstalled without a restart
WITHOUT = [
    pytest.param(
        updates(3), policy(methods={"update": ["ddm"], "restart": []}), {}, id="policy-has-none"
    ),
    pytest.param(updates(5), ONLY_DDM, {}, id="no-attempt-left-after-it"),
    pytest.param(
        updates(3, method=Method.SOFTWAREUPDATE),
        policy(methods={"update": ["softwareupdate"], "restart": ["restart_device"]}),
        {"enrolled": False},
        id="not-in-mdm",
    ),
]


@pytest.mark.parametrize(("history", "rules", "facts"), WITHOUT)
def test_mac_that_cannot_restart_is_reinstalled(
    history: JobHistory, rules: Policy, facts: dict[str, Any]
) -> None:
    assert decided(history, rules, **facts).action is Action.REINSTALL


def test_restart_waits_for_the_window_and_needs_neither_disk_nor_power() -> None:
    night = policy(
        methods=BY_MDM,
        windows=[{"from": "22:00", "to": "04:00"}],
        deadlines={"high": "400d"},
    )
    held = decided(updates(3), night)
    assert (held.action, held.reason) == (Action.RESTART, Reason.OUTSIDE_WINDOW)
    weak = decided(updates(3), free_disk_gb=1.0, on_ac_power=False, battery_percent=2.0)
    assert (weak.decision, weak.action) == (Verdict.SEND, Action.RESTART)


def test_open_restart_holds_the_update() -> None:
    open_one = entry(
        INTENT,
        action=Action.RESTART,
        method=Method.RESTART_DEVICE,
        version=None,
        outcome=Outcome.ACTED,
        issued_at=NOW - HOUR,
        outcome_at=NOW - HOUR / 2,
    )
    decision = decided((*updates(3), open_one))
    assert (decision.reason, decision.action) == (Reason.JOB_OPEN, Action.RESTART)
    assert decision.next_eligible_at is not None
    assert decision.next_eligible_at > NOW - timedelta(hours=1)


SERVICE: dict[str, Any] = {"method": Method.RESTART_UPDATE_SERVICE}


def test_update_service_is_restarted_before_the_mac() -> None:
    assert decided(updates(3), BOTH_RESTARTS).method is Method.RESTART_UPDATE_SERVICE
    service = restart(Outcome.SUCCEEDED, **SERVICE)
    assert decided((*updates(3), service), BOTH_RESTARTS).action is Action.UPDATE
    rules = policy(methods=BOTH, thresholds={"cool_down": "1m"})
    again = update(3, NOW - 0.9 * DAY)
    assert decided((*updates(3), service, again), rules).method is Method.RESTART_DEVICE


def test_mac_restarts_at_once_if_its_site_forbids_the_restart_of_the_service() -> None:
    refused = restart(Outcome.REFUSED, ErrorCode.METHOD_NOT_ALLOWED, **SERVICE)
    assert decided((*updates(3), refused), BOTH_RESTARTS).method is Method.RESTART_DEVICE


def test_reinstall_follows_if_the_update_fails_after_both_restarts() -> None:
    rules = policy(methods=BOTH, thresholds={"cool_down": "1m"})
    service = restart(Outcome.SUCCEEDED, **SERVICE)
    device = restart(Outcome.SUCCEEDED, issued_at=NOW - 0.8 * DAY, outcome_at=NOW - 0.7 * DAY)
    first, second = update(3, NOW - 0.9 * DAY), update(4, NOW - 0.5 * DAY)
    history = (*updates(3), service, first, device, second)
    assert decided(history, rules).action is Action.REINSTALL
