"""The reconciler: Macs that an event affects, effects of a decision, and counts."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.recomputation import recompute
from pipeline.policy.file import PolicyError
from pipeline.reconcile.reconciler import (
    Decided,
    DerivedEvent,
    Effect,
    EvaluationFailed,
    Reconciler,
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


def drive(reconciler: Reconciler, event: Event, now: datetime = NOW) -> list[Effect]:
    """Handle an event as a shell does; return its effects and those of all derived events."""
    return follow_effects(reconciler, reconciler.handle(event, now), now)


def follow_effects(
    reconciler: Reconciler, effects: Iterable[Effect], now: datetime = NOW
) -> list[Effect]:
    seen: list[Effect] = []
    for effect in effects:
        seen.append(effect)
        assert not isinstance(effect, EvaluationFailed), effect
        if isinstance(effect, DerivedEvent):
            seen += drive(reconciler, effect.event, now)
        elif effect.job is not None:
            seen += drive(reconciler, issued(effect.job), now)
    return seen


def started(*events: Event, text: str = POLICY_TEXT) -> Reconciler:
    reconciler = Reconciler()
    for event in (policy_changed(text), *(release(v) for v in RELEASES), *events):
        drive(reconciler, event)
    return reconciler


def effect_names(effects: list[Effect]) -> list[str]:
    return [
        f"{one.record.decision.decision} {one.record.decision.reason}"
        if isinstance(one, Decided)
        else one.event.type.removeprefix("drydock.")
        for one in effects
        if not isinstance(one, EvaluationFailed)
    ]


def a_mac(version: str = "26.1", udid: str = UDID, **facts: Any) -> list[Event]:
    """Return the events of a Mac that enrolled long ago and has just polled and reported."""
    serial = f"C02TEST000{udid[-1]}"
    return [*enrolled(udid), polled(udid), full_report(version, udid, serial=serial, **facts)]


def last_reason(reconciler: Reconciler, udid: str = UDID) -> Reason:
    return reconciler.last_decisions[udid].reason


def begin_job(reconciler: Reconciler, effects: list[Effect]) -> None:
    """Report that the executor has begun the one job that was sent."""
    (sent_job,) = [one.job for one in effects if isinstance(one, Decided) and one.job]
    drive(reconciler, resulted(sent_job, Outcome.STARTED, NOW))


def enrol(reconciler: Reconciler, when: datetime) -> list[str]:
    return effect_names(
        [effect for event in enrolled(UDID, when) for effect in drive(reconciler, event)]
    )


@pytest.mark.parametrize("fact", [{"identity_expires_at": NOW + DAY}, {"user_approved": False}])
def test_enrollment_defect_does_not_count_for_the_next_enrollment(fact: dict[str, Any]) -> None:
    reconciler = started(*a_mac("26.3"))
    begin_job(
        reconciler, drive(reconciler, full_report("26.3", when=NOW, serial="C02TEST0001", **fact))
    )
    assert enrol(reconciler, NOW + MINUTE)[-2:] == ["job.resulted.v1", "nothing compliant"]
    assert enrol(reconciler, NOW + 2 * MINUTE)[-1:] in (["nothing compliant"], [])


def test_report_from_a_clock_ahead_does_not_fulfil_a_later_job() -> None:
    """Only a report later than everything known when the job was issued can fulfil it."""
    reconciler = started(*a_mac("26.3"))
    fact: dict[str, Any] = {"user_approved": False}
    begin_job(
        reconciler, drive(reconciler, full_report("26.3", when=NOW, serial="C02TEST0001", **fact))
    )
    enrol(reconciler, NOW + MINUTE)
    effects = drive(reconciler, reported(UDID, NOW + MINUTE, "mdm", **fact))
    assert effect_names(effects) == ["send not_user_approved", "hold job_open"]
    begin_job(reconciler, effects)
    assert effect_names(drive(reconciler, polled(UDID, NOW + MINUTE))) == []
    assert [entry.is_open for entry in reconciler.fleet.job_histories[UDID]].count(True) == 1
    assert enrol(reconciler, NOW + 2 * MINUTE)[-2:] == ["job.resulted.v1", "nothing compliant"]


def test_nothing_is_decided_before_there_is_a_policy() -> None:
    reconciler = Reconciler()
    assert not any(drive(reconciler, event) for event in a_mac())
    effects = drive(reconciler, policy_changed())
    assert effect_names(effects) == ["nothing no_advisory"]


def test_an_advisory_sends_a_job_and_the_report_of_the_target_closes_it() -> None:
    reconciler = Reconciler()
    for event in (policy_changed(), release("26.1"), *a_mac()):
        drive(reconciler, event)
    assert effect_names(drive(reconciler, release("26.2"))) == [
        "send security_update",
        "hold job_open",
    ]
    assert reconciler.open_jobs["london", "update"] == 1
    assert reconciler.exposed["london", "high"] == 1
    entry = reconciler.fleet.job_histories[UDID][0]
    assert not entry.may_have_touched
    done = full_report("26.2", when=NOW + HOUR)
    assert effect_names(drive(reconciler, done, NOW + HOUR)) == [
        "job.resulted.v1",
        "nothing compliant",
    ]
    assert reconciler.fleet.job_histories[UDID][0].outcome is Outcome.SUCCEEDED
    assert not +reconciler.open_jobs
    assert not +reconciler.exposed


def test_a_repeated_event_has_no_effect() -> None:
    reconciler = started(*a_mac())
    for event in (release("26.2"), *a_mac(), policy_changed()):
        assert drive(reconciler, event) == []


def test_report_without_material_change_leads_to_no_decision() -> None:
    reconciler = started(*a_mac("26.2"))
    assert drive(reconciler, full_report("26.2", when=NOW, free_disk_gb=1.0)) == []


def test_held_mac_is_decided_when_its_telemetry_changes() -> None:
    reconciler = started(*a_mac(free_disk_gb=1.0))
    assert last_reason(reconciler) is Reason.LOW_DISK
    assert effect_names(drive(reconciler, full_report(when=NOW, free_disk_gb=100.0))) == [
        "send security_update",
        "hold job_open",
    ]


def test_a_newer_release_withdraws_the_job_and_sends_another() -> None:
    reconciler = started(*a_mac())
    effects = drive(reconciler, release("26.3", day="2026-01-10"))
    assert effect_names(effects)[0] == "job.superseded.v1"
    assert effect_names(effects)[-1] == "hold job_open"
    outcomes = {one.intent: one.outcome for one in reconciler.fleet.job_histories[UDID]}
    assert outcomes == {"26.2": Outcome.SUPERSEDED, "26.3": None}


def test_a_retracted_release_withdraws_its_job() -> None:
    reconciler = started(*a_mac())
    effects = drive(reconciler, retracted("26.2", first_seen_at=NOW))
    assert effect_names(effects) == ["job.superseded.v1", "nothing compliant"]


def test_a_begun_job_is_not_withdrawn() -> None:
    reconciler = started(*a_mac())
    sent_job = sent(reconciler)
    drive(reconciler, resulted(sent_job, Outcome.STARTED, NOW))
    assert effect_names(drive(reconciler, release("26.3", day="2026-01-10"))) == ["hold job_open"]


def sent(reconciler: Reconciler) -> Any:
    last = reconciler.fleet.job_histories[UDID][-1]
    return job(last.intent, generation=last.generation, issued_at=NOW, version="26.2")


def test_job_withdrawn_after_it_began_is_open_and_its_successor_is_superseded() -> None:
    reconciler = started(*a_mac())
    sent_job = sent(reconciler)
    drive(reconciler, release("26.3", day="2026-01-10"))
    effects = drive(reconciler, resulted(sent_job, Outcome.STARTED, NOW))
    assert effect_names(effects)[0] == "job.superseded.v1"
    is_open = {one.intent: one.is_open for one in reconciler.fleet.job_histories[UDID]}
    assert is_open == {"26.2": True, "26.3": False}


def test_a_job_that_was_never_begun_expires_and_is_sent_again() -> None:
    reconciler = started(*a_mac())
    ends_at = reconciler.next_due_at()
    assert ends_at == NOW + 3 * DAY
    assert effect_names(follow_effects(reconciler, reconciler.reconcile_due(ends_at), ends_at)) == [
        "job.resulted.v1",
        "hold cooling_down",
    ]
    again_at = reconciler.next_due_at()
    assert again_at == ends_at + 4 * HOUR
    effects = follow_effects(reconciler, reconciler.reconcile_due(again_at), again_at)
    assert effect_names(effects) == ["send security_update", "hold job_open"]
    assert [one.generation for one in reconciler.fleet.job_histories[UDID]] == [0, 1]


def test_a_job_that_was_lost_before_it_was_recorded_is_sent_again() -> None:
    reconciler = Reconciler()
    for event in (policy_changed(), release("26.2"), *a_mac()):
        list(reconciler.handle(event, NOW))  # a shell that crashes: no effect is handed back
    first = [one for one in reconciler.reconcile(UDID, NOW) if isinstance(one, Decided)]
    second = [one for one in reconciler.reconcile(UDID, NOW) if isinstance(one, Decided)]
    assert first[0].job == second[0].job
    assert first[0].job is not None


def test_free_capacity_goes_to_the_first_deadlines() -> None:
    reconciler = started(*a_mac("26.1", UDID), *a_mac("26.1", OTHER))
    for event in a_mac("26.1", THIRD):
        drive(reconciler, event)
    assert last_reason(reconciler, THIRD) is Reason.SITE_FULL
    sent_job = sent(reconciler)
    effects = drive(reconciler, resulted(sent_job, Outcome.FAILED, NOW, ErrorCode.NO_DISK_SPACE))
    assert effect_names(effects) == ["hold cooling_down", "send security_update", "hold job_open"]
    assert last_reason(reconciler, THIRD) is Reason.JOB_OPEN
    assert reconciler.open_jobs["london", "update"] == 2


def test_halt_holds_the_mac_until_it_is_cleared() -> None:
    reconciler = started(halted(when=NOW - DAY), *a_mac())
    assert last_reason(reconciler) is Reason.HALTED
    assert effect_names(drive(reconciler, halt_cleared())) == [
        "send security_update",
        "hold job_open",
    ]


def test_an_approval_sends_an_erase_and_a_denial_withdraws_it() -> None:
    reconciler = started(*a_mac("26.2", loan_returned_at=NOW - 2 * HOUR))
    assert last_reason(reconciler) is Reason.AWAITING_APPROVAL
    decision = decision_of(reconciler)
    assert decision.job_id is not None
    drive(reconciler, granted(decision.job_id, NOW - HOUR, udid=OTHER))
    assert last_reason(reconciler) is Reason.AWAITING_APPROVAL
    drive(reconciler, granted(decision.job_id, NOW))
    assert last_reason(reconciler) is Reason.JOB_OPEN
    early = started(*a_mac("26.2", loan_returned_at=NOW - 2 * HOUR))
    drive(early, denied(decision.job_id, when=NOW))
    drive(early, granted(decision.job_id, NOW - HOUR))
    assert last_reason(early) is Reason.AWAITING_APPROVAL


def decision_of(reconciler: Reconciler) -> Any:
    return decide(reconciler.situation(UDID, NOW))


def test_an_unreadable_policy_is_not_applied() -> None:
    reconciler = started(*a_mac())
    with pytest.raises(PolicyError):
        drive(reconciler, policy_changed("sites: nonsense", NOW))
    assert reconciler.policy is not None
    assert drive(reconciler, full_report(when=NOW)) == []


def test_a_record_that_becomes_part_of_a_mac_has_no_decision_of_its_own() -> None:
    alone = reported(None, NOW - 2 * HOUR, "jamf", serial="C02TEST0001", os_version="26.1")
    reconciler = started(alone)
    assert last_reason(reconciler, "serial:C02TEST0001") is Reason.UDID_UNKNOWN
    assert reconciler.exposed["london", "high"] == 1
    drive(reconciler, reported(UDID, NOW - HOUR, serial="C02TEST0001", site="london"))
    assert "serial:C02TEST0001" not in reconciler.last_decisions
    assert list(reconciler.fleet.macs()) == [UDID]
    assert sum(reconciler.exposed.values()) == 1
    assert str(reconciler.fleet.merged_device(UDID).os_version) == "26.1"


def test_an_advisory_affects_macs_whose_version_came_by_serial_number() -> None:
    alone = reported(None, NOW - 2 * HOUR, "jamf", serial="C02TEST0001", os_version="26.2")
    reconciler = started(alone, reported(UDID, NOW - HOUR, serial="C02TEST0001"))
    assert last_reason(reconciler) is Reason.COMPLIANT
    drive(reconciler, release("26.3", day="2026-01-10"))
    assert last_reason(reconciler) is not Reason.COMPLIANT


def test_results_and_approvals_for_unknown_macs_decide_nothing() -> None:
    reconciler = started()
    assert drive(reconciler, granted("job-1")) == []
    assert drive(reconciler, resulted(job(), Outcome.FAILED, NOW)) == []
    assert reconciler.last_decisions == {}


def test_one_macs_bug_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    reconciler = started(*a_mac(udid=UDID), *a_mac("26.2", udid=OTHER))
    plain = reconciler.situation

    def broken(udid: str, now: datetime) -> Any:
        if udid == UDID:
            raise ZeroDivisionError
        return plain(udid, now)

    monkeypatch.setattr(reconciler, "situation", broken)
    effects = list(reconciler.handle(release("26.3", day="2026-01-10"), NOW))
    assert [type(effect) for effect in effects] == [EvaluationFailed, Decided]


def test_a_restart_keeps_decisions_and_counts() -> None:
    reconciler = started(*a_mac(), *a_mac("26.2", OTHER))
    again = Reconciler(reconciler.fleet)
    again.recount_jobs()
    for udid, one in reconciler.last_decisions.items():
        again.restore(udid, one)
    assert again.open_jobs == reconciler.open_jobs
    assert +again.exposed == +reconciler.exposed
    assert again.next_due_at() == reconciler.next_due_at()
    assert list(again.sweep(NOW)) == []


def test_a_record_gives_its_decision_again() -> None:
    reconciler = Reconciler()
    for event in (policy_changed(), release("26.2"), *a_mac()):
        for effect in reconciler.handle(event, NOW):
            assert isinstance(effect, Decided)
            assert reconciler.policy is not None
            again = recompute(effect.record, reconciler.policy, reconciler.fleet.advisories)
            assert again == effect.record.decision


def test_decision_uses_the_overriding_policy() -> None:
    reconciler = started(*a_mac("15.7.3"))
    assert last_reason(reconciler) is Reason.COMPLIANT
    reconciler.override_policy(POLICY_TEXT + "upgrades: {to: '26'}\n")
    decision = decision_of(reconciler)
    assert (decision.decision, decision.reason) == (Verdict.SEND, Reason.POLICY_UPGRADE)


@pytest.mark.parametrize("serial_first", [True, False])
def test_newer_times_of_another_record_are_material(serial_first: bool) -> None:
    """Of two records of one Mac the newer value counts, although neither record changes its own."""
    alone = [
        reported(None, NOW - hours * HOUR, "jamf", serial="C02TEST0001", user_approved=False)
        for hours in (9, 3)
    ]
    own = [full_report("26.2", when=NOW - hours * HOUR) for hours in (6, 2)]
    events = [alone[0], own[0], alone[1], own[1]]
    if not serial_first:
        events[:2] = own[0], alone[0]
    reconciler = started(*enrolled(), polled())
    for event in events:
        follow_effects(reconciler, reconciler.handle(event, NOW))
        assert not list(reconciler.reconcile(UDID, NOW)), (
            "reconciling again finds a change that the event missed"
        )
