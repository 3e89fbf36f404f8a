"""Decisions for all Macs of a set of events, at one time."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide.batch import decide_all, fold_events
from pipeline.policy.file import read_policy
from schemas.decisions import Reason, Verdict
from schemas.envelope import Event
from schemas.results import Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    POLICY_TEXT,
    UDID,
    enrolled,
    full_report,
    issued,
    job,
    policy_changed,
    polled,
    release,
    resulted,
    superseded,
)
from tests.strategies import events

OLD = issued(job(issued_at=NOW - 3 * DAY, lasts=DAY))
JOB = job(generation=1)
EVENTS: list[Event] = [
    *enrolled(),
    polled(),
    full_report("26.1"),
    release("26.2"),
    OLD,
    resulted(OLD.data.job, Outcome.FAILED, NOW - 2 * DAY),
    issued(JOB),
    superseded(JOB, NOW - HOUR),
    resulted(JOB, Outcome.STARTED, NOW - HOUR),
]


def printed(found: list[Event], text: str = POLICY_TEXT) -> str:
    decisions = decide_all(fold_events(found), read_policy(text), NOW)
    return "\n".join(one.model_dump_json() for one in decisions)


@given(st.randoms(use_true_random=False), st.lists(events(), max_size=6))
def test_decisions_are_the_same_for_events_in_any_order_and_repeated(
    rng: random.Random, more: list[Event]
) -> None:
    found = EVENTS + more
    twice = found + [event for event in found if rng.random() < 0.5]
    rng.shuffle(twice)
    assert printed(twice) == printed(found)


def test_policy_argument_is_used_instead_of_a_policy_event() -> None:
    wanted = POLICY_TEXT + "upgrades: {to: '26'}\n"
    found: list[Event] = [full_report("15.7.3"), release("26.2"), release("15.7.3")]
    found.append(policy_changed(POLICY_TEXT, NOW))
    (decision,) = decide_all(fold_events(found), read_policy(wanted), NOW)
    assert decision.reason is Reason.POLICY_UPGRADE


def test_job_is_ended_by_a_report_of_its_target() -> None:
    later = job("26.3", version="26.3", issued_at=NOW - 2 * HOUR)
    done: list[Event] = [
        *EVENTS,
        full_report("26.2", when=NOW - HOUR / 2),
        release("26.3", build="25D100", day="2026-01-10"),
    ]
    (decision,) = decide_all(fold_events(done), read_policy(POLICY_TEXT), NOW)
    assert (decision.decision, decision.intent) == (Verdict.SEND, later.intent)


def test_open_job_holds_the_mac() -> None:
    (decision,) = decide_all(fold_events(EVENTS), read_policy(POLICY_TEXT), NOW)
    assert (decision.udid, decision.reason) == (UDID, Reason.JOB_OPEN)
