"""`apply`, `decide_marked` and `advance`: marks, batches, limits, rejections, rollback."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pipeline.reconcile.changes import Changes, JobProgress
from pipeline.reconcile.marking import Marking
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import Device
from pipeline.state.fleet import Fleet
from schemas.dead_letters import DeadLetterCode
from schemas.decisions import Reason
from schemas.envelope import Event, JobIssuedEvent, encode
from schemas.jobs import Action, Method
from schemas.results import Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    enrolled,
    full_report,
    granted,
    halted,
    issued,
    job,
    policy_changed,
    polled,
    release,
    reported,
    resulted,
)
from tests.reconcile_loop import UNLIMITED, accept, inputs, new_reconciler

OTHER, THIRD = UDID[:-1] + "2", UDID[:-1] + "3"


def a_mac(version: str = "26.1", udid: str = UDID, **fields: Any) -> list[Event]:
    serial = f"C02TEST000{udid[-1]}"
    return [*enrolled(udid), polled(udid), full_report(version, udid, serial=serial, **fields)]


def started(*events: Event) -> Reconciler:
    reconciler = new_reconciler()
    for event in (policy_changed(), release("26.1"), release("26.2"), *events):
        accept(reconciler, event, NOW)
    return reconciler


def decided(changes: Changes) -> list[tuple[str, Reason]]:
    return [(one.decision.udid, one.decision.reason) for one in changes.decisions]


def test_apply_marks_and_does_not_decide() -> None:
    reconciler = started()
    changes = reconciler.apply(inputs(*a_mac()), NOW)
    assert changes.decisions == []
    assert list(changes.marked) == [UDID]
    assert reconciler.queue.is_undecided(UDID)
    assert reconciler.next_due_at(NOW) == NOW
    changes = reconciler.decide_marked(NOW, 0)
    assert decided(changes) == [(UDID, Reason.SECURITY_UPDATE), (UDID, Reason.JOB_OPEN)]
    assert not reconciler.queue.is_undecided(UDID)


def test_a_mac_is_decided_once_for_all_inputs_of_a_batch() -> None:
    reconciler = started()
    changes = reconciler.apply(inputs(*a_mac(), *a_mac("26.2", OTHER)), NOW)
    reconciler.decide_marked(NOW, 0, changes)
    assert [udid for udid, _ in decided(changes)] == [UDID, UDID, OTHER]
    assert len(changes.inputs) == 8


def test_records_are_in_the_order_of_their_making_and_follow_the_inputs() -> None:
    reconciler = started(*a_mac())
    done = full_report("26.2", when=NOW + HOUR, serial="C02TEST0001")
    changes = reconciler.apply(inputs(done), NOW + HOUR)
    reconciler.decide_marked(NOW + HOUR, 0, changes)
    kinds = [type(one.value).__name__ for one in changes.records]
    assert kinds == ["JobResultedEvent", "DecisionRecord"]
    assert [one.event for one in changes.inputs] == [done]
    assert changes.results == [
        JobProgress(Action.UPDATE, Outcome.SUCCEEDED, "london", Method.DDM, None)
    ]
    assert changes.durations == [("update", HOUR.total_seconds())]
    assert [one.job.site for one in changes.job_changes] == ["london"]
    assert list(changes.job_histories) == [UDID]


def test_a_broadcast_is_decided_within_the_limit_and_the_rest_by_advance() -> None:
    reconciler = started(*a_mac(udid=UDID), *a_mac(udid=OTHER), *a_mac(udid=THIRD))
    changes = reconciler.apply(inputs(halted(NOW - DAY)), NOW)
    assert changes.marked == {}
    assert list(changes.broadcast) == ["halts"]
    reconciler.decide_marked(NOW, 2, changes)
    assert reconciler.queue.has_due(NOW)
    assert reconciler.next_due_at(NOW) == NOW
    assert not reconciler.queue.is_undecided(THIRD)
    later = reconciler.advance(NOW, 2)
    assert {udid for udid, _ in decided(changes)} == {UDID, OTHER}
    assert {udid for udid, _ in decided(later)} == {THIRD}
    assert not reconciler.queue.has_due(NOW)


def test_a_mac_that_reports_is_decided_before_the_rest_of_a_broadcast() -> None:
    reconciler = started(*a_mac(udid=UDID), *a_mac(udid=OTHER))
    reconciler.decide_marked(NOW, 0, reconciler.apply(inputs(policy_changed(when=NOW)), NOW))
    changes = reconciler.apply(inputs(*a_mac(udid=THIRD)), NOW)
    assert decided(reconciler.decide_marked(NOW, 0, changes))[0][0] == THIRD


def test_offsets_are_reported_when_all_macs_of_the_batch_are_decided() -> None:
    reconciler = started(*a_mac(udid=UDID), *a_mac(udid=OTHER))
    change = reconciler.fold(halted(NOW - DAY))
    reconciler.queue_broadcast([change], {"control": 7})
    reconciler.queue_broadcast([], {"control": 8, "advisories": 1})
    assert reconciler.advance(NOW, 1).offsets == {}
    assert reconciler.advance(NOW, 5).offsets == {"control": 8, "advisories": 1}


def test_a_backlog_is_decided_in_slices_and_its_rows_are_written_again() -> None:
    reconciler = started()
    reconciler.apply(inputs(*a_mac(udid=OTHER), *a_mac(udid=UDID)), NOW)
    reconciler.queue_backlog()
    assert decided(reconciler.decide_marked(NOW, 0)) == []
    first = reconciler.advance(NOW, 1)
    assert {udid for udid, _ in decided(first)} == {UDID}
    assert list(first.devices) == [UDID]
    assert (reconciler.queue.is_undecided(UDID), reconciler.queue.is_undecided(OTHER)) == (
        False,
        True,
    )
    assert list(reconciler.advance(NOW, 5).devices) == [OTHER]
    assert not reconciler.queue.is_undecided(OTHER)


def test_a_backlog_includes_macs_that_wait_for_capacity() -> None:
    reconciler = started(*a_mac(udid=UDID), *a_mac(udid=OTHER), *a_mac(udid=THIRD))
    assert reconciler.last_decisions[THIRD].reason is Reason.SITE_FULL
    failed = resulted(job(issued_at=NOW), Outcome.REFUSED, NOW)
    entry = reconciler.fleet.job_histories[UDID][0]
    failed = failed.model_copy(
        update={"data": failed.data.model_copy(update={"job_id": entry.job_id})}
    )
    reconciler.apply(inputs(failed), NOW)
    reconciler.queue_backlog()
    assert (THIRD, Reason.JOB_OPEN) in decided(reconciler.advance(NOW, 5))


def test_the_sweep_starts_at_its_time_and_is_spread_over_calls() -> None:
    reconciler = Reconciler(sweep_every=HOUR)
    for event in (policy_changed(), *a_mac("26.2", UDID), *a_mac("26.2", OTHER)):
        reconciler.fold(event)
    reconciler.queue.schedule_sweep(NOW + HOUR)
    assert reconciler.next_due_at(NOW) == NOW + HOUR
    assert not reconciler.queue.has_due(NOW + HOUR)
    first = reconciler.advance(NOW + HOUR, 1)
    assert reconciler.next_due_at(NOW + HOUR) == NOW + HOUR
    second = reconciler.advance(NOW + HOUR, 5)
    assert [udid for udid, _ in decided(first) + decided(second)] == [UDID, OTHER]
    assert reconciler.next_due_at(NOW + HOUR) == NOW + 2 * HOUR


def test_inputs_that_admission_rejects_are_rejections_without_effect() -> None:
    reconciler = started()
    digest = reconciler.policy_digest
    bad: list[Event] = [policy_changed("version: 2", NOW), granted("job-1"), issued(job())]
    changes = reconciler.apply(inputs(*bad, *a_mac()), NOW)
    assert [one.code for one in changes.rejections] == [DeadLetterCode.BAD_VALUE] * 3
    assert [one.raw for one in changes.rejections] == [encode(event) for event in bad]
    assert reconciler.policy_digest == digest
    assert not reconciler.fleet.job_histories
    assert len(changes.inputs) == 4


# --- our bugs ---


def state_of(fleet: Fleet) -> Any:
    """Return all state of a fleet that queries and rows can show."""
    names = sorted({*fleet.devices, "serial:C02TEST0001", UDID, OTHER, THIRD})
    return (
        dict(fleet.devices),
        {udid: history for udid, history in fleet.job_histories.items() if history},
        fleet.broadcast_to_wire(),
        fleet.halts(),
        [(name, fleet.canonical_udid(name), fleet.approvals(name)) for name in names],
        {version: set(udids) for version, udids in fleet._lines.by_version.items() if udids},
        list(fleet.macs()),
    )


def broken_after(method: str, owner: type[Any]) -> Callable[..., Any]:
    real = getattr(owner, method)

    def broken(*args: Any, **more: Any) -> Any:
        real(*args, **more)
        raise LookupError("our bug")

    return broken


BROKEN = [
    pytest.param(full_report("26.2", when=NOW + HOUR, serial="C02TEST0001"), id="report"),
    pytest.param(full_report("26.2", THIRD, serial="C02TEST0003"), id="report of a new Mac"),
    pytest.param(reported(None, NOW, "jamf", serial="C02TEST0009"), id="report by serial number"),
    pytest.param(reported(OTHER, NOW, serial="C02TEST0001"), id="serial number moves"),
    pytest.param(reported(THIRD, NOW, serial="C02TEST0008"), id="record becomes part of a Mac"),
    pytest.param(enrolled(UDID, NOW)[0], id="check-in"),
    pytest.param(release("26.3", day="2026-01-10"), id="advisory"),
    pytest.param(policy_changed(when=NOW), id="policy"),
    pytest.param(halted(NOW), id="halt"),
    pytest.param(resulted(job(), Outcome.FAILED, NOW), id="result"),
]


@pytest.mark.parametrize("event", BROKEN)
@pytest.mark.parametrize("place", ["after the fold", "after the marks"])
def test_an_event_on_which_our_code_raises_leaves_no_half_state(
    event: Event, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler = started(*a_mac(), *a_mac("26.2", OTHER), reported(None, NOW, serial="C02TEST0008"))
    entry = reconciler.fleet.job_histories[UDID][0]
    if event.type.startswith("drydock.job"):
        data = event.data.model_copy(update={"job_id": entry.job_id})
        event = event.model_copy(update={"data": data})
    before = state_of(reconciler.fleet)
    counts = dict(+reconciler.open_jobs), dict(+reconciler.exposed)
    last_decisions = dict(reconciler.last_decisions)
    if place == "after the fold":
        monkeypatch.setattr(Fleet, "apply", broken_after("apply", Fleet))
    else:
        monkeypatch.setattr(Marking, "mark", broken_after("mark", Marking))
    changes = reconciler.apply(inputs(event), NOW + HOUR)
    (rejection,) = changes.rejections
    assert rejection.code is DeadLetterCode.BUG
    assert rejection.detail == "folding it failed: LookupError: our bug"
    assert changes.inputs == []
    assert state_of(reconciler.fleet) == before
    assert (dict(+reconciler.open_jobs), dict(+reconciler.exposed)) == counts
    assert reconciler.last_decisions == last_decisions
    monkeypatch.undo()
    # The event is folded as if it came for the first time.
    other = started(*a_mac(), *a_mac("26.2", OTHER), reported(None, NOW, serial="C02TEST0008"))
    for one in (reconciler, other):
        one.decide_marked(NOW + HOUR, UNLIMITED, one.apply(inputs(event), NOW + HOUR))
    assert state_of(reconciler.fleet) == state_of(other.fleet)


def test_a_bug_in_one_decision_holds_up_no_other_mac_and_is_reported_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reconciler = started(*a_mac(udid=UDID), *a_mac("26.2", OTHER))
    plain = Fleet.identity

    def broken(self: Fleet, device: Device) -> Any:
        if device.udid == UDID:
            raise ZeroDivisionError
        return plain(self, device)

    monkeypatch.setattr(Fleet, "identity", broken)
    newest = inputs(release("26.3", day="2026-01-10"))
    changes = reconciler.decide_marked(NOW, 5, reconciler.apply(newest, NOW))
    assert [(one.code, one.udid) for one in changes.rejections] == [(DeadLetterCode.BUG, UDID)]
    assert {udid for udid, _ in decided(changes)} == {OTHER}
    reconciler.queue.start_sweep(NOW)
    assert reconciler.advance(NOW, 5).rejections == []
    monkeypatch.undo()
    reconciler.queue.start_sweep(NOW)
    assert {udid for udid, _ in decided(reconciler.advance(NOW, 5))} == {UDID}


def test_a_job_that_cannot_be_signed_leaves_no_half_state() -> None:
    reconciler = started()
    signs = reconciler._deciding._sign
    reconciler._deciding._sign = None
    changes = reconciler.apply(inputs(*a_mac()), NOW)
    reconciler.decide_marked(NOW, 0, changes)
    assert [one.code for one in changes.rejections] == [DeadLetterCode.BUG]
    assert changes.records == []
    assert reconciler.last_decisions == {}
    reconciler._deciding._sign = signs
    reconciler.queue.start_sweep(NOW)
    again = reconciler.advance(NOW + timedelta(minutes=1), 5)
    assert [type(one.value) for one in again.records][1] is JobIssuedEvent


def test_job_that_cannot_be_folded_does_not_affect_the_next_mac(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reconciler = started()
    fold = Fleet.apply

    def broken(fleet: Fleet, event: Event) -> Any:
        if isinstance(event, JobIssuedEvent) and event.data.job.udid == UDID:
            raise LookupError("our bug")
        return fold(fleet, event)

    monkeypatch.setattr(Fleet, "apply", broken)
    changes = reconciler.apply(inputs(*a_mac(udid=UDID), *a_mac("26.2", udid=OTHER)), NOW)
    reconciler.decide_marked(NOW, 0, changes)
    assert [one.udid for one in changes.rejections] == [UDID]
    assert decided(changes)[-1] == (OTHER, Reason.COMPLIANT)
    assert reconciler.fleet.job_histories == {}
    monkeypatch.undo()
    # The job was lost: it is sent again.
    reconciler.queue.start_sweep(NOW)
    assert decided(reconciler.advance(NOW, 5))[-1] == (UDID, Reason.JOB_OPEN)
