"""The reconciler: Macs that an event affects, consequences of a decision, and counts."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.recomputation import recompute
from pipeline.payload_signing import sign_approval
from pipeline.policy.file import PolicyError
from pipeline.reconcile.reconciler import Reconciler
from schemas.decisions import DecisionRecord, Reason, Verdict
from schemas.envelope import Event, JobIssuedEvent
from schemas.results import ErrorCode, Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    POLICY_TEXT,
    RELEASES,
    UDID,
    checked_out,
    denied,
    enrolled,
    full_report,
    granted,
    halt_cleared,
    halted,
    job,
    policy_changed,
    polled,
    release,
    reported,
    resulted,
    retracted,
)
from tests.factories.sites import APPROVALS_KEY
from tests.reconcile_loop import accept, advance, inputs, new_reconciler, signed, sweep, values

MINUTE = timedelta(minutes=1)
OTHER, THIRD = UDID[:-1] + "2", UDID[:-1] + "3"


Value = DecisionRecord | Event


def drive(reconciler: Reconciler, event: Event, now: datetime = NOW) -> list[Value]:
    """Accept an event as a shell does; return its decisions and derived events in order."""
    return values(accept(reconciler, event, now))


def started(*events: Event, text: str = POLICY_TEXT) -> Reconciler:
    reconciler = new_reconciler()
    for event in (policy_changed(text), *(release(v) for v in RELEASES), *events):
        drive(reconciler, event)
    return reconciler


def names_of(found: list[Value]) -> list[str]:
    """Return decisions as `verdict reason`, and events except issued jobs as their types."""
    return [
        f"{one.decision.decision} {one.decision.reason}"
        if isinstance(one, DecisionRecord)
        else one.type.removeprefix("drydock.")
        for one in found
        if not isinstance(one, JobIssuedEvent)
    ]


def a_mac(version: str = "26.1", udid: str = UDID, **facts: Any) -> list[Event]:
    """Return the events of a Mac that enrolled long ago and has just polled and reported."""
    serial = f"C02TEST000{udid[-1]}"
    return [*enrolled(udid), polled(udid), full_report(version, udid, serial=serial, **facts)]


def approved(job_id: str, when: datetime = NOW, *, udid: str = UDID) -> Event:
    """Return an approval that the trusted key of the tests signed."""
    event = granted(job_id, when, udid=udid)
    signed_data = sign_approval(event.data.approval, APPROVALS_KEY)
    return event.model_copy(update={"data": signed_data})


def last_reason(reconciler: Reconciler, udid: str = UDID) -> Reason:
    return reconciler.last_decisions[udid].reason


def begin_job(reconciler: Reconciler, found: list[Value]) -> None:
    """Report that the executor has begun the one job that was sent."""
    (sent_job,) = [one.data.job for one in found if isinstance(one, JobIssuedEvent)]
    drive(reconciler, resulted(sent_job, Outcome.STARTED, NOW))


def enroll(reconciler: Reconciler, when: datetime) -> list[str]:
    return names_of([one for event in enrolled(UDID, when) for one in drive(reconciler, event)])


@pytest.mark.parametrize("fact", [{"identity_expires_at": NOW + DAY}, {"user_approved": False}])
def test_enrollment_defect_does_not_count_for_the_next_enrollment(fact: dict[str, Any]) -> None:
    reconciler = started(*a_mac("26.3"))
    begin_job(
        reconciler, drive(reconciler, full_report("26.3", when=NOW, serial="C02TEST0001", **fact))
    )
    assert enroll(reconciler, NOW + MINUTE)[-2:] == ["job.resulted.v1", "nothing uncertain"]
    assert enroll(reconciler, NOW + 2 * MINUTE)[-1:] in (["nothing uncertain"], [])


def test_report_from_a_clock_ahead_does_not_fulfil_a_later_job() -> None:
    """Only a report later than everything known when the job was issued can fulfil it."""
    reconciler = started(*a_mac("26.3"))
    fact: dict[str, Any] = {"user_approved": False}
    begin_job(
        reconciler, drive(reconciler, full_report("26.3", when=NOW, serial="C02TEST0001", **fact))
    )
    enroll(reconciler, NOW + MINUTE)
    found = drive(reconciler, reported(UDID, NOW + MINUTE, "mdm", **fact))
    assert names_of(found) == ["send not_user_approved", "hold job_open"]
    begin_job(reconciler, found)
    assert names_of(drive(reconciler, polled(UDID, NOW + MINUTE))) == []
    assert [entry.is_open for entry in reconciler.fleet.job_histories[UDID]].count(True) == 1
    assert enroll(reconciler, NOW + 2 * MINUTE)[-2:] == ["job.resulted.v1", "nothing uncertain"]


def test_nothing_is_decided_before_there_is_a_policy() -> None:
    reconciler = new_reconciler()
    assert not any(drive(reconciler, event) for event in a_mac())
    found = drive(reconciler, policy_changed())
    assert names_of(found) == ["nothing no_advisory"]


def test_an_advisory_sends_a_job_and_the_report_of_the_target_closes_it() -> None:
    reconciler = new_reconciler()
    for event in (policy_changed(), release("26.1"), *a_mac()):
        drive(reconciler, event)
    assert names_of(drive(reconciler, release("26.2"))) == [
        "send security_update",
        "hold job_open",
    ]
    assert reconciler.open_jobs["london", "update"] == 1
    assert reconciler.exposed["london", "high"] == 1
    entry = reconciler.fleet.job_histories[UDID][0]
    assert not entry.may_have_touched
    done = full_report("26.2", when=NOW + HOUR)
    assert names_of(drive(reconciler, done, NOW + HOUR)) == [
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
    assert names_of(drive(reconciler, full_report(when=NOW, free_disk_gb=100.0))) == [
        "send security_update",
        "hold job_open",
    ]


def test_a_newer_release_withdraws_a_declared_update_once_and_follows_its_end() -> None:
    reconciler = started(*a_mac("26.2"))
    older, newer = (release(one, day="2026-01-10") for one in ("26.3", "26.4"))
    sent = drive(reconciler, older)
    begin_job(reconciler, sent)
    (job,) = [one.data.job for one in sent if isinstance(one, JobIssuedEvent)]
    found = drive(reconciler, newer)
    assert names_of(found) == ["job.superseded.v1", "hold job_open"]
    assert drive(reconciler, full_report("26.2", when=NOW + MINUTE, free_disk_gb=99.0)) == []
    assert [one.is_open for one in reconciler.fleet.job_histories[UDID]] == [True]
    ended = resulted(job, Outcome.SUPERSEDED, NOW + MINUTE, ErrorCode.SUPERSEDED)
    assert names_of(drive(reconciler, ended))[0] == "send security_update"
    outcomes = {one.intent: one.outcome for one in reconciler.fleet.job_histories[UDID]}
    assert outcomes == {"26.3": Outcome.SUPERSEDED, "26.4": None}


def test_a_newer_release_withdraws_the_job_and_sends_another() -> None:
    reconciler = started(*a_mac())
    found = drive(reconciler, release("26.3", day="2026-01-10"))
    assert names_of(found)[0] == "job.superseded.v1"
    assert names_of(found)[-1] == "hold job_open"
    outcomes = {one.intent: one.outcome for one in reconciler.fleet.job_histories[UDID]}
    assert outcomes == {"26.2": Outcome.SUPERSEDED, "26.3": None}


def test_a_retracted_release_withdraws_its_job() -> None:
    reconciler = started(*a_mac())
    found = drive(reconciler, retracted("26.2", first_seen_at=NOW))
    assert names_of(found) == ["job.superseded.v1", "nothing compliant"]


def test_a_begun_job_is_not_withdrawn() -> None:
    reconciler = started(*a_mac(supervised=False))
    sent_job = sent(reconciler)
    drive(reconciler, resulted(sent_job, Outcome.STARTED, NOW))
    assert names_of(drive(reconciler, release("26.3", day="2026-01-10"))) == ["hold job_open"]


def sent(reconciler: Reconciler) -> Any:
    last = reconciler.fleet.job_histories[UDID][-1]
    return job(last.intent, generation=last.generation, issued_at=NOW, version="26.2")


def test_job_withdrawn_after_it_began_is_open_and_its_successor_is_superseded() -> None:
    reconciler = started(*a_mac())
    sent_job = sent(reconciler)
    drive(reconciler, release("26.3", day="2026-01-10"))
    found = drive(reconciler, resulted(sent_job, Outcome.STARTED, NOW))
    assert names_of(found)[0] == "job.superseded.v1"
    is_open = {one.intent: one.is_open for one in reconciler.fleet.job_histories[UDID]}
    assert is_open == {"26.2": True, "26.3": False}


def test_a_job_that_was_never_begun_expires_and_is_sent_again() -> None:
    reconciler = started(*a_mac())
    ends_at = reconciler.next_due_at(NOW)
    assert ends_at == NOW + 3 * DAY
    assert names_of(values(advance(reconciler, ends_at))) == [
        "job.resulted.v1",
        "hold cooling_down",
    ]
    again_at = reconciler.next_due_at(ends_at)
    assert again_at is not None
    assert again_at == ends_at + 4 * HOUR
    found = values(advance(reconciler, again_at))
    assert names_of(found) == ["send security_update", "hold job_open"]
    assert [one.generation for one in reconciler.fleet.job_histories[UDID]] == [0, 1]


def test_a_job_that_is_in_no_history_was_lost_and_is_sent_again() -> None:
    reconciler = started(*a_mac())
    first = reconciler.fleet.job_histories.pop(UDID)
    reconciler.recount_jobs()
    found = values(sweep(reconciler, NOW))
    assert names_of(found) == ["send security_update", "hold job_open"]
    assert reconciler.fleet.job_histories[UDID] == first


def test_free_capacity_goes_to_the_first_deadlines() -> None:
    reconciler = started(*a_mac("26.1", UDID), *a_mac("26.1", OTHER))
    for event in a_mac("26.1", THIRD):
        drive(reconciler, event)
    assert last_reason(reconciler, THIRD) is Reason.SITE_FULL
    sent_job = sent(reconciler)
    found = drive(reconciler, resulted(sent_job, Outcome.FAILED, NOW, ErrorCode.NO_DISK_SPACE))
    assert names_of(found) == ["hold cooling_down", "send security_update", "hold job_open"]
    assert last_reason(reconciler, THIRD) is Reason.JOB_OPEN
    assert reconciler.open_jobs["london", "update"] == 2


@pytest.mark.parametrize(
    ("event", "ended"),
    [
        pytest.param(
            full_report("26.2", when=NOW + HOUR, serial="C02TEST0001"),
            "job.resulted.v1",
            id="success",
        ),
        pytest.param(checked_out(when=NOW + HOUR), "job.superseded.v1", id="withdrawal"),
    ],
)
def test_capacity_of_a_job_that_the_loop_ends_goes_to_the_next_mac(
    event: Event, ended: str
) -> None:
    reconciler = started(text=POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 1"))
    for one in (*a_mac("26.1", UDID), *a_mac("26.1", OTHER)):
        drive(reconciler, one)
    assert last_reason(reconciler, OTHER) is Reason.SITE_FULL
    found = names_of(drive(reconciler, event, NOW + HOUR))
    assert found[0] == ended
    assert found[-2:] == ["send security_update", "hold job_open"]
    assert last_reason(reconciler, OTHER) is Reason.JOB_OPEN


def test_job_that_uses_no_capacity_leaves_it_to_the_next_mac() -> None:
    """The first waiting Mac needs an enrollment by the time that capacity is free."""
    reconciler = started(text=POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 1"))
    for event in (*a_mac("26.1", UDID), *a_mac("26.1", OTHER), *a_mac("26.1", THIRD)):
        drive(reconciler, event)
    assert last_reason(reconciler, OTHER) is last_reason(reconciler, THIRD) is Reason.SITE_FULL
    fails = resulted(sent(reconciler), Outcome.FAILED, NOW, ErrorCode.NO_DISK_SPACE)
    defect = full_report(when=NOW, udid=OTHER, serial="C02TEST0002", user_approved=False)
    batch = reconciler.apply(inputs(fails, defect), NOW)
    values(reconciler.decide_marked(NOW, 0, batch))
    assert +reconciler.open_jobs == {("london", "reenroll"): 1, ("london", "update"): 1}
    assert last_reason(reconciler, THIRD) is Reason.JOB_OPEN


def test_halt_holds_the_mac_until_it_is_cleared() -> None:
    reconciler = started(halted(when=NOW - DAY), *a_mac())
    assert last_reason(reconciler) is Reason.HALTED
    assert names_of(drive(reconciler, halt_cleared())) == [
        "send security_update",
        "hold job_open",
    ]


def test_an_approval_sends_an_erase_and_a_denial_withdraws_it() -> None:
    reconciler = started(*a_mac("26.2", loan_returned_at=NOW - 2 * HOUR))
    assert last_reason(reconciler) is Reason.AWAITING_APPROVAL
    decision = decision_of(reconciler)
    assert decision.job_id is not None
    drive(reconciler, approved(decision.job_id, NOW - HOUR, udid=OTHER))
    assert last_reason(reconciler) is Reason.AWAITING_APPROVAL
    drive(reconciler, approved(decision.job_id, NOW))
    assert last_reason(reconciler) is Reason.JOB_OPEN
    early = started(*a_mac("26.2", loan_returned_at=NOW - 2 * HOUR))
    drive(early, denied(decision.job_id, when=NOW))
    drive(early, approved(decision.job_id, NOW - HOUR))
    assert last_reason(early) is Reason.AWAITING_APPROVAL


def decision_of(reconciler: Reconciler) -> Any:
    return decide(reconciler.situation(UDID, NOW))


def test_an_unreadable_policy_is_not_applied() -> None:
    reconciler = started(*a_mac())
    with pytest.raises(PolicyError):
        reconciler.fold(policy_changed("sites: nonsense", NOW))
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
    assert drive(reconciler, approved("job-1")) == []
    assert drive(reconciler, resulted(job(), Outcome.FAILED, NOW)) == []
    assert reconciler.last_decisions == {}


def test_a_restart_keeps_decisions_and_counts() -> None:
    reconciler = started(*a_mac(), *a_mac("26.2", OTHER))
    again = Reconciler(reconciler.fleet, sign=signed)
    again.recount_jobs()
    for udid, one in reconciler.last_decisions.items():
        again.restore(udid, one)
    assert again.open_jobs == reconciler.open_jobs
    assert +again.exposed == +reconciler.exposed
    assert again.next_due_at(NOW) == reconciler.next_due_at(NOW)
    assert values(sweep(again, NOW)) == []


def test_a_record_gives_its_decision_again() -> None:
    reconciler = new_reconciler()
    for event in (policy_changed(), release("26.2"), *a_mac()):
        for record in accept(reconciler, event, NOW).decisions:
            assert reconciler.policy is not None
            again = recompute(record, reconciler.policy, reconciler.fleet.advisories)
            assert again == record.decision


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
        drive(reconciler, event)
        missed = values(sweep(reconciler, NOW))
        assert missed == [], "a sweep finds a change that the event missed"
