"""Kafka as lists in memory, and workers on it that die at a chosen write.

Real are the worker, its shards, its recovery and its local stores; the brokers, the clients and
the pump are not.
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
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]
from faust.types import TP
from prometheus_client import CollectorRegistry

from pipeline.metrics import Metrics
from pipeline.processors import recovery, rows
from pipeline.processors.app import SUBSCRIBED
from pipeline.processors.broadcast import BROADCAST_TOPICS, BroadcastState
from pipeline.processors.confirmed_producer import Row
from pipeline.processors.device_shard import DEVICE_TOPICS
from pipeline.processors.recovery import Recovery, Stores
from pipeline.processors.shard_config import ShardConfig
from pipeline.processors.shard_output import OutgoingRecord
from pipeline.processors.worker import Worker, changelog_of
from schemas.connection import KafkaConnection
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
# Turns of the event loop: enough for others to get something done meanwhile.
_ROUND_TRIP = 50
METRICS = Metrics(CollectorRegistry())
SILENT = structlog.wrap_logger(
    structlog.ReturnLogger(), wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
)


class Record(NamedTuple):
    """What is in a topic."""

    offset: int
    key: bytes
    value: bytes | None


class Position(NamedTuple):
    """Where a record lies."""

    offset: int


@dataclass
class Brokers:
    """What survives every crash: the topics, and how far the group is."""

    topics: dict[TopicPartition, list[Record]] = field(default_factory=dict)
    committed: dict[TopicPartition, int] = field(default_factory=dict)

    def of(self, topic: str, partition: int = 0) -> list[Record]:
        """A partition's records."""
        return self.topics.setdefault(TopicPartition(topic, partition), [])

    def append(self, topic: str, partition: int, name: bytes, value: bytes | None) -> int:
        """Write a record; its offset."""
        records = self.of(topic, partition)
        records.append(Record(len(records), name, value))
        return len(records) - 1

    def send(self, events: Iterable[CloudEvent], topic_of: Callable[[CloudEvent], str]) -> None:
        """Publish events where they belong."""
        for event in events:
            topic, name = topic_of(event), key_of(event)
            count = COUNTS.get(topic, 1)
            self.append(topic, partition_of(name, count), name.encode(), encode(event))

    def all(self, topic: str) -> list[Record]:
        """A topic's records, by partition."""
        return [
            one
            for changelog in sorted(self.topics)
            if changelog.topic == topic
            for one in self.topics[changelog]
        ]

    def published(self) -> list[JobIssuedEvent]:
        """What reached executors, in order."""
        events = [decode(one.value or b"") for site in SITES for one in self.all(jobs_topic(site))]
        return [event for event in events if isinstance(event, JobIssuedEvent)]

    def decisions(self) -> list[DecisionRecord]:
        """Every decision, each Mac's in order."""
        return [
            DecisionRecord.model_validate_json(one.value or b"") for one in self.all(DECISIONS.name)
        ]


class MemoryReader:
    """As much of a consumer as recovery uses."""

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
        return dict.fromkeys(changelogs, 0)

    def assign(self, changelogs: Sequence[TopicPartition]) -> None:
        self._at = dict.fromkeys(changelogs, 0)

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
        found = {place: self._brokers.of(*place)[at:] for place, at in read.items()}
        self._at |= {place: len(self._brokers.of(*place)) for place in read}
        return {place: records for place, records in found.items() if records}


class MemoryProducer:
    """Writes to the lists, and reports each moment before and after a write."""

    def __init__(self, brokers: Brokers, on_moment: Callable[[str], None]) -> None:
        self._brokers = brokers
        self._on_moment = on_moment
        # Writes to this topic are not answered before the event is set.
        self.silent = ""
        self.answers = asyncio.Event()

    async def publish(self, posts: Sequence[OutgoingRecord], _: Callable[[], bool]) -> None:
        changelogs: dict[tuple[str, int], list[Row]] = {}
        for topic, partition, name, value in posts:
            changelogs.setdefault((topic, partition), []).append((name, value))
        await self.write(changelogs, _)

    async def write(
        self, changelogs: Mapping[tuple[str, int], Sequence[Row]], _: Callable[[], bool]
    ) -> dict[tuple[str, int], int]:
        ends = {}
        for (topic, partition), some in changelogs.items():
            self._on_moment(f"before {topic}")
            for name, value in some:
                ends[topic, partition] = self._brokers.append(topic, partition, name, value)
            self._on_moment(f"after {topic}")
        if any(topic == self.silent for topic, _ in changelogs):
            await self.answers.wait()
        return ends


@dataclass
class MemoryWorker:
    """One worker process, from its start to its death. It has all partitions."""

    brokers: Brokers
    folder: Path
    now: Callable[[], datetime]
    on_moment: Callable[[str], None] = field(default_factory=CrashPoint)
    slice: int = 200
    is_counted_in: bool = True
    refresh: timedelta = timedelta(0)
    due_budget_s: float = 0.25
    fast_paths: bool = True

    def __post_init__(self) -> None:
        self.facts = BroadcastState(KEYS.approvals)
        self.stores = Stores(self.folder)
        terms = ShardConfig(
            JOBS_KEY,
            KEYS.jobs,
            COUNTS,
            refresh=self.refresh,
            slice_size=self.slice,
            due_budget_s=self.due_budget_s,
            fast_paths=self.fast_paths,
        )
        self.recovery = Recovery(KafkaConnection(), self.stores, SILENT)
        self.outbox = MemoryProducer(self.brokers, self.on_moment)
        self.worker = Worker(
            *(self.facts, terms, self.outbox, self.stores),  # type: ignore[arg-type]
            self.recovery,
            clock=self.now,
            metrics=METRICS,
            log=SILENT,
        )
        self.worker.job_topics |= JOB_TOPICS
        self.positions: dict[TP, int] = {}

    async def begin(self) -> None:
        """Own everything, from where the group is."""
        self.read_broadcasts()
        self.positions = {tp: self.brokers.committed.get(TopicPartition(*tp), 0) for tp in INPUTS}
        await self.own()

    async def own(self) -> None:
        """Be given everything, again or for the first time."""
        await self.worker.assign({changelog_of(*tp) for tp in INPUTS}, lambda _: None)

    def read_broadcasts(self) -> None:
        """Read the fact topics to their ends."""
        for topic in BROADCAST_TOPICS:
            for record in self.brokers.of(topic.name):
                self.facts.fold_record(topic.name, record.offset, record.value)

    async def round(self, most: int = 3, *, commit: bool = True) -> bool:
        """One round of the pump; whether anything was to be done."""
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
            self.brokers.committed |= {TopicPartition(*tp): offset for tp, offset in done.items()}
            self.on_moment("after commit")
        return not idle

    async def is_member(self) -> bool:
        """Whether the group counts this worker in."""
        return self.is_counted_in

    async def position(self, tp: TP) -> int:
        """Where it reads on."""
        return self.positions[tp]

    async def live(self) -> None:
        """From the start until nothing is left to do."""
        await self.begin()
        while await self.round():
            pass

    def end(self) -> None:
        """Let go of its files, as the system does for a dead process."""
        self.stores.close()


@contextmanager
def reading(brokers: Brokers) -> Iterator[None]:
    """Recovery reads from there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "make_reader", lambda *_: MemoryReader(brokers))
        yield


def run_until_idle(worker: MemoryWorker) -> None:
    """Run a process to its end, or to its death (Crash)."""
    try:
        with reading(worker.brokers):
            asyncio.run(worker.live())
    finally:
        worker.end()


def state_of(brokers: Brokers, folder: Path) -> dict[str, Any]:
    """The Macs as a new owner would find them: rows but for who wrote them."""
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
