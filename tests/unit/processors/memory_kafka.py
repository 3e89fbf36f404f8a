"""Kafka as lists in memory, and workers on it that crash at a chosen write.

The worker, its shards, its recovery and its local stores are real; the brokers, the clients and
the pump are fakes.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog
from aiokafka.structs import OffsetAndMetadata, TopicPartition  # type: ignore[import-untyped]
from faust.types import TP
from prometheus_client import CollectorRegistry

from pipeline.metrics import Metrics
from pipeline.processors import recovery, rows
from pipeline.processors.app import SUBSCRIBED
from pipeline.processors.broadcast import BROADCAST_TOPICS, BroadcastState
from pipeline.processors.confirmed_producer import Row
from pipeline.processors.device_shard import DEVICE_TOPICS
from pipeline.processors.owned_partition import changelog_of
from pipeline.processors.recovery import Recovery, Stores
from pipeline.processors.shard_config import ShardConfig
from pipeline.processors.shard_output import OutgoingRecord
from pipeline.processors.worker import Worker
from runtime.kafka import KafkaConnection
from runtime.offset_gaps import COMMIT_METADATA
from schemas.decisions import DecisionRecord
from schemas.envelope import CloudEvent, JobIssuedEvent, decode, encode
from schemas.topics import DEAD_LETTERS, DECISIONS, DISPATCH, STATE, jobs_topic, partition_of
from tests.crash_points import CrashPoint
from tests.factories import NOW, key_of
from tests.factories.sites import JOBS_KEY, KEYS

PARTITIONS, DISPATCH_PARTITIONS = 2, 2
SITES = ("london", "tokyo")
COUNTS = {topic.name: PARTITIONS for topic in DEVICE_TOPICS} | {
    DISPATCH.name: DISPATCH_PARTITIONS,
    DEAD_LETTERS.name: 1,
}
INPUTS = [TP(topic.name, number) for topic in SUBSCRIBED for number in range(COUNTS[topic.name])]
JOB_TOPICS = {jobs_topic(site): 1 for site in SITES}
# Turns of the event loop for one request: other tasks run meanwhile.
_ROUND_TRIP = 50
METRICS = Metrics(CollectorRegistry())
SILENT = structlog.wrap_logger(
    structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
)


class Record(NamedTuple):
    """A record in a topic."""

    offset: int
    key: bytes
    value: bytes | None


@dataclass
class Brokers:
    """The state that survives every crash: the topics and the group's committed offsets."""

    topics: dict[TopicPartition, list[Record]] = field(default_factory=dict)
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    # Committed offsets by a tool, and not by a worker.
    moved: dict[TopicPartition, int] = field(default_factory=dict)
    begins: dict[TopicPartition, int] = field(default_factory=dict)

    def of(self, topic: str, partition: int = 0) -> list[Record]:
        """Return the records of a partition."""
        return self.topics.setdefault(TopicPartition(topic, partition), [])

    def append(self, topic: str, partition: int, name: bytes, value: bytes | None) -> int:
        """Write a record; return its offset."""
        records = self.of(topic, partition)
        records.append(Record(len(records), name, value))
        return len(records) - 1

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Delete the records of a partition before an offset."""
        self.begins[TopicPartition(topic, partition)] = offset

    def begin_of(self, topic: str, partition: int) -> int:
        """Return the offset of the first record that is not deleted."""
        return self.begins.get(TopicPartition(topic, partition), 0)

    def start_of(self, tp: TP) -> int:
        """Return the offset from which the group reads a partition after a start."""
        partition = TopicPartition(*tp)
        offset = self.moved.get(partition, self.committed.get(partition, 0))
        begin = self.begin_of(*tp)
        return offset if begin <= offset <= len(self.of(*tp)) else begin

    async def fetch_committed(self, *_: object) -> dict[TopicPartition, OffsetAndMetadata]:
        """Return the committed offsets of the group."""
        own = {
            partition: OffsetAndMetadata(offset, COMMIT_METADATA)
            for partition, offset in self.committed.items()
        }
        return own | {
            partition: OffsetAndMetadata(offset, "") for partition, offset in self.moved.items()
        }

    def send(self, events: Iterable[CloudEvent], topic_of: Callable[[CloudEvent], str]) -> None:
        """Publish events to the partitions of their keys."""
        for event in events:
            topic, name = topic_of(event), key_of(event)
            count = COUNTS.get(topic, 1)
            self.append(topic, partition_of(name, count), name.encode(), encode(event))

    def all(self, topic: str) -> list[Record]:
        """Return the records of a topic, by partition."""
        return [
            one
            for changelog in sorted(self.topics)
            if changelog.topic == topic
            for one in self.topics[changelog]
        ]

    def published(self) -> list[JobIssuedEvent]:
        """Return the jobs that were published to executors, in order."""
        events = [decode(one.value or b"") for site in SITES for one in self.all(jobs_topic(site))]
        return [event for event in events if isinstance(event, JobIssuedEvent)]

    def decisions(self) -> list[DecisionRecord]:
        """Return all decisions; those of one Mac are in order."""
        return [
            DecisionRecord.model_validate_json(one.value or b"") for one in self.all(DECISIONS.name)
        ]


class MemoryReader:
    """The part of a consumer that recovery uses."""

    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers
        self._at: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def end_offsets(self, changelogs: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        for _ in range(_ROUND_TRIP):
            await asyncio.sleep(0)
        return {changelog: len(self._brokers.of(*changelog)) for changelog in changelogs}

    async def beginning_offsets(
        self, changelogs: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        return {changelog: self._brokers.begin_of(*changelog) for changelog in changelogs}

    def assign(self, changelogs: Sequence[TopicPartition]) -> None:
        self._at = dict.fromkeys(changelogs, 0)
        self._paused.clear()

    def seek(self, changelog: TopicPartition, offset: int) -> None:
        self._at[changelog] = offset

    def pause(self, changelog: TopicPartition) -> None:
        self._paused.add(changelog)

    def resume(self, changelog: TopicPartition) -> None:
        self._paused.remove(changelog)

    async def position(self, changelog: TopicPartition) -> int:
        return self._at[changelog]

    async def getmany(self, **_: Any) -> dict[TopicPartition, list[Record]]:
        read = {
            changelog: at for changelog, at in self._at.items() if changelog not in self._paused
        }
        found = {changelog: self._brokers.of(*changelog)[at:] for changelog, at in read.items()}
        self._at |= {changelog: len(self._brokers.of(*changelog)) for changelog in read}
        return {changelog: records for changelog, records in found.items() if records}


class MemoryProducer:
    """Writes to the lists, and reports each moment before and after a write."""

    def __init__(self, brokers: Brokers, on_moment: Callable[[str], None]) -> None:
        self._brokers = brokers
        self._on_moment = on_moment
        # Writes to this topic are not confirmed before the event is set.
        self.unconfirmed_topic = ""
        self.may_confirm = asyncio.Event()

    async def publish(self, records: Sequence[OutgoingRecord], _: Callable[[], bool]) -> None:
        batches: dict[tuple[str, int], list[Row]] = {}
        for topic, partition, name, value in records:
            batches.setdefault((topic, partition), []).append((name, value))
        await self.write(batches, _)

    async def write(
        self, batches: Mapping[tuple[str, int], Sequence[Row]], _: Callable[[], bool]
    ) -> dict[tuple[str, int], int]:
        ends = {}
        for (topic, partition), some in batches.items():
            self._on_moment(f"before {topic}")
            for name, value in some:
                ends[topic, partition] = self._brokers.append(topic, partition, name, value)
            self._on_moment(f"after {topic}")
        if any(topic == self.unconfirmed_topic for topic, _ in batches):
            await self.may_confirm.wait()
        return ends


@dataclass
class MemoryWorker:
    """One worker process, from its start to its end. It owns all partitions."""

    brokers: Brokers
    folder: Path
    now: Callable[[], datetime]
    on_moment: Callable[[str], None] = field(default_factory=CrashPoint)
    slice: int = 200
    is_group_member: bool = True
    refresh: timedelta = timedelta(0)
    due_budget_s: float = 0.25
    fast_paths: bool = True
    log: Any = SILENT
    metrics: Metrics = METRICS

    def __post_init__(self) -> None:
        self.broadcast = BroadcastState(KEYS.approvals)
        self.damaged: list[Path] = []
        self.stores = Stores(self.folder, lambda path, *_: self.damaged.append(path), self.log)
        config = ShardConfig(
            JOBS_KEY,
            KEYS.jobs,
            COUNTS,
            refresh=self.refresh,
            slice_size=self.slice,
            due_budget_s=self.due_budget_s,
            fast_paths=self.fast_paths,
        )
        self.recovery = Recovery(KafkaConnection(), self.stores, self.log, group="workers")
        self.producer = MemoryProducer(self.brokers, self.on_moment)
        self.worker = Worker(
            *(self.broadcast, config, self.producer, self.stores),  # type: ignore[arg-type]
            self.recovery,
            clock=self.now,
            metrics=self.metrics,
            log=self.log,
        )
        self.worker.loader.job_topics |= JOB_TOPICS
        self.positions: dict[TP, int] = {}

    async def begin(self) -> None:
        """Own all partitions, from the committed offsets."""
        self.read_broadcasts()
        self.positions = {tp: self.brokers.start_of(tp) for tp in INPUTS}
        await self.own()

    async def own(self) -> None:
        """Assign all partitions to this worker, again or for the first time."""
        await self.worker.assign({changelog_of(*tp) for tp in INPUTS}, lambda _: None)

    def dropped(self) -> set[TopicPartition]:
        """Return the partitions that the worker has dropped from memory."""
        return {changelog_of(*tp) for tp in INPUTS} - self.worker.partitions.keys()

    async def recover_dropped(self) -> None:
        """Recover the dropped partitions from the committed offsets."""
        dropped = self.dropped()
        self.positions |= {
            tp: self.brokers.start_of(tp) for tp in INPUTS if changelog_of(*tp) in dropped
        }
        await self.worker.recover(dict.fromkeys(dropped), lambda _: None)

    def read_broadcasts(self) -> None:
        """Read the broadcast topics to their ends."""
        for topic in BROADCAST_TOPICS:
            begin = self.brokers.begin_of(topic.name, 0)
            for record in self.brokers.of(topic.name)[begin:]:
                self.broadcast.fold_record(topic.name, record.offset, record.value)

    async def round(self, most: int = 3, *, commit: bool = True) -> bool:
        """Run one round of the pump; return True if there was work."""
        for tp, at in self.positions.items():
            if self.brokers.begin_of(*tp) > at:
                self.positions[tp] = self.brokers.begin_of(*tp)
                self.worker.report_deleted(tp, self.positions[tp])
        batches = {
            tp: some
            for tp, at in self.positions.items()
            if (some := self.brokers.of(*tp)[at : at + most])
        }
        idle = not batches and self.worker.is_idle()
        done = await self.worker.process_batches(batches, self)
        self.positions |= done
        if commit and done:
            self.on_moment("before commit")
            for tp, offset in done.items():
                self.brokers.committed[TopicPartition(*tp)] = offset
                self.brokers.moved.pop(TopicPartition(*tp), None)
            self.on_moment("after commit")
        return not idle

    async def is_member(self) -> bool:
        """Return True if the worker is a member of the group."""
        return self.is_group_member

    async def position(self, tp: TP) -> int:
        """Return the next offset to read."""
        return self.positions[tp]

    async def live(self) -> None:
        """Run from the start until no work is left."""
        await self.begin()
        while await self.round():
            pass

    def end(self) -> None:
        """Close the files, as the system does for a process that ended."""
        self.stores.close()


@contextmanager
def reading(brokers: Brokers) -> Iterator[None]:
    """Let recovery read from these brokers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "make_reader", lambda *_: MemoryReader(brokers))
        patch.setattr(recovery, "fetch_committed", brokers.fetch_committed)
        yield


def run_until_idle(worker: MemoryWorker) -> None:
    """Run a process until it is idle. Raises Crash at its crash point."""
    try:
        with reading(worker.brokers):
            asyncio.run(worker.live())
    finally:
        worker.end()


def state_of(brokers: Brokers, folder: Path) -> dict[str, Any]:
    """Return the rows of all Macs as a new owner would load them, without their epochs."""
    worker = MemoryWorker(brokers, folder, lambda: NOW)

    async def read() -> dict[str, Any]:
        found: dict[str, Any] = {}
        changelogs = [TopicPartition(STATE.name, number) for number in range(PARTITIONS)]
        async for changelog, _ in worker.recovery.catch_up(dict.fromkeys(changelogs)):
            for name, raw in worker.stores.get(changelog).all():
                if name != rows.EPOCH_KEY:
                    found[name.decode()] = {
                        k: v for k, v in rows.decode_row(raw).items() if k != "e"
                    }
        return found

    try:
        with reading(brokers):
            return asyncio.run(read())
    finally:
        worker.end()
