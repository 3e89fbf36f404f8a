"""Workers of one group: lost partitions, successors, backlogs, rows of earlier epochs."""

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.embedded.control_events import halt_cleared, halt_set
from pipeline.processors.dead_letter_limit import DeadLetterLimitExceeded
from pipeline.processors.rows import EPOCH_KEY, InvalidRow
from pipeline.reconcile import deciding
from pipeline.reconcile.automatic_halt import action_scope
from pipeline.state.device import to_us
from schemas.envelope import CloudEvent, encode
from schemas.jobs import Action
from schemas.results import Outcome
from schemas.topics import (
    CHECKINS,
    CONTROL,
    DEAD_LETTERS,
    DECISIONS,
    DISPATCH,
    DISPATCH_STATE,
    INVENTORY,
    RESULTS,
    STATE,
    partition_of,
)
from tests import factories
from tests.factories import HOUR, NOW, topic_of
from tests.unit.processors.memory_kafka import (
    INPUTS,
    JOB_TOPICS,
    PARTITIONS,
    Brokers,
    MemoryWorker,
    reading,
    state_of,
)

UDIDS = [f"MAC-{number}" for number in range(12)]
POLICY = factories.POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 50")


def send(brokers: Brokers, *events: CloudEvent) -> None:
    brokers.send(events, topic_of)


def send_reports(brokers: Brokers, version: str, when: datetime, *udids: str) -> None:
    for udid in udids:
        send(brokers, factories.full_report(version, udid, when, serial=f"C02{udid}"))


@pytest.fixture
def brokers() -> Brokers:
    """A dozen enrolled Macs on the newest release."""
    some = Brokers()
    send(some, factories.policy_changed(POLICY), factories.release("26.1"))
    for udid in UDIDS:
        send(some, *factories.enrolled(udid), factories.polled(udid))
    send_reports(some, "26.1", NOW - HOUR, *UDIDS)
    return some


def run(brokers: Brokers, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with reading(brokers):
        asyncio.run(work())


def sizes(brokers: Brokers) -> dict[Any, int]:
    return {partition: len(records) for partition, records in brokers.topics.items()}


async def settle(process: MemoryWorker) -> None:
    while await process.round():
        pass


def worker_and_successor(brokers: Brokers, tmp_path: Path) -> tuple[MemoryWorker, MemoryWorker]:
    """Return a worker, and its successor an hour later."""
    first = MemoryWorker(brokers, tmp_path / "first", lambda: NOW)
    second = MemoryWorker(brokers, tmp_path / "second", lambda: NOW + HOUR)
    return first, second


async def own_all(process: MemoryWorker) -> None:
    """Own all partitions again, without a round."""
    await process.begin()
    process.worker.close()


def test_a_worker_that_lost_its_membership_writes_nothing(brokers: Brokers, tmp_path: Path) -> None:
    first, second = worker_and_successor(brokers, tmp_path)

    async def work() -> None:
        await first.begin()
        await settle(first)
        send(brokers, factories.release("26.2"))
        send_reports(brokers, "26.1", NOW, *UDIDS)
        await second.live()
        before = sizes(brokers)
        first.is_group_member = False
        first.read_broadcasts()
        await first.round(100)
        assert sizes(brokers) == before
        assert not first.worker.partitions

    run(brokers, work)


def test_rows_of_an_earlier_epoch_are_ignored(brokers: Brokers, tmp_path: Path) -> None:
    first, second = worker_and_successor(brokers, tmp_path)

    async def work() -> None:
        await first.begin()
        await settle(first)
        send_reports(brokers, "26.1", NOW, *UDIDS)
        send(brokers, factories.release("26.2"))
        await second.live()
        send_reports(brokers, "26.2", NOW + HOUR / 2, *UDIDS[:6])
        await settle(second)

    run(brokers, work)
    kept = state_of(brokers, tmp_path / "kept")
    rows = sizes(brokers)

    async def write_late() -> None:
        # Its membership check still succeeds.
        first.read_broadcasts()
        for _ in range(3):
            await first.round(100, commit=False)

    run(brokers, write_late)
    assert sizes(brokers) != rows
    # It has read the epoch rows of the other owner where it has written.
    unwritten = {partition for partition, size in sizes(brokers).items() if rows[partition] == size}
    assert first.worker.partitions.keys() <= unwritten
    assert state_of(brokers, tmp_path / "late") == kept
    # A worker that applied the whole changelog has the same rows.
    assert state_of(brokers, tmp_path / "second") == kept
    # So has the worker that wrote late, once it is the owner again.
    run(brokers, lambda: own_all(first))
    assert state_of(brokers, tmp_path / "first") == kept


def test_no_row_is_lost_in_rounds_during_a_new_assignment(brokers: Brokers, tmp_path: Path) -> None:
    """Rows written while recovery reads the ends of the changelogs are this worker's own."""
    process = MemoryWorker(brokers, tmp_path / "one", lambda: NOW)

    async def work() -> None:
        await process.begin()
        await settle(process)
        send_reports(brokers, "26.1", NOW - HOUR / 2, *UDIDS)
        owning = asyncio.create_task(process.own())
        await asyncio.sleep(0)
        await process.round(100)
        send(brokers, factories.release("26.2"))
        process.read_broadcasts()
        send_reports(brokers, "26.1", NOW, *UDIDS)
        process.producer.unconfirmed_topic = DECISIONS.name
        taking = asyncio.create_task(process.round(100))
        for _ in range(500):
            await asyncio.sleep(0)
        process.producer.may_confirm.set()
        await asyncio.gather(taking, owning)
        await settle(process)

    run(brokers, work)
    for one in state_of(brokers, tmp_path / "read").values():
        assert one["device"]["facts"]["os_version"] == [to_us(NOW), "26.1"]
    assert sorted(event.data.job.udid for event in brokers.published()) == sorted(UDIDS)


def test_records_of_a_partition_that_is_not_ready_are_not_processed(
    brokers: Brokers, tmp_path: Path
) -> None:
    process = MemoryWorker(brokers, tmp_path / "one", lambda: NOW)

    async def work() -> None:
        await process.begin()
        await settle(process)
        send_reports(brokers, "26.1", NOW, *UDIDS)
        process.worker.suspend()
        before, positions = sizes(brokers), dict(process.positions)
        await process.round(100)
        assert sizes(brokers) == before
        assert process.positions == positions

    run(brokers, work)


@pytest.mark.parametrize("refresh", [timedelta(0), HOUR])
def test_times_of_reports_are_written_within_the_refresh(
    brokers: Brokers, tmp_path: Path, refresh: timedelta
) -> None:
    moment = NOW
    process = MemoryWorker(brokers, tmp_path / "one", lambda: moment, slice=5, refresh=refresh)
    run(brokers, process.live)
    early, late = NOW - HOUR / 2, NOW - HOUR / 4

    async def receive_reports() -> None:
        # The reports arrive after the polls and are older: the newest time of a Mac stays.
        send(brokers, *(factories.polled(udid, late) for udid in UDIDS))
        await settle(process)
        send_reports(brokers, "26.1", early, *UDIDS)
        await settle(process)

    def written() -> int:
        rows = state_of(brokers, tmp_path / f"read {moment:%H%M} {refresh}")
        return sum(row["device"]["facts"]["os_version"][0] == to_us(early) for row in rows.values())

    run(brokers, receive_reports)
    assert written() == (0 if refresh else len(UDIDS))
    moment += 2 * HOUR

    async def wait() -> None:
        for _ in range(5):
            await process.round()

    run(brokers, wait)
    assert written() == len(UDIDS)


def test_redeciding_after_a_broadcast_resumes_after_a_crash(
    brokers: Brokers, tmp_path: Path
) -> None:
    soon = NOW + timedelta(minutes=1)  # before a job is offered again
    first = MemoryWorker(brokers, tmp_path / "first", lambda: NOW, slice=2, due_budget_s=0.0)
    second = MemoryWorker(brokers, tmp_path / "second", lambda: soon, slice=2)

    async def begin() -> None:
        await first.begin()
        await settle(first)
        send(brokers, factories.release("26.2"))
        first.read_broadcasts()
        await first.round()

    run(brokers, begin)
    ordered_jobs = Counter(one.decision.udid for one in brokers.decisions() if one.decision.job_id)
    assert 0 < len(ordered_jobs) < len(UDIDS)
    run(brokers, second.live)
    assert sorted(event.data.job.udid for event in brokers.published()) == sorted(UDIDS)


def test_rows_of_another_partition_stop_the_worker(brokers: Brokers, tmp_path: Path) -> None:
    process = MemoryWorker(brokers, tmp_path / "one", lambda: NOW)
    run(brokers, process.live)
    for misplaced in brokers.of(STATE.name, 0):
        if misplaced.key != EPOCH_KEY:
            brokers.append(STATE.name, 1, misplaced.key, misplaced.value)
    with pytest.raises(InvalidRow, match="partition 0"):
        run(brokers, MemoryWorker(brokers, tmp_path / "two", lambda: NOW).live)


@pytest.mark.parametrize("topic", [STATE.name, DISPATCH_STATE.name])
def test_changelog_from_before_the_first_release_is_refused(
    topic: str, brokers: Brokers, tmp_path: Path
) -> None:
    brokers.append(topic, 0, b" owner", b'{"e": 1, "facts": {}}')
    with pytest.raises(InvalidRow, match=f"{topic}/0: written before release 0.1.0"):
        run(brokers, MemoryWorker(brokers, tmp_path / "one", lambda: NOW).live)


def test_report_under_a_foreign_key_reaches_its_partition(brokers: Brokers, tmp_path: Path) -> None:
    process = MemoryWorker(brokers, tmp_path / "one", lambda: NOW)
    event = factories.full_report("26.1", "STRAY-1", NOW, serial="C02STRAY1")
    owner = partition_of("STRAY-1", PARTITIONS)
    brokers.append(INVENTORY.name, 1 - owner, b"STRAY-1", encode(event))
    run(brokers, process.live)
    assert "STRAY-1" in state_of(brokers, tmp_path / "read")
    assert brokers.of(INVENTORY.name, owner)[-1].value == encode(event)


def test_invalid_records_become_dead_letters_and_too_many_stop_the_worker(
    brokers: Brokers, tmp_path: Path
) -> None:
    process = MemoryWorker(brokers, tmp_path / "one", lambda: NOW)
    brokers.append(CHECKINS.name, 0, b"x", b"\xff no json")
    run(brokers, process.live)
    assert len(brokers.all(DEAD_LETTERS.name)) == 1
    for _ in range(150):
        brokers.append(CHECKINS.name, 1, b"x", b"{}")
    before = sizes(brokers)

    async def on() -> None:
        for _ in range(10):
            await process.round(50)

    with pytest.raises(DeadLetterLimitExceeded):
        run(brokers, on)
    letters = len(brokers.all(DEAD_LETTERS.name))
    assert letters < 100
    reached = brokers.committed[(CHECKINS.name, 1)]
    assert reached - letters == before[(CHECKINS.name, 1)] - 150 - 1


def test_records_of_workers_do_not_end_the_limit_of_dead_letters(
    brokers: Brokers, tmp_path: Path
) -> None:
    process = MemoryWorker(brokers, tmp_path / "one", lambda: NOW)
    result = encode(factories.resulted(factories.job(UDIDS[0]), Outcome.SUCCEEDED, NOW))
    owner = partition_of(UDIDS[0], PARTITIONS)
    for number in range(150):
        brokers.append(RESULTS.name, owner, UDIDS[0].encode(), result)
        raw = b'{"sender": "%s"}' % (b"mdm" if number % 2 else b"jamf")
        brokers.append(CHECKINS.name, owner, b"x", raw)

    async def on() -> None:
        await process.begin()
        await process.round(500)

    with pytest.raises(DeadLetterLimitExceeded):
        run(brokers, on)


def test_bug_in_deciding_for_many_macs_does_not_stop_a_restarted_worker(
    brokers: Brokers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    macs = [f"MANY-{number}" for number in range(120)]
    send_reports(brokers, "26.1", NOW - HOUR, *macs)
    first, second = worker_and_successor(brokers, tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a bug")

    run(brokers, first.live)
    send(brokers, factories.release("26.2"))
    monkeypatch.setattr(deciding, "evaluate", fail)

    async def restart() -> None:
        await second.begin()
        await second.round()
        send_reports(brokers, "26.1", NOW, *UDIDS)  # of all partitions
        await settle(second)

    run(brokers, restart)
    assert len(brokers.all(DEAD_LETTERS.name)) >= len(macs)


def test_a_released_partition_is_freed_without_a_collection(
    brokers: Brokers, tmp_path: Path
) -> None:
    """Loaded objects are excluded from garbage collection: a reference cycle would leak them."""
    process = MemoryWorker(brokers, tmp_path / "one", lambda: NOW)
    reconcilers: list[weakref.ref[Any]] = []

    async def work() -> None:
        await process.begin()
        await settle(process)
        await process.worker.assign([], lambda _: None)
        await process.own()
        reconcilers.extend(weakref.ref(one.reconciler) for one in process.worker.device_shards())
        gc.disable()
        await process.worker.assign([], lambda _: None)

    try:
        run(brokers, work)
        assert gc.get_freeze_count() > 0
        assert [one() for one in reconcilers] == [None] * PARTITIONS
    finally:
        gc.enable()
        gc.unfreeze()


def test_new_owner_dispatches_nothing_before_it_has_read_the_halts(
    brokers: Brokers, tmp_path: Path
) -> None:
    first, second = worker_and_successor(brokers, tmp_path)

    def jobs() -> int:
        return sum(len(brokers.of(topic)) for topic in JOB_TOPICS)

    async def work() -> None:
        send(brokers, factories.release("26.2"))
        await first.begin()
        while not any(brokers.of(DISPATCH.name, n) for n in range(PARTITIONS)):
            await first.round(100)
        assert not jobs()
        scope = action_scope("london", Action.UPDATE)
        send(brokers, halt_set(scope, "ada", "w", None, NOW))
        # It has read the policy, and is behind with the halt.
        second.broadcast.fold_record(CONTROL.name, 0, brokers.of(CONTROL.name)[0].value)
        second.positions = {tp: brokers.start_of(tp) for tp in INPUTS}
        await second.own()
        for _ in range(20):
            await second.round(100)
        assert not jobs()
        second.read_broadcasts()
        await settle(second)
        assert not jobs()
        send(brokers, halt_cleared(scope, "ada", NOW + HOUR))
        second.read_broadcasts()
        await settle(second)
        assert jobs()

    run(brokers, work)
