"""Records that were deleted or skipped before a worker folded them are reported with numbers."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry

from pipeline.metrics import Metrics
from pipeline.processors.broadcast import BroadcastLog, find_shortage
from schemas.decisions import Reason
from schemas.topics import ADVISORIES, CONTROL, DISPATCH, INVENTORY, partition_of
from tests import factories
from tests.factories import NOW, topic_of
from tests.unit.processors.memory_kafka import PARTITIONS, Brokers, MemoryWorker, reading, state_of

UDIDS = [f"MAC-{number}" for number in range(12)]
OF_ZERO = [udid for udid in UDIDS if partition_of(udid, PARTITIONS) == 0]
ZERO = TopicPartition(INVENTORY.name, 0)


@pytest.fixture
def brokers(tmp_path: Path) -> Brokers:
    """Topics after the work of one worker."""
    made = Brokers()
    made.send([factories.policy_changed(), factories.release("26.2")], topic_of)
    for udid in UDIDS:
        made.send(factories.enrolled(udid), topic_of)
    report(made, "26.1")
    Run(made, tmp_path / "first").live()
    return made


def report(brokers: Brokers, version: str, minutes: int = 0) -> None:
    """Let all Macs report this version."""
    at = NOW + minutes * timedelta(minutes=1)
    for udid in UDIDS:
        brokers.send([factories.full_report(version, udid, at, serial=f"C02{udid}")], topic_of)


class Run:
    """A worker without files of an earlier one, with its log and its metrics."""

    def __init__(self, brokers: Brokers, folder: Path) -> None:
        self.brokers = brokers
        self.log = structlog.testing.LogCapture()
        self.metrics = Metrics(CollectorRegistry())
        self.worker = MemoryWorker(
            brokers,
            folder,
            lambda: NOW + timedelta(minutes=11),
            log=structlog.wrap_logger(structlog.ReturnLogger(), processors=[self.log]),
            metrics=self.metrics,
        )

    def live(self, work: Callable[[], None] = lambda: None) -> None:
        """Run until idle; then let `work` happen, and run until idle again."""

        async def both() -> None:
            await self.worker.live()
            work()
            self.worker.read_broadcasts()
            while await self.worker.round():
                pass

        with reading(self.brokers):
            asyncio.run(both())
        self.worker.end()

    def lost(self, topic: str = INVENTORY.name) -> float:
        return self._value("drydock_records_lost_total", topic)

    def moved(self, topic: str = INVENTORY.name) -> float:
        return self._value("drydock_moved_offsets_total", topic)

    def _value(self, name: str, topic: str) -> float:
        value = self.metrics.registry.get_sample_value(name, {"topic": topic})
        assert value is not None
        return value

    def messages(self) -> list[tuple[str, str, int]]:
        """Return message, topic and count of each error in the log."""
        return [
            (one["event"].partition(":")[0], one["topic"], one["count"])
            for one in self.log.entries
            if one["log_level"] == "error"
        ]


def unread(brokers: Brokers, partition: TopicPartition = ZERO) -> int:
    """Return the number of records after the committed offset."""
    return len(brokers.of(*partition)) - brokers.committed.get(partition, 0)


@pytest.mark.parametrize("kept", [0, 2])
def test_records_deleted_before_they_were_read(kept: int, brokers: Brokers, tmp_path: Path) -> None:
    report(brokers, "26.2", 10)
    count = unread(brokers) - kept
    brokers.delete_before(INVENTORY.name, 0, len(brokers.of(*ZERO)) - kept)
    run = Run(brokers, tmp_path / "second")
    run.live()
    assert (run.lost(), run.moved()) == (count, 0)
    assert run.messages() == [("records lost", INVENTORY.name, count)]
    assert len(run.worker.worker.gap_reporter.gaps) == 1
    again = Run(brokers, tmp_path / "third")
    again.live()
    assert again.lost() == 0


def test_records_deleted_under_a_worker(brokers: Brokers, tmp_path: Path) -> None:
    run = Run(brokers, tmp_path / "second")

    def delete() -> None:
        report(brokers, "26.2", 10)
        brokers.delete_before(INVENTORY.name, 0, len(brokers.of(*ZERO)) - 1)

    run.live(delete)
    assert run.lost() == len(OF_ZERO) - 1
    assert run.worker.worker.gap_reporter.gaps


def test_dispatch_records_deleted_before_they_were_read(brokers: Brokers, tmp_path: Path) -> None:
    partition = next(one for one in brokers.topics if one.topic == DISPATCH.name)
    for _ in range(10):
        brokers.append(DISPATCH.name, partition.partition, b"london", b"{}")
    brokers.delete_before(DISPATCH.name, partition.partition, len(brokers.of(*partition)))
    run = Run(brokers, tmp_path / "second")
    run.live()
    assert run.lost(DISPATCH.name) == 10


def test_offset_moved_forward(brokers: Brokers, tmp_path: Path) -> None:
    report(brokers, "26.2", 10)
    count = unread(brokers)
    brokers.moved[ZERO] = len(brokers.of(*ZERO))
    run = Run(brokers, tmp_path / "second")
    run.live()
    assert (run.lost(), run.moved()) == (count, 1)
    assert sorted(run.messages()) == [
        ("committed offset was moved by another program", INVENTORY.name, count),
        ("records lost", INVENTORY.name, count),
    ]
    again = Run(brokers, tmp_path / "third")
    again.live()
    assert (again.lost(), again.moved()) == (0, 0)


def test_offset_moved_back(brokers: Brokers, tmp_path: Path) -> None:
    published = brokers.published()
    before = state_of(brokers, tmp_path / "before")
    brokers.moved[ZERO] = 0
    run = Run(brokers, tmp_path / "second")
    run.live()
    assert (run.lost(), run.moved()) == (0, 1)
    assert brokers.published() == published
    assert state_of(brokers, tmp_path / "after") == before


def test_topic_created_again(brokers: Brokers, tmp_path: Path) -> None:
    brokers.of(*ZERO).clear()
    del brokers.committed[ZERO]
    run = Run(brokers, tmp_path / "second")
    run.live(lambda: report(brokers, "26.2", 10))
    assert [message for message, _, _ in run.messages()] == [
        "topic ends before the offset of the state"
    ]
    state = state_of(brokers, tmp_path / "after")
    assert all("26.2" in str(state[udid]["device"]) for udid in UDIDS)


def test_clean_stop_crash_and_state_of_an_earlier_version_are_no_gaps(
    brokers: Brokers, tmp_path: Path
) -> None:
    report(brokers, "26.2", 10)
    crashed = Run(brokers, tmp_path / "crashed")

    async def crash() -> None:
        await crashed.worker.begin()
        while await crashed.worker.round(commit=False):
            pass

    with reading(brokers):
        asyncio.run(crash())
    crashed.worker.end()
    brokers.delete_before(INVENTORY.name, 0, 3)
    run = Run(brokers, tmp_path / "second")
    run.live()
    assert not run.messages()
    assert not run.worker.worker.gap_reporter.gaps


@pytest.mark.parametrize("topic", [ADVISORIES.name, CONTROL.name])
def test_broadcast_topic_created_again_is_decided_by_from_its_beginning(
    topic: str, brokers: Brokers, tmp_path: Path
) -> None:
    brokers.send([factories.release("26.2.1")] * 3, topic_of)
    brokers.send([factories.policy_changed()] * 3, topic_of)
    Run(brokers, tmp_path / "second").live()
    kept = list(brokers.of(topic))
    brokers.of(topic).clear()
    empty = Run(brokers, tmp_path / "empty")
    empty.live()
    assert empty.worker.worker.loader.known_broadcast_ends[topic] == len(kept)
    brokers.append(topic, 0, *kept[0][1:])
    run = Run(brokers, tmp_path / "third")
    run.live(lambda: brokers.send([factories.release("26.3")], topic_of))
    assert run.lost(topic) == len(kept) - 1
    last = {one.decision.udid: one.decision for one in brokers.decisions()}
    with_jobs = [one for one in last.values() if one.reason is Reason.JOB_OPEN]
    assert {str(one.target and one.target.version) for one in with_jobs} == {"26.3"}
    again = Run(brokers, tmp_path / "fourth")
    again.live()
    assert again.lost(topic) == 0


TOPIC = CONTROL.name


@pytest.mark.parametrize(
    ("begin", "end", "read_end", "kept_end", "lost"),
    [
        pytest.param(0, 0, 0, 0, None, id="new deployment"),
        pytest.param(0, 9, 9, 9, None, id="whole"),
        pytest.param(0, 9, 7, 9, None, id="not read to its end yet"),
        pytest.param(5, 9, 9, 9, None, id="old records deleted"),
        pytest.param(9, 9, 9, 9, 9, id="all deleted"),
        pytest.param(9, 9, 9, 0, 9, id="all deleted, no state"),
        pytest.param(0, 0, 0, 9, 9, id="created again before the start"),
        pytest.param(0, 0, 9, 9, 9, id="created again under the worker"),
        pytest.param(0, 7, 9, 9, 2, id="end lost under the worker"),
        pytest.param(0, 7, 7, 9, None, id="end lost before the start: the worker reports it"),
    ],
)
def test_shortage_of_a_broadcast_topic(
    begin: int, end: int, read_end: int, kept_end: int, lost: int | None
) -> None:
    found = find_shortage(TOPIC, BroadcastLog(begin, end, read_end), kept_end)
    assert (None if found is None else found.lost) == lost
    assert found is None or TOPIC in found.detail
