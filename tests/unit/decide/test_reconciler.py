"""The loop: who is looked at again, what follows, what is counted."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.policy_file import PolicyError
from pipeline.decide.reconciler import (
    Decided,
    DerivedEvent,
    Effect,
    EvaluationFailed,
    Reconciler,
    recompute,
)
from schemas.decisions import Reason, Verdict
from schemas.envelope import Event
from schemas.results import ErrorCode, Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    POLICY_TEXT,
    RELEASES,
    UDID,
    denied,
    enrolled,
    full_report,
    granted,
    halt_cleared,
    halted,
    issued,
    job,
    policy_changed,
    polled,
    release,
    reported,
    resulted,
    retracted,
)

MINUTE = timedelta(minutes=1)
OTHER, THIRD = UDID[:-1] + "2", UDID[:-1] + "3"


def drive(engine: Reconciler, event: Event, now: datetime = NOW) -> list[Effect]:
    """Hand an event over as a shell does; all effects, those of what followed included."""
    return follow_effects(engine, engine.handle(event, now), now)


def follow_effects(
    engine: Reconciler, effects: Iterable[Effect], now: datetime = NOW
) -> list[Effect]:
    seen: list[Effect] = []
    for effect in effects:
        seen.append(effect)
        assert not isinstance(effect, EvaluationFailed), effect
        if isinstance(effect, DerivedEvent):
            seen += drive(engine, effect.event, now)
        elif effect.job is not None:
            seen += drive(engine, issued(effect.job), now)
    return seen


def started(*events: Event, text: str = POLICY_TEXT) -> Reconciler:
    engine = Reconciler()
    for event in (policy_changed(text), *(release(v) for v in RELEASES), *events):
        drive(engine, event)
    return engine


def effect_names(effects: list[Effect]) -> list[str]:
    return [
        f"{one.record.decision.decision} {one.record.decision.reason}"
        if isinstance(one, Decided)
        else one.event.type.removeprefix("drydock.")
        for one in effects
        if not isinstance(one, EvaluationFailed)
    ]


def a_mac(version: str = "26.1", udid: str = UDID, **facts: Any) -> list[Event]:
    """A Mac that enrolled long ago and has just polled and reported."""
    serial = f"C02TEST000{udid[-1]}"
    return [*enrolled(udid), polled(udid), full_report(version, udid, serial=serial, **facts)]


def last_reason(engine: Reconciler, udid: str = UDID) -> Reason:
    return engine.last_decisions[udid].reason


def begun(engine: Reconciler, effects: list[Effect]) -> None:
    """The executor is at the Mac with the job that was ordered."""
    (ordered,) = [one.job for one in effects if isinstance(one, Decided) and one.job]
    drive(engine, resulted(ordered, Outcome.STARTED, NOW))


def enrol(engine: Reconciler, when: datetime) -> list[str]:
    return effect_names(
        [effect for event in enrolled(UDID, when) for effect in drive(engine, event)]
    )


@pytest.mark.parametrize("fact", [{"identity_expires_at": NOW + DAY}, {"user_approved": False}])
def test_what_was_known_of_an_enrolment_is_not_asked_of_the_next(fact: dict[str, Any]) -> None:
    engine = started(*a_mac("26.3"))
    begun(engine, drive(engine, full_report("26.3", when=NOW, serial="C02TEST0001", **fact)))
    assert enrol(engine, NOW + MINUTE)[-2:] == ["job.resulted.v1", "nothing compliant"]
    assert enrol(engine, NOW + 2 * MINUTE)[-1:] in (["nothing compliant"], [])


def test_a_servers_clock_that_is_ahead_shows_no_job_done_that_was_not_begun() -> None:
    """Only what is told of a later moment than any that was known when it was ordered does."""
    engine = started(*a_mac("26.3"))
    fact: dict[str, Any] = {"user_approved": False}
    begun(engine, drive(engine, full_report("26.3", when=NOW, serial="C02TEST0001", **fact)))
    enrol(engine, NOW + MINUTE)
    again = drive(engine, reported(UDID, NOW + MINUTE, "mdm", **fact))
    assert effect_names(again) == ["send not_user_approved", "hold job_open"]
    begun(engine, again)
    assert effect_names(drive(engine, polled(UDID, NOW + MINUTE))) == []
    assert [entry.is_open for entry in engine.fleet.job_histories[UDID]].count(True) == 1
    assert enrol(engine, NOW + 2 * MINUTE)[-2:] == ["job.resulted.v1", "nothing compliant"]


def test_nothing_is_decided_before_there_is_a_policy() -> None:
    engine = Reconciler()
    assert not any(drive(engine, event) for event in a_mac())
    effects = drive(engine, policy_changed())
    assert effect_names(effects) == ["nothing no_advisory"]


def test_an_advisory_sends_a_job_and_the_report_of_the_target_closes_it() -> None:
    engine = Reconciler()
    for event in (policy_changed(), release("26.1"), *a_mac()):
        drive(engine, event)
    assert effect_names(drive(engine, release("26.2"))) == ["send security_update", "hold job_open"]
    assert engine.open_jobs["london", "update"] == 1
    assert engine.exposed["london", "high"] == 1
    order = engine.fleet.job_histories[UDID][0]
    assert not order.may_have_touched
    done = full_report("26.2", when=NOW + HOUR)
    assert effect_names(drive(engine, done, NOW + HOUR)) == [
        "job.resulted.v1",
        "nothing compliant",
    ]
    assert engine.fleet.job_histories[UDID][0].outcome is Outcome.SUCCEEDED
    assert not +engine.open_jobs
    assert not +engine.exposed


def test_a_repeated_event_has_no_effect() -> None:
    engine = started(*a_mac())
    for event in (release("26.2"), *a_mac(), policy_changed()):
        assert drive(engine, event) == []


def test_a_report_without_news_is_not_decided_on() -> None:
    engine = started(*a_mac("26.2"))
    assert drive(engine, full_report("26.2", when=NOW, free_disk_gb=1.0)) == []


def test_a_held_mac_is_decided_on_when_its_telemetry_changes() -> None:
    engine = started(*a_mac(free_disk_gb=1.0))
    assert last_reason(engine) is Reason.LOW_DISK
    assert effect_names(drive(engine, full_report(when=NOW, free_disk_gb=100.0))) == [
        "send security_update",
        "hold job_open",
    ]


def test_a_newer_release_withdraws_the_job_and_sends_another() -> None:
    engine = started(*a_mac())
    effects = drive(engine, release("26.3", day="2026-01-10"))
    assert effect_names(effects)[0] == "job.superseded.v1"
    assert effect_names(effects)[-1] == "hold job_open"
    outcomes = {one.intent: one.outcome for one in engine.fleet.job_histories[UDID]}
    assert outcomes == {"26.2": Outcome.SUPERSEDED, "26.3": None}


def test_a_retracted_release_withdraws_its_job() -> None:
    engine = started(*a_mac())
    effects = drive(engine, retracted("26.2", heard_at=NOW))
    assert effect_names(effects) == ["job.superseded.v1", "nothing compliant"]


def test_a_begun_job_is_not_withdrawn() -> None:
    engine = started(*a_mac())
    order = sent(engine)
    drive(engine, resulted(order, Outcome.STARTED, NOW))
    assert effect_names(drive(engine, release("26.3", day="2026-01-10"))) == ["hold job_open"]


def sent(engine: Reconciler) -> Any:
    last = engine.fleet.job_histories[UDID][-1]
    return job(last.intent, generation=last.generation, issued_at=NOW, version="26.2")


def test_a_job_that_had_begun_when_it_was_withdrawn_is_open_and_its_successor_goes() -> None:
    engine = started(*a_mac())
    order = sent(engine)
    drive(engine, release("26.3", day="2026-01-10"))
    effects = drive(engine, resulted(order, Outcome.STARTED, NOW))
    assert effect_names(effects)[0] == "job.superseded.v1"
    is_open = {one.intent: one.is_open for one in engine.fleet.job_histories[UDID]}
    assert is_open == {"26.2": True, "26.3": False}


def test_a_job_nobody_began_expires_by_itself_and_is_sent_again() -> None:
    engine = started(*a_mac())
    ends_at = engine.next_due_at()
    assert ends_at == NOW + 3 * DAY
    assert effect_names(follow_effects(engine, engine.reconcile_due(ends_at), ends_at)) == [
        "job.resulted.v1",
        "hold cooling_down",
    ]
    again_at = engine.next_due_at()
    assert again_at == ends_at + 4 * HOUR
    effects = follow_effects(engine, engine.reconcile_due(again_at), again_at)
    assert effect_names(effects) == ["send security_update", "hold job_open"]
    assert [one.generation for one in engine.fleet.job_histories[UDID]] == [0, 1]


def test_a_job_that_was_lost_before_it_was_recorded_is_ordered_again() -> None:
    engine = Reconciler()
    for event in (policy_changed(), release("26.2"), *a_mac()):
        list(engine.handle(event, NOW))  # a shell that dies: nothing is handed back
    first = [one for one in engine.reconcile(UDID, NOW) if isinstance(one, Decided)]
    second = [one for one in engine.reconcile(UDID, NOW) if isinstance(one, Decided)]
    assert first[0].job == second[0].job
    assert first[0].job is not None


def test_slots_go_to_the_first_deadlines_when_one_is_free() -> None:
    engine = started(*a_mac("26.1", UDID), *a_mac("26.1", OTHER))
    for event in a_mac("26.1", THIRD):
        drive(engine, event)
    assert last_reason(engine, THIRD) is Reason.SITE_FULL
    order = sent(engine)
    effects = drive(engine, resulted(order, Outcome.FAILED, NOW, ErrorCode.NO_DISK_SPACE))
    assert effect_names(effects) == ["hold cooling_down", "send security_update", "hold job_open"]
    assert last_reason(engine, THIRD) is Reason.JOB_OPEN
    assert engine.open_jobs["london", "update"] == 2


def test_a_halt_holds_everything_and_its_end_lets_it_go() -> None:
    engine = started(halted(when=NOW - DAY), *a_mac())
    assert last_reason(engine) is Reason.HALTED
    assert effect_names(drive(engine, halt_cleared())) == ["send security_update", "hold job_open"]


def test_an_approval_lets_an_erase_go_and_a_denial_takes_it_back() -> None:
    engine = started(*a_mac("26.2", loan_returned_at=NOW - 2 * HOUR))
    assert last_reason(engine) is Reason.AWAITING_APPROVAL
    decision = decision_of(engine)
    assert decision.job_id is not None
    drive(engine, granted(decision.job_id, NOW - HOUR, udid=OTHER))
    assert last_reason(engine) is Reason.AWAITING_APPROVAL
    drive(engine, granted(decision.job_id, NOW))
    assert last_reason(engine) is Reason.JOB_OPEN
    early = started(*a_mac("26.2", loan_returned_at=NOW - 2 * HOUR))
    drive(early, denied(decision.job_id, when=NOW))
    drive(early, granted(decision.job_id, NOW - HOUR))
    assert last_reason(early) is Reason.AWAITING_APPROVAL


def decision_of(engine: Reconciler) -> Any:
    return decide(engine.situation(UDID, NOW))


def test_an_unreadable_policy_is_not_applied() -> None:
    engine = started(*a_mac())
    with pytest.raises(PolicyError):
        drive(engine, policy_changed("sites: nonsense", NOW))
    assert engine.policy is not None
    assert drive(engine, full_report(when=NOW)) == []


def test_a_record_that_becomes_part_of_a_mac_has_no_decision_of_its_own() -> None:
    alone = reported(None, NOW - 2 * HOUR, "jamf", serial="C02TEST0001", os_version="26.1")
    engine = started(alone)
    assert last_reason(engine, "serial:C02TEST0001") is Reason.UDID_UNKNOWN
    assert engine.exposed["london", "high"] == 1
    drive(engine, reported(UDID, NOW - HOUR, serial="C02TEST0001", site="london"))
    assert "serial:C02TEST0001" not in engine.last_decisions
    assert list(engine.fleet.macs()) == [UDID]
    assert sum(engine.exposed.values()) == 1
    assert str(engine.fleet.merged_device(UDID).os_version) == "26.1"


def test_an_advisory_affects_macs_whose_version_came_by_serial_number() -> None:
    alone = reported(None, NOW - 2 * HOUR, "jamf", serial="C02TEST0001", os_version="26.2")
    engine = started(alone, reported(UDID, NOW - HOUR, serial="C02TEST0001"))
    assert last_reason(engine) is Reason.COMPLIANT
    drive(engine, release("26.3", day="2026-01-10"))
    assert last_reason(engine) is not Reason.COMPLIANT


def test_results_and_approvals_for_unknown_macs_decide_nothing() -> None:
    engine = started()
    assert drive(engine, granted("job-1")) == []
    assert drive(engine, resulted(job(), Outcome.FAILED, NOW)) == []
    assert engine.last_decisions == {}


def test_one_macs_bug_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = started(*a_mac(udid=UDID), *a_mac("26.2", udid=OTHER))
    plain = engine.situation

    def broken(udid: str, now: datetime) -> Any:
        if udid == UDID:
            raise ZeroDivisionError
        return plain(udid, now)

    monkeypatch.setattr(engine, "situation", broken)
    effects = list(engine.handle(release("26.3", day="2026-01-10"), NOW))
    assert [type(effect) for effect in effects] == [EvaluationFailed, Decided]


def test_a_restart_keeps_decisions_and_counts() -> None:
    engine = started(*a_mac(), *a_mac("26.2", OTHER))
    again = Reconciler(engine.fleet)
    again.recount_jobs()
    for udid, one in engine.last_decisions.items():
        again.restore(udid, one)
    assert again.open_jobs == engine.open_jobs
    assert +again.exposed == +engine.exposed
    assert again.next_due_at() == engine.next_due_at()
    assert list(again.sweep(NOW)) == []


def test_a_record_gives_its_decision_again() -> None:
    engine = Reconciler()
    for event in (policy_changed(), release("26.2"), *a_mac()):
        for effect in engine.handle(event, NOW):
            assert isinstance(effect, Decided)
            assert engine.policy is not None
            again = recompute(effect.record, engine.policy, engine.fleet.advisories)
            assert again == effect.record.decision


def test_another_policy_can_be_decided_under() -> None:
    engine = started(*a_mac("15.7.3"))
    assert last_reason(engine) is Reason.COMPLIANT
    engine.override_policy(POLICY_TEXT + "upgrades: {to: '26'}\n")
    decision = decision_of(engine)
    assert (decision.decision, decision.reason) == (Verdict.SEND, Reason.POLICY_UPGRADE)


@pytest.mark.parametrize("serial_first", [True, False])
def test_newer_times_of_another_record_are_news(serial_first: bool) -> None:
    """Of a Mac with two records the newer one's word counts, though neither says a new one."""
    alone = [
        reported(None, NOW - hours * HOUR, "jamf", serial="C02TEST0001", user_approved=False)
        for hours in (9, 3)
    ]
    own = [full_report("26.2", when=NOW - hours * HOUR) for hours in (6, 2)]
    events = [alone[0], own[0], alone[1], own[1]]
    if not serial_first:
        events[:2] = own[0], alone[0]
    engine = started(*enrolled(), polled())
    for event in events:
        follow_effects(engine, engine.handle(event, NOW))
        assert not list(engine.reconcile(UDID, NOW)), "a look finds what the event should have told"
