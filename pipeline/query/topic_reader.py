"""Reads the topics into a view: without a group, without a commit, and without a producer.

It has no effect on the groups of workers. Its login may only read (`drydock topics acl`).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]

from pipeline.processors.clients import fetch_partition_counts, make_reader
from pipeline.query.time_merge import READ_TOPICS, Partition, TimeMerge, TopicRecord
from pipeline.query.view import View
from runtime.kafka import KafkaConnection

_POLL_MS: Final = 250
_MAX_RECORDS: Final = 500
# One partition may be read ahead of the others by so many records.
_MAX_WAITING: Final = 2000
# A transaction holds up the readers of the HTTP API: at most so many records in one.
_MAX_BATCH: Final = 200
_COUNT_EVERY_S: Final = 5.0


# Runs a write of the view to its end, in the thread that owns the view.
Run = Callable[[Callable[[], None]], Awaitable[None]]


class TopicsError(Exception):
    """The topics cannot be read; the message is the reason, in one line."""


@dataclass
class TopicReader:
    """Reads into one view.

    `targets` are the ends of the partitions at the start, `ends` those at `read_at`: the last time
    at which the leaders of all partitions responded. A fetch without records shows nothing: it is
    the same if the brokers are away.
    """

    view: View
    run: Run
    consumer: Any
    partitions: tuple[Partition, ...]
    merge: TimeMerge
    targets: Mapping[Partition, int]
    ends: dict[Partition, int]
    read_at: datetime
    records: dict[str, int] = field(default_factory=dict)
    _counted_at: float = 0.0

    @property
    def is_behind(self) -> bool:
        """True until the view has all records that the topics had at the start."""
        return self.merge.is_behind

    def lag(self) -> dict[str, int]:
        """Return the number of records behind the ends of the partitions, by topic.

        The ends are those of the last count; offsets that a transaction's marker occupies count.
        """
        found = {topic.name: 0 for topic in READ_TOPICS}
        for partition, end in self.ends.items():
            found[partition.topic] += max(end - self.view.next_offset(partition), 0)
        return found

    async def read_once(self) -> None:
        """Read and apply the next records, or return after 250 ms without any.

        Raises KafkaError, StoreError.
        """
        fetched = await self.consumer.getmany(timeout_ms=_POLL_MS, max_records=_MAX_RECORDS)
        for tp, found in fetched.items():
            partition = Partition(tp.topic, tp.partition)
            self.merge.add(partition, (_record(one) for one in found))
            if self.merge.waiting(partition) >= _MAX_WAITING:
                self.consumer.pause(tp)
        for partition in self.partitions if self.merge.is_behind else ():
            if await self._position(partition) >= self.targets[partition]:
                self.merge.mark_at_end(partition)
        await self._apply()
        for tp in self.consumer.paused():
            if self.merge.waiting(Partition(tp.topic, tp.partition)) < _MAX_WAITING:
                self.consumer.resume(tp)
        now = asyncio.get_running_loop().time()
        if now - self._counted_at >= _COUNT_EVERY_S:
            self._counted_at = now
            self.ends = await _ends(self.consumer, self.partitions)
            self.read_at = datetime.now(UTC)

    async def _apply(self) -> None:
        batch: list[TopicRecord] = []
        for record in self.merge.pop():
            batch.append(record)
            if len(batch) == _MAX_BATCH:
                await self._store(batch)
                batch = []
        await self._store(batch)
        # Markers of transactions occupy offsets, and are not read.
        passed = {
            partition: await self._position(partition)
            for partition in self.partitions
            if not self.merge.waiting(partition)
        }
        if any(self.view.next_offset(one) < offset for one, offset in passed.items()):
            await self.run(lambda: self.view.add((), passed))

    async def _store(self, batch: list[TopicRecord]) -> None:
        if batch:
            await self.run(lambda: self.view.add(batch, {}))
            for record in batch:
                self.records[record.topic] = self.records.get(record.topic, 0) + 1

    async def _position(self, partition: Partition) -> int:
        return int(await self.consumer.position(TopicPartition(*partition)))


@asynccontextmanager
async def open_reader(
    connection: KafkaConnection, view: View, run: Run
) -> AsyncIterator[TopicReader]:
    """Yield a reader at the next records of the view.

    Raises KafkaError, TopicsError for missing topics, OSError or ssl.SSLError for a file of TLS,
    and ValueError if a topic was created again.
    """
    consumer = make_reader(connection)
    try:
        await consumer.start()
        counts = await fetch_partition_counts(connection)
        names = [topic.name for topic in READ_TOPICS]
        missing = [name for name in names if name not in counts]
        if missing:
            raise TopicsError(f"no topic {', '.join(missing)}: run `drydock topics apply`")
        partitions = tuple(Partition(name, at) for name in names for at in range(counts[name]))
        tps = [TopicPartition(*one) for one in partitions]
        consumer.assign(tps)
        begins = await consumer.beginning_offsets(tps)
        ends = await _ends(consumer, partitions)
        for partition, tp in zip(partitions, tps, strict=True):
            start = view.begin_at(partition, begins[tp], ends[partition])
            consumer.seek(tp, start)
        merge, read_at = TimeMerge(partitions), datetime.now(UTC)
        yield TopicReader(view, run, consumer, partitions, merge, ends, ends, read_at)
    finally:
        await consumer.stop()


async def read_to_end(
    connection: KafkaConnection, view: View, progress: Callable[[int, int], None]
) -> None:
    """Return once the view has all records that the topics had at the call.

    `progress` gets the number of records read and left. Raises as `open_reader` does.
    """
    async with open_reader(connection, view, _run_here) as reader:
        done = 0
        while True:
            reader.records.clear()
            await reader.read_once()
            done += sum(reader.records.values())
            progress(done, sum(reader.lag().values()))
            if not reader.is_behind:
                return


async def _run_here(write: Callable[[], None]) -> None:
    write()


async def _ends(consumer: Any, partitions: Iterable[Partition]) -> dict[Partition, int]:
    ends = await consumer.end_offsets([TopicPartition(*one) for one in partitions])
    return {Partition(tp.topic, tp.partition): end for tp, end in ends.items()}


def _record(record: Any) -> TopicRecord:
    return TopicRecord(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key or b"",
        record.value or b"",
    )
