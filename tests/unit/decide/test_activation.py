"""Activations after a reinstall: the jobs that carry them out, and the points that they confirm."""

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.decide.decision import decide
from pipeline.decide.job import build_job
from pipeline.decide.needs.reinstall_history import follow_up_missing
from pipeline.state.device import Device
from pipeline.state.fleet import Fleet
from pipeline.state.jobs import JobEntry
from schemas.activations import MAX_ACTIVATION_NAME, activation_intent, activation_name
from schemas.decisions import Reason, Verdict
from schemas.jobs import Action, Method
from schemas.results import ErrorCode, Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    enrolled,
    entry,
    mac,
    policy,
    situation,
    with_report,
)

FOLLOW_UP = {"activations": ["munki", "office"], "over_ssh": ["office"], "compliant": False}
RULES = policy(follow_up=FOLLOW_UP)


def reinstall(*, erases: bool = False) -> JobEntry:
    return entry(
        "seal",
        action=Action.REINSTALL,
        erases=erases,
        issued_at=NOW - 2 * DAY,
        outcome=Outcome.SUCCEEDED,
        outcome_at=NOW - DAY,
    )


OFFICE = activation_intent("office", reinstall().issued_us)


def activation(outcome: Outcome, **values: Any) -> JobEntry:
    times = {"issued_at": NOW - 12 * HOUR, "outcome_at": NOW - 11 * HOUR}
    return entry(
        **({"intent": OFFICE} | times | values),
        action=Action.ACTIVATE,
        method=Method.ACTIVATION_COMMAND,
        version=None,
        outcome=outcome,
    )


def approved() -> Device:
    return with_report(mac("26.2"), NOW - HOUR, "mdm", user_approved=True)


def test_missing_activation_over_ssh_is_carried_out_and_another_one_awaited() -> None:
    s = situation(approved(), rules=RULES, job_history=(reinstall(),))
    decision = decide(s)
    assert (decision.decision, decision.reason) == (Verdict.SEND, Reason.ACTIVATION_MISSING)
    assert (decision.action, decision.method) == (Action.ACTIVATE, Method.ACTIVATION_COMMAND)
    job = build_job(s, decision)
    assert activation_name(job.intent) == "office"
    assert job.target is None
    assert follow_up_missing(s) == ("activation munki", "activation office")


@pytest.mark.parametrize(
    ("follow_up", "facts"),
    [
        (FOLLOW_UP, {"activations": ["office"]}),
        (FOLLOW_UP | {"over_ssh": []}, {}),
    ],
    ids=["a report has it", "it is not carried out over SSH"],
)
def test_activation_is_not_carried_out(follow_up: dict[str, Any], facts: dict[str, Any]) -> None:
    device = with_report(approved(), NOW - HOUR / 2, "munki", **facts)
    s = situation(device, rules=policy(follow_up=follow_up), job_history=(reinstall(),))
    assert decide(s).reason is Reason.AWAITING_FOLLOW_UP


def test_mac_without_a_reinstall_gets_no_activation() -> None:
    assert decide(situation(approved(), rules=RULES)).decision is Verdict.NOTHING


def test_erased_mac_enrolls_before_its_activations() -> None:
    fleet = Fleet()
    fleet.put(mac("26.2", seen_at=NOW - 3 * DAY))
    history = (reinstall(erases=True),)
    before = situation(fleet.merged_device(UDID), rules=RULES, job_history=history)
    assert decide(before).action is not Action.ACTIVATE
    for event in enrolled(when=NOW - 10 * HOUR):
        fleet.apply(event)
    device = with_report(fleet.merged_device(UDID), NOW - HOUR, "mdm", user_approved=True)
    assert decide(situation(device, rules=RULES, job_history=history)).action is Action.ACTIVATE


def test_job_that_succeeded_confirms_its_activation_for_this_reinstall_only() -> None:
    earlier = activation(Outcome.SUCCEEDED, intent=activation_intent("office", 1))
    for done, missing in (
        (activation(Outcome.SUCCEEDED), ("activation munki",)),
        (activation(Outcome.FAILED), ("activation munki", "activation office")),
        (earlier, ("activation munki", "activation office")),
    ):
        s = situation(approved(), rules=RULES, job_history=(reinstall(), done))
        assert follow_up_missing(s) == missing


def test_activation_that_failed_cools_down() -> None:
    failed = activation(
        Outcome.FAILED,
        issued_at=NOW - 2 * HOUR,
        outcome_at=NOW - HOUR,
        error_code=ErrorCode.ACTIVATION_FAILED,
    )
    held = decide(situation(approved(), rules=RULES, job_history=(reinstall(), failed)))
    assert (held.decision, held.reason) == (Verdict.HOLD, Reason.COOLING_DOWN)


def test_activation_waits_for_no_window() -> None:
    london = {"time_zone": "Europe/London", "windows": []}
    rules = policy(follow_up=FOLLOW_UP, sites={"london": london})
    assert decide(situation(approved(), rules=rules, job_history=(reinstall(),))).decision is (
        Verdict.SEND
    )


def test_policy_names_only_activations_over_ssh() -> None:
    with pytest.raises(ValidationError, match="office is not in `activations`"):
        policy(follow_up={"activations": ["munki"], "over_ssh": ["office"]})


def test_longest_name_of_an_activation_fits_the_intent_of_a_job() -> None:
    longest = "é" * MAX_ACTIVATION_NAME
    names: list[str] = [longest]
    rules = policy(follow_up=FOLLOW_UP | {"activations": names, "over_ssh": names})
    s = situation(approved(), rules=rules, job_history=(reinstall(),))
    assert activation_name(build_job(s, decide(s)).intent) == longest
    names = [longest + "x"]
    with pytest.raises(ValidationError, match="more than 256 characters"):
        policy(follow_up=FOLLOW_UP | {"activations": names, "over_ssh": names})


@pytest.mark.parametrize("name", ["office", "a@b", "a:b", "Adobe CC"])
def test_name_of_an_activation_is_in_its_intent(name: str) -> None:
    assert activation_name(activation_intent(name, 17)) == name


@pytest.mark.parametrize("intent", ["26.2", "office@17", "activation:office", "activation:@17"])
def test_other_intents_have_no_activation(intent: str) -> None:
    assert activation_name(intent) is None


def test_repeat_has_another_job_id_and_the_same_intent() -> None:
    failed = activation(
        Outcome.FAILED,
        issued_at=NOW - 20 * HOUR,
        outcome_at=NOW - 19 * HOUR,
        error_code=ErrorCode.ACTIVATION_FAILED,
    )
    again = decide(situation(approved(), rules=RULES, job_history=(reinstall(), failed)))
    assert (again.decision, again.intent, again.generation) == (Verdict.SEND, OFFICE, 1)
