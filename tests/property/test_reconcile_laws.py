"""Laws of the loop: batches, roll-back at every call, limits and capacity."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import chain
from types import FrameType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.payload_signing import sign_approval
from pipeline.reconcile.changes import Changes, Input
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.fleet import Fleet
from schemas.decisions import DecisionRecord
from schemas.envelope import (
    ApprovalGrantedEvent,
    Event,
    JobIssuedEvent,
    PolicyChangedEvent,
    decode,
    encode,
)
from schemas.fast.report_peek import peek_report
from schemas.jobs import INSTALLATIONS
from schemas.results import ErrorCode, Outcome
from tests import factories as make
from tests.factories.sites import APPROVALS_KEY, KEYS
from tests.reconcile_loop import UNLIMITED, inputs, signed, sweep, values
from tests.strategies import (
    SERIALS,
    UDIDS,
    advisory_events,
    checkins,
    controls,
    policy_texts,
    reports,
)

MINUTE = timedelta(minutes=1)
WITH_CAPACITY = make.POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 99")


def state_of(reconciler: Reconciler) -> dict[str, Any]:
    """Return all state of a reconciler, except for its queues.

    An index may keep the former serial number of a Mac; `names` has what follows from the indexes.
    """
    fleet = reconciler.fleet
    names = (*fleet.devices, *UDIDS, *SERIALS, *(f"serial:{one}" for one in SERIALS), "BYOD-1")
    return {
        "devices": dict(fleet.devices),
        "jobs": {udid: history for udid, history in fleet.job_histories.items() if history},
        "broadcast": fleet.broadcast_to_wire(),
        "halts": fleet.halts(),
        "names": {name: (fleet.canonical_udid(name), fleet.find(name)) for name in names},
        "approvals": {name: fleet.approvals(name) for name in names},
        "versions": {key: set(udids) for key, udids in fleet._lines.by_version.items() if udids},
        "last decisions": dict(reconciler.last_decisions),
        "open jobs": dict(+reconciler.open_jobs),
        "site jobs": dict(+reconciler.capacity.site_jobs),
        "withheld jobs": dict(+reconciler.capacity.withheld),
        "exposed": dict(+reconciler.exposed),
        "policy": reconciler.policy_digest,
    }


def stored_state_of(reconciler: Reconciler) -> dict[str, Any]:
    """Return the state without the exposures, which a restart computes from the present reports.

    Those of a decision can be older: the Mac may be marked, and not be decided yet.
    """
    decisions = reconciler.last_decisions.items()
    stored = {udid: last._replace(exposed_us=0, exploited=()) for udid, last in decisions}
    return state_of(reconciler) | {"last decisions": stored}


def _first_events() -> Iterator[Event]:
    yield make.policy_changed(WITH_CAPACITY)
    yield from map(make.release, make.RELEASES)
    for udid, serial in zip(UDIDS[:2], SERIALS, strict=False):
        yield from (*make.enrolled(udid), make.polled(udid))
        yield make.full_report("26.1", udid, make.NOW - 2 * make.HOUR, serial=serial)
    yield make.reported(None, make.NOW - make.DAY, "jamf", serial=SERIALS[1])


FIRST_INPUTS = inputs(*_first_events())
# Each example begins with two signed jobs and their decisions.
FEW_EXAMPLES = settings(max_examples=settings().max_examples // 2)


def started(*, fast_paths: bool = True) -> Reconciler:
    """Return a reconciler with two Macs that have a job, and a third one by serial number."""
    reconciler = Reconciler(
        sign=signed, job_keys=KEYS.jobs, approval_keys=KEYS.approvals, fast_paths=fast_paths
    )
    reconciler.decide_marked(make.NOW, UNLIMITED, reconciler.apply(FIRST_INPUTS, make.NOW))
    return reconciler


@st.composite
def results(draw: st.DrawFn) -> Event:
    """A result of the job that the first or second Mac of `started` has."""
    udid = draw(st.sampled_from(UDIDS[:2]))
    entry = _JOBS[udid][0]
    outcome = draw(st.sampled_from([Outcome.STARTED, Outcome.ACTED, Outcome.FAILED]))
    code = ErrorCode.INSTALL_FAILED if outcome is Outcome.FAILED else None
    event = make.resulted(make.job(udid=udid), outcome, make.NOW, code)
    data = event.data.model_copy(update={"job_id": entry.job_id, "udid": udid})
    return event.model_copy(update={"data": data})


_JOBS = dict(started().fleet.job_histories)


@st.composite
def full_reports(draw: st.DrawFn) -> list[Event]:
    """Full reports of one Mac, mostly duplicates but for telemetry."""
    udid = draw(st.sampled_from(UDIDS))
    serial = draw(st.sampled_from([udid, udid, udid, SERIALS[0]]))
    version, first = draw(st.sampled_from(["26.1", "26.2"])), draw(st.integers(-100, -4))
    disks = draw(st.lists(st.sampled_from([1.0, 50.0, 60.0]), min_size=1, max_size=4))
    return [
        make.full_report(
            version, udid, make.NOW + (first + at) * MINUTE, serial=serial, free_disk_gb=disk
        )
        for at, disk in enumerate(disks)
    ]


def signed_controls() -> st.SearchStrategy[Event]:
    """Halts, approvals and their ends; a trusted key signed the approvals."""

    def sign(event: Event) -> Event:
        if not isinstance(event, ApprovalGrantedEvent):
            return event
        return event.model_copy(update={"data": sign_approval(event.data.approval, APPROVALS_KEY)})

    return controls().map(sign)


def some_events() -> st.SearchStrategy[list[Event]]:
    """A few events that belong together, mostly one."""
    policies = st.builds(make.policy_changed, policy_texts(), st.just(make.NOW))
    one = st.one_of(reports(), checkins(), results(), controls(), signed_controls(), policies)
    return full_reports() | st.lists(one | advisory_events(-24 * 8), min_size=1, max_size=1)


def batches(max_size: int) -> st.SearchStrategy[list[Event]]:
    return st.lists(some_events(), max_size=max_size).map(lambda found: [*chain(*found)])


def unlimited(events: list[Event]) -> list[Event]:
    """Return the events; their policies have capacity for all jobs."""
    return [
        make.policy_changed(one.data.text.replace("max_jobs: 2", "max_jobs: 99"), one.time)
        if isinstance(one, PolicyChangedEvent)
        else one
        for one in events
    ]


def apply_all(reconciler: Reconciler, events: Sequence[Event], now: datetime) -> Changes:
    return reconciler.apply(inputs(*events), now)


def apply_each(reconciler: Reconciler, events: Sequence[Event], now: datetime) -> Changes:
    changes = Changes()
    for event in events:
        reconciler.apply(inputs(event), now, changes)
    return changes


def apply_bytes(reconciler: Reconciler, events: Sequence[Event], now: datetime) -> Changes:
    """Apply events as a worker does, which recognises duplicates by their bytes."""
    changes = Changes()
    for event in events:
        raw = encode(event)
        peek = peek_report(raw)
        if peek is None or reconciler.apply_duplicate(peek, now, changes) is None:
            reconciler.apply((Input(decode(raw), raw, peek),), now, changes)
    return changes


def summary(reconciler: Reconciler, changes: Changes) -> dict[str, Any]:
    issued = [one.value for one in changes.records if isinstance(one.value, JobIssuedEvent)]
    return state_of(reconciler) | {
        "rejections": [one[1:4] for one in changes.rejections],
        "issued": sorted(one.data.job.job_id for one in issued),
        "changed": set(changes.devices | changes.telemetry),
        "changed decisions": set(changes.last_decisions),
        "changed histories": set(changes.job_histories),
        "changed broadcast": set(changes.broadcast),
        "results": changes.results,
        "due": reconciler.next_due_at(make.NOW),
    }


@FEW_EXAMPLES
@given(batches(6).map(unlimited))
def test_batch_changes_what_its_events_change_one_by_one(events: list[Event]) -> None:
    found = []
    for apply, fast_paths in (
        (apply_all, True),
        (apply_each, True),
        (apply_bytes, True),
        (apply_all, False),
    ):
        reconciler = started(fast_paths=fast_paths)
        changes = apply(reconciler, events, make.NOW)
        reconciler.decide_marked(make.NOW, UNLIMITED, changes)
        found.append(summary(reconciler, changes))
    for other in found[1:]:
        assert other == found[0]


AFTER_A_FOLD = ("_drop_merged", "_note_changes")
GENERATORS = ("<genexpr>",)  # Python ignores what is raised while it closes one


@contextmanager
def raising_at(call: int) -> Iterator[Callable[[], bool]]:
    """Raise at this call of a function of the fold; yields whether it raised."""
    count, raised, is_folding = 0, False, False

    def trace(frame: FrameType, event: str, _: Any) -> None:
        nonlocal count, raised, is_folding
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if event != "call" or not module.startswith(("pipeline.state", "pipeline.reconcile")):
            return
        if name in GENERATORS:
            return
        is_folding = (is_folding or name == "_fold") and name not in AFTER_A_FOLD
        count += is_folding
        if is_folding and count == call:
            raised = True
            sys.settrace(None)
            raise LookupError("our bug")

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lambda: raised
    finally:
        sys.settrace(before)


@FEW_EXAMPLES
@given(some_events(), batches(3), st.integers(1, 60))
def test_exception_within_a_fold_leaves_nothing_of_it(
    last: list[Event], others: list[Event], call: int
) -> None:
    reconciler, plain = started(), started()
    for one in (reconciler, plain):
        apply_bytes(one, [*others, *last[:-1]], make.NOW)
    before, marks = state_of(reconciler), dict(reconciler.queue._marks)
    given_input = inputs(last[-1])
    with raising_at(call) as raised:
        changes = reconciler.apply(given_input, make.NOW)
    if not raised():
        return
    assert len(changes.rejections) == 1, "the exception was caught elsewhere"
    after = state_of(reconciler)
    assert {key: found for key, found in after.items() if found != before[key]} == {}
    assert marks.items() <= reconciler.queue._marks.items()
    assert not changes.inputs
    assert not {**changes.devices, **changes.telemetry, **changes.job_histories}
    assert not changes.broadcast
    # Applied again, it has the effect that it has for the first time.
    for one in (reconciler, plain):
        one.decide_marked(make.NOW, UNLIMITED, one.apply(given_input, make.NOW))
    assert state_of(reconciler) == state_of(plain)


@FEW_EXAMPLES
@given(batches(4).map(unlimited), st.integers(1, 4))
def test_limit_of_advance_divides_the_work_and_loses_none(events: list[Event], limit: int) -> None:
    at_once, in_slices = started(), started()
    for one in (at_once, in_slices):
        one.apply(inputs(*events), make.NOW)
        one.decide_marked(make.NOW, 0)
        one.queue.start_sweep(make.NOW)
    at_once.advance(make.NOW, UNLIMITED)
    assert in_slices.advance(make.NOW, 0).is_empty
    macs = len(in_slices.fleet.devices)
    for _ in range((len(events) + 2) * (macs // limit + 1)):
        in_slices.advance(make.NOW, limit)
    assert state_of(in_slices) == state_of(at_once)
    assert in_slices.next_due_at(make.NOW) == at_once.next_due_at(make.NOW) != make.NOW


class Disk:
    """The state that `Changes` lets a shell write, and nothing else."""

    def __init__(self) -> None:
        self.devices: dict[str, Any] = {}
        self.jobs: dict[str, Any] = {}
        self.last_decisions: dict[str, Any] = {}
        self.broadcast = Fleet().broadcast_to_wire()

    def write(self, reconciler: Reconciler, changes: Changes) -> None:
        fleet = reconciler.fleet
        self.devices |= {key: fleet.devices[key] for key in changes.devices | changes.telemetry}
        self.jobs |= {key: fleet.job_histories[key] for key in changes.job_histories}
        for key in changes.last_decisions:
            if key in reconciler.last_decisions:
                self.last_decisions[key] = reconciler.last_decisions[key]
            else:
                # A decision that was made and dropped in one Changes was never written.
                self.last_decisions.pop(key, None)
        wire = fleet.broadcast_to_wire()
        self.broadcast |= {part: wire[part] for part in changes.broadcast}

    def read(self) -> Reconciler:
        fleet = Fleet()
        fleet.load_broadcast(self.broadcast)
        for device in self.devices.values():
            fleet.put(device)
        fleet.job_histories |= self.jobs
        reconciler = Reconciler(
            fleet, sign=signed, job_keys=KEYS.jobs, approval_keys=KEYS.approvals
        )
        reconciler.recount_jobs()
        for udid, last in self.last_decisions.items():
            reconciler.restore(udid, last)
        return reconciler


def batches_of_macs() -> st.SearchStrategy[list[Event]]:
    one = st.lists(reports() | checkins(), min_size=1, max_size=1)
    return st.lists(full_reports() | one, max_size=3).map(lambda found: [*chain(*found)])


class ShellMachine(RuleBasedStateMachine):
    """A shell that writes each `Changes`, and is killed at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.now = make.NOW
        self.reconciler = self.disk.read()
        begin = [
            make.policy_changed(make.POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 1")),
            *(make.release(version) for version in make.RELEASES),
        ]
        self.write(self.reconciler.apply(inputs(*begin), self.now))

    def write(self, changes: Changes) -> None:
        values(changes)
        self.disk.write(self.reconciler, changes)

    @rule(events=batches_of_macs(), macs=st.booleans())
    def apply(self, events: list[Event], macs: bool) -> None:
        enrolled = [one for udid in UDIDS for one in make.enrolled(udid)] if macs else []
        self.write(apply_bytes(self.reconciler, [*enrolled, *events], self.now))

    @rule(event=advisory_events(-24 * 8) | signed_controls())
    def broadcast(self, event: Event) -> None:
        self.write(self.reconciler.apply(inputs(event), self.now))

    @rule(udid=st.sampled_from(UDIDS), outcome=st.sampled_from(["started", "acted", "failed"]))
    def result(self, udid: str, outcome: str) -> None:
        history = self.reconciler.fleet.job_histories.get(udid, ())
        for entry in [one for one in history if one.is_open]:
            code = ErrorCode.INSTALL_FAILED if outcome == "failed" else None
            event = make.resulted(make.job(udid=udid), Outcome(outcome), self.now, code)
            data = event.data.model_copy(update={"job_id": entry.job_id, "udid": udid})
            event = event.model_copy(update={"data": data})
            self.write(self.reconciler.apply(inputs(event), self.now))

    @rule(limit=st.integers(0, 3))
    def decide_marked(self, limit: int) -> None:
        self.write(self.reconciler.decide_marked(self.now, limit))

    @rule(limit=st.integers(0, 3), hours=st.sampled_from([0, 0, 1, 5, 100]))
    def advance(self, limit: int, hours: int) -> None:
        self.now += timedelta(hours=hours)
        self.write(self.reconciler.advance(self.now, limit))

    @rule()
    def is_killed(self) -> None:
        self.reconciler = self.disk.read()
        self.reconciler.queue.start_sweep(self.now)

    @rule()
    def drain(self) -> None:
        for _ in range(60):
            self.write(self.reconciler.advance(self.now, 100))
            if self.reconciler.next_due_at(self.now) != self.now:
                break
        else:
            raise AssertionError("the work has no end")
        changes = sweep(self.reconciler, self.now)
        self.write(changes)
        missed = [one for one in values(changes) if not isinstance(one, DecisionRecord)]
        assert missed == []
        assert self.disk.read().last_decisions == self.reconciler.last_decisions

    @invariant()
    def disk_has_the_state(self) -> None:
        assert stored_state_of(self.disk.read()) == stored_state_of(self.reconciler)

    @invariant()
    def no_site_has_more_jobs_than_its_capacity(self) -> None:
        for site in ("london", "tokyo"):
            using = [
                entry
                for history in self.reconciler.fleet.job_histories.values()
                for entry in history
                if entry.is_open and entry.site == site and entry.action in INSTALLATIONS
            ]
            assert len(using) <= 1


ShellMachine.TestCase.settings = settings(
    max_examples=settings().max_examples, stateful_step_count=25
)
TestShell = ShellMachine.TestCase
