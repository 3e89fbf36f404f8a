"""After a report is folded, the last decision of its Mac is the one that the rules give now.

Three changes wait for the sweep, or for `next_eligible_at`, and are excepted here: a report without
news makes a need to reenroll begin or end (MDM becomes silent); a gate closes; only the method of a
need changes, which stays held for the same reason.
"""

from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pipeline.decide.decision import decide
from pipeline.decide.needs.enrollment import needs_reenrollment
from pipeline.decide.needs.need import Need
from pipeline.decide.situation import Situation
from pipeline.reconcile.last_decision import fingerprint
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.fleet import Fleet
from schemas.decisions import Decision, Reason
from tests import factories as make
from tests.reconcile_loop import accept, signed, sweep, values
from tests.strategies import checkins, reports, reports_without_news, situations


def reconciler_for(s: Situation) -> Reconciler:
    """Return a reconciler whose only Mac is in this Situation and has been decided."""
    fleet = Fleet(s.advisories)
    fleet.put(s.device)
    if s.job_history:
        fleet.job_histories[s.device.udid] = s.job_history
    for halt in s.halts:
        drawn = halt.scope
        scope = {"site": drawn.site, "action": drawn.action, "advisory": drawn.advisory_id}
        fleet.apply(make.halted(make.NOW, **scope, until=halt.until))
    for granted in s.approvals:
        given = granted.approval
        fleet.apply(
            make.granted(
                given.job_id, udid=given.udid, action=given.action, expires_at=given.expires_at
            )
        )
    reconciler = Reconciler(fleet, sign=signed)
    reconciler._in_force.override("drawn", s.policy)
    reconciler.recount_jobs()
    reconciler.capacity.site_jobs[s.site_name or ""] += s.site_open_jobs
    values(sweep(reconciler, s.now))
    return reconciler


def is_remembered(reconciler: Reconciler, decision: Decision) -> bool:
    """Return True if this is the last decision of its Mac."""
    last = reconciler.last_decisions.get(decision.udid)
    return last is not None and last.fingerprint == fingerprint(decision)


def closed(decision: Decision) -> set[str]:
    return {gate.gate for gate in decision.gates if not gate.passed}


def enrollment_need(s: Situation) -> tuple[Reason, int | None] | None:
    need: Need | None = needs_reenrollment(s)
    return None if need is None else (need.reason, need.not_before_us)


@settings(max_examples=4 * settings().max_examples)
@given(situations() | situations(worn=True), st.data())
def test_decision_after_a_report_is_the_one_that_the_rules_give(
    s: Situation, data: st.DataObject
) -> None:
    udid, now, reconciler = s.device.udid, s.now, reconciler_for(s)
    first = reconciler.situation(udid, now)
    before = decide(first)
    assert is_remembered(reconciler, before)
    report = data.draw(
        reports(())  # by serial number, as its UDID is unknown
        if s.device.is_partial
        else reports_without_news(first.device, now) | reports((udid,)) | checkins((udid,))
    )
    values(accept(reconciler, report, now))
    then = reconciler.situation(udid, now)
    fresh = decide(then)
    event(f"{before.reason} -> {fresh.reason}")
    if enrollment_need(first) != enrollment_need(then) or closed(fresh) - closed(before):
        return
    known = is_remembered(reconciler, fresh)
    if fresh.reason is before.reason and not known:
        known = is_remembered(reconciler, fresh.model_copy(update={"method": before.method}))
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
    reconciler = reconciler_for(s)
    report = make.reported(s.device.udid, s.now, "osquery", **reported)
    values(accept(reconciler, report, s.now))
    assert [entry.action for entry in reconciler.fleet.job_histories[s.device.udid]] == ["update"]


def test_mdm_poll_opens_the_method_gate_although_the_first_method_stays_blocked() -> None:
    """The first method stays blocked without SSH; the second one needs only MDM."""
    methods = {"update": ["softwareupdate", "ddm"]}
    shut = {"london": {"time_zone": "Europe/London", "ssh": False}}
    s = make.situation(make.mac(enrolled=False), rules=make.policy(methods=methods, sites=shut))
    assert decide(s).reason is Reason.NO_METHOD
    reconciler = reconciler_for(s)
    values(accept(reconciler, make.polled(s.device.udid, s.now), s.now))
    assert [entry.method for entry in reconciler.fleet.job_histories[s.device.udid]] == ["ddm"]


def test_contact_through_mdm_that_ends_an_enrollment_is_decided_at_once() -> None:
    """Its TokenUpdate was lost, and the decision waited for the time at which that is a fault."""
    s = make.situation(make.mac("26.2"))
    udid, reconciler = s.device.udid, reconciler_for(s)
    begun = s.now - make.HOUR  # as old as the Mac's newest fields
    values(accept(reconciler, make.enrolled(udid, begun)[0], s.now))
    waiting = decide(reconciler.situation(udid, s.now))
    assert waiting.next_eligible_at == begun + 4 * make.HOUR
    values(accept(reconciler, make.polled(udid, s.now), s.now))
    fresh = decide(reconciler.situation(udid, s.now))
    assert fresh.next_eligible_at is None
    assert is_remembered(reconciler, fresh)
