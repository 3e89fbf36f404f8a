"""After a report is folded, the last decision of its Mac is the one that the rules give now.

Three kinds of change wait for the sweep, or for the time in the decision, and are excepted here:
a report without news that makes a need of enrolment begin or end (MDM falls silent for the Mac),
one that closes a gate, and one that changes only the method of a need that stays held for the
same reason.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pipeline.decide.decision import decide
from pipeline.decide.last_decision import fingerprint
from pipeline.decide.reconciler import DerivedEvent, Effect, EvaluationFailed, Reconciler
from pipeline.decide.remediation import Need, needs_reenrollment
from pipeline.decide.situation import Situation
from pipeline.state.fleet import Fleet
from schemas.decisions import Decision, Reason
from tests import factories as make
from tests.strategies import checkins, reports, reports_without_news, situations


def engine_for(s: Situation) -> Reconciler:
    """An engine whose only Mac is in this Situation, and what it decides for it at once."""
    fleet = Fleet(s.advisories)
    fleet.put(s.device)
    if s.job_history:
        fleet.job_histories[s.device.udid] = s.job_history
    for halt in s.halts:
        scope = {"site": halt.scope.site, "advisory": halt.scope.advisory_id}
        fleet.apply(make.halted(make.NOW, **scope, until=halt.until))
    for granted in s.approvals:
        given = granted.approval
        fleet.apply(
            make.granted(
                given.job_id, udid=given.udid, action=given.action, expires_at=given.expires_at
            )
        )
    engine = Reconciler(fleet)
    engine._policy_override = ("drawn", s.policy)
    engine.recount_jobs()
    engine._site_jobs[s.site_name or ""] += s.site_open_jobs
    follow(engine, engine.reconcile(s.device.udid, s.now), s.now)
    return engine


def follow(engine: Reconciler, effects: Iterable[Effect], now: datetime) -> None:
    """Hand back all that follows, as a shell does."""
    for effect in effects:
        if isinstance(effect, EvaluationFailed):
            raise effect.error
        if isinstance(effect, DerivedEvent):
            follow(engine, engine.handle(effect.event, now), now)
        elif effect.job is not None:
            follow(engine, engine.handle(make.issued(effect.job), now), now)


def is_remembered(engine: Reconciler, decision: Decision) -> bool:
    """Whether this is the last decision of its Mac."""
    last = engine.last_decisions.get(decision.udid)
    return last is not None and last.fingerprint == fingerprint(decision)


def closed(decision: Decision) -> set[str]:
    return {gate.gate for gate in decision.gates if not gate.passed}


def enrolment(s: Situation) -> tuple[Reason, int | None] | None:
    need: Need | None = needs_reenrollment(s)
    return None if need is None else (need.reason, need.not_before_us)


@settings(max_examples=4 * settings.get_profile("default").max_examples)
@given(situations() | situations(worn=True), st.data())
def test_report_leads_to_the_decision_that_the_rules_give_then(
    s: Situation, data: st.DataObject
) -> None:
    udid, now, engine = s.device.udid, s.now, engine_for(s)
    first = engine.situation(udid, now)
    before = decide(first)
    assert is_remembered(engine, before)
    report = data.draw(
        reports((udid,)) | checkins((udid,))
        if s.device.is_partial
        else reports_without_news(first.device, now) | reports((udid,)) | checkins((udid,))
    )
    follow(engine, engine.handle(report, now), now)
    then = engine.situation(udid, now)
    fresh = decide(then)
    event(f"{before.reason} -> {fresh.reason}")
    if enrolment(first) != enrolment(then) or closed(fresh) - closed(before):
        return
    known = is_remembered(engine, fresh)
    if fresh.reason is before.reason and not known:
        known = is_remembered(engine, fresh.model_copy(update={"method": before.method}))
    assert known, report


HELD: list[tuple[Reason, dict[str, Any], dict[str, Any]]] = [
    (Reason.LOW_DISK, {"free_disk_gb": 1.0}, {"free_disk_gb": 100.0}),
    (Reason.LOW_POWER, {"on_ac_power": False, "battery_percent": 5.0}, {"battery_percent": 90.0}),
    (Reason.LOW_POWER, {"on_ac_power": False, "battery_percent": 5.0}, {"on_ac_power": True}),
    (Reason.STALE_INVENTORY, {"seen_at": make.NOW - 20 * make.DAY}, {}),
]


@pytest.mark.parametrize(("reason", "facts", "reported"), HELD)
def test_report_of_telemetry_alone_that_opens_a_gate_sends_the_job(
    reason: Reason, facts: dict[str, Any], reported: dict[str, Any]
) -> None:
    s = make.situation(make.mac(**facts))
    assert decide(s).reason is reason
    engine = engine_for(s)
    report = make.reported(s.device.udid, s.now, "osquery", **reported)
    follow(engine, engine.handle(report, s.now), s.now)
    assert [entry.action for entry in engine.fleet.job_histories[s.device.udid]] == ["update"]


def test_poll_of_an_enrolled_mac_opens_the_method_gate_whatever_the_first_method_lacks() -> None:
    """The first method lacks SSH for good; the second one waits for MDM alone."""
    methods = {"update": ["softwareupdate", "ddm"]}
    shut = {"london": {"time_zone": "Europe/London", "ssh": False}}
    s = make.situation(make.mac(enrolled=False), rules=make.policy(methods=methods, sites=shut))
    assert decide(s).reason is Reason.NO_METHOD
    engine = engine_for(s)
    follow(engine, engine.handle(make.polled(s.device.udid, s.now), s.now), s.now)
    assert [entry.method for entry in engine.fleet.job_histories[s.device.udid]] == ["ddm"]
