"""The order, limits and times of the Macs to decide."""

from datetime import timedelta

from pipeline.reconcile.changes import Changes
from pipeline.reconcile.decision_queue import DecisionQueue, FreedSite
from pipeline.reconcile.last_decision import LastDecision
from pipeline.state.device import to_us
from schemas.decisions import Reason, Verdict
from tests.factories import HOUR, NOW

SECOND = timedelta(seconds=1)


class QueueOfThreeMacs:
    """A queue over the Macs A, B and C, and their last decisions."""

    def __init__(self, sweep_every: timedelta | None = None) -> None:
        self.macs = ["A", "B", "C"]
        self.last_decisions: dict[str, LastDecision] = {}
        self.queue = DecisionQueue(lambda: self.macs, self.last_decisions, sweep_every)
        self.changes = Changes()

    def set_timer(self, udid: str, us: int) -> None:
        self.last_decisions[udid] = LastDecision(
            b"", Verdict.HOLD, Reason.OUTSIDE_WINDOW, us, None, None, 0
        )
        self.queue.set_timer(udid, us)

    def due(self, limit: int, at: timedelta = timedelta()) -> list[str]:
        return list(self.queue.pop_due(NOW + at, limit, self.changes))

    def batched(self, limit: int) -> list[str]:
        return list(self.queue.pop_batched(limit, self.changes))


def test_marks_keep_their_order_and_each_is_popped_once() -> None:
    queue = QueueOfThreeMacs().queue
    queue.mark("B")
    queue.mark_site("london")
    queue.mark("A")
    queue.mark("B")
    assert queue.is_undecided("A")
    assert not queue.is_undecided("C")
    assert queue.next_due_at(NOW) == NOW
    assert list(queue.pop_marks()) == ["B", FreedSite("london"), "A"]
    assert list(queue.pop_marks()) == []
    assert queue.next_due_at(NOW) is None


def test_batches_are_popped_one_after_another_each_by_udid() -> None:
    macs = QueueOfThreeMacs()
    macs.queue.add_batch(["C", "A"])
    macs.queue.add_batch(["B", "A"])
    assert macs.batched(0) == []
    assert macs.batched(3) == ["A", "C", "A"]
    assert macs.queue.has_due(NOW)
    assert macs.due(9) == ["B"]
    assert not macs.queue.has_due(NOW)


def test_offsets_are_in_the_changes_of_the_call_that_ends_their_batch() -> None:
    macs = QueueOfThreeMacs()
    macs.queue.add_batch(["A", "B"], {"advisories": 4})
    macs.queue.add_batch([], {"advisories": 3, "control": 9})
    assert macs.batched(1) == ["A"]
    assert macs.changes.offsets == {}
    assert macs.batched(1) == ["B"]
    assert macs.changes.offsets == {"advisories": 4}
    assert macs.batched(1) == []
    assert macs.changes.offsets == {"advisories": 4, "control": 9}


def test_a_backlog_names_the_records_whose_rows_are_undecided() -> None:
    """A marked key can be a record that belongs to another Mac: that Mac is decided."""
    macs = QueueOfThreeMacs()
    for key in ("serial:1", "B"):
        macs.queue.mark(key)
    macs.queue.mark_site("london")
    canonical = {"serial:1": "A"}
    macs.queue.queue_backlog(canonical.get, ["C"])
    macs.queue.add_batch(["B"])
    assert all(map(macs.queue.is_undecided, ["serial:1", "B"]))
    assert macs.batched(2) == ["A", "B"]
    assert macs.changes.devices == {"B": None}
    assert macs.queue.is_undecided("serial:1")
    assert not macs.queue.is_undecided("B")
    assert macs.batched(1) == ["C"]
    assert list(macs.changes.devices) == ["B", "serial:1"]
    assert not macs.queue.is_undecided("serial:1")
    assert macs.batched(9) == ["B"]
    assert list(macs.changes.devices) == ["B", "serial:1"]


def test_the_batch_of_a_broadcast_leaves_the_backlog_undecided() -> None:
    macs = QueueOfThreeMacs()
    macs.queue.add_batch(["A", "B"])
    macs.queue.mark("A")
    macs.queue.queue_backlog(lambda _: None, [])
    assert macs.batched(2) == ["A", "B"]
    assert macs.queue.is_undecided("A")
    assert macs.changes.devices == {}
    assert macs.batched(1) == ["A"]
    assert macs.changes.devices == {"A": None}


def test_timers_are_due_at_their_times_and_void_after_another_decision() -> None:
    macs = QueueOfThreeMacs()
    for udid, seconds in (("C", 1), ("A", 2), ("B", 3)):
        macs.set_timer(udid, to_us(NOW + seconds * SECOND))
    macs.set_timer("A", to_us(NOW + 9 * SECOND))
    assert macs.queue.next_due_at(NOW) == NOW + SECOND
    assert not macs.queue.has_due(NOW)
    assert macs.due(9) == []
    assert macs.queue.has_due(NOW + SECOND)
    assert macs.due(1, at=3 * SECOND) == ["C"]
    del macs.last_decisions["B"]
    assert macs.queue.next_due_at(NOW) == NOW + 9 * SECOND
    assert macs.due(9, at=9 * SECOND) == ["A"]
    assert macs.queue.next_due_at(NOW) is None


def test_a_past_timer_is_due_now() -> None:
    macs = QueueOfThreeMacs()
    macs.set_timer("A", to_us(NOW - HOUR))
    assert macs.queue.next_due_at(NOW) == NOW


def test_one_limit_holds_for_batches_timers_and_the_sweep() -> None:
    macs = QueueOfThreeMacs()
    macs.queue.add_batch(["B"])
    macs.set_timer("C", to_us(NOW))
    macs.queue.start_sweep(NOW)
    assert macs.due(2) == ["B", "C"]
    assert macs.due(2) == ["A", "B"]
    assert macs.queue.next_due_at(NOW) == NOW
    assert macs.due(2) == ["C"]
    assert macs.queue.next_due_at(NOW) is None


def test_a_sweep_begins_at_its_time_and_again_after_the_interval() -> None:
    macs = QueueOfThreeMacs(sweep_every=HOUR)
    assert macs.queue.next_due_at(NOW) is None
    macs.queue.schedule_sweep(NOW + SECOND)
    assert macs.queue.next_due_at(NOW) == NOW + SECOND
    assert macs.due(9) == []
    assert macs.due(2, at=SECOND) == ["A", "B"]
    macs.macs.append("D")
    assert macs.due(9, at=SECOND) == ["C"], "a sweep has the Macs of its beginning"
    assert macs.queue.next_due_at(NOW + SECOND) == NOW + SECOND + HOUR
    assert macs.due(9, at=SECOND + HOUR) == ["A", "B", "C", "D"]


def test_without_an_interval_a_sweep_is_not_repeated() -> None:
    macs = QueueOfThreeMacs()
    macs.queue.start_sweep(NOW)
    assert macs.due(9) == ["A", "B", "C"]
    assert macs.queue.next_due_at(NOW + 100 * HOUR) is None
