"""Copies changelogs into local stores: for an owner before it starts, for a standby all the time.

It reads with a consumer outside the group, in batches. Faust would pass the rows on one by one, and
would not release any partition before the last one is recovered.

| changelog partition | next step |
| --- | --- |
| its end is the end that the caller has in memory | yielded as unchanged; nothing is read |
| the store's offset is outside the changelog | the store is cleared, and read from the beginning |
| the store is at the end | yielded |
| the store is behind | waits for its turn, is read to the end, flushed, yielded |
| the store fails | an empty one replaces it, and is read from the beginning |
| a record is unreadable | logged, and stored as it is; the owner replaces it (`worker`) |

Invariant: a yielded partition's store has every row before the end offset that was fetched at the
start of the call. Rows that another owner writes later are not in it.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.structs import OffsetAndMetadata, TopicPartition  # type: ignore[import-untyped]

from pipeline.processors.clients import fetch_committed, make_reader
from pipeline.processors.local_store import LocalStore
from pipeline.processors.rows import InvalidRow, epoch_of
from runtime.damaged_files import OnDamage
from runtime.kafka import KafkaConnection
from runtime.logs import Log
from runtime.retry import BROKER, Backoff
from runtime.sqlite import is_damage
from schemas import logkeys as key

_POLL_TIMEOUT_MS: Final = 500
_MAX_POLL_RECORDS: Final = 2_000
# One changelog is fetched while another is applied. With more, all would be ready at the end.
_CONCURRENT_CHANGELOGS: Final = 2
_LOG_INTERVAL_S: Final = 5.0
_STANDBY_PAUSE_S: Final = 1.0
# More damages of one store in one process are a bad disk.
_MAX_DAMAGES: Final = 3


class OffsetReader(NamedTuple):
    """Functions that return offsets of these partitions; they raise KafkaError.

    `begins` is the offset of the first record that is not deleted, `ends` that after the last one,
    `committed` that of the worker's group with its metadata; a partition without one is missing.
    """

    begins: Callable[[list[TopicPartition]], Awaitable[dict[TopicPartition, int]]]
    ends: Callable[[list[TopicPartition]], Awaitable[dict[TopicPartition, int]]]
    committed: Callable[[], Awaitable[dict[TopicPartition, OffsetAndMetadata]]]


class Stores:
    """The local stores of one worker, opened at their first use.

    A store that the disk does not allow is kept in memory, until the process ends: the partition
    works as usual, and the next process reads the changelog again.
    """

    def __init__(self, folder: Path, on_damage: OnDamage, log: Log) -> None:
        self._folder = folder
        self._on_damage = on_damage
        self._log = log
        self._open: dict[TopicPartition, LocalStore] = {}
        self._failures: Counter[TopicPartition] = Counter()

    def get(self, changelog: TopicPartition) -> LocalStore:
        """Return the store of one changelog partition, opened or created at the first call."""
        store = self._open.get(changelog)
        if store is None:
            try:
                store = self._open_file(changelog)
            except (OSError, sqlite3.Error) as error:
                store = self._open_in_memory(changelog, error)
            self._open[changelog] = store
        return store

    def replace(self, changelog: TopicPartition, error: Exception) -> None:
        """Replace a store that failed with this error by an empty one.

        A damaged file is renamed. The new store is in memory after an error of the disk, and after
        the third damage.
        """
        failed = self._open.pop(changelog, None)
        self._failures[changelog] += 1
        try:
            if failed is not None:
                failed.abandon(error)
            if not is_damage(error) or self._failures[changelog] > _MAX_DAMAGES:
                raise error
            self._open[changelog] = self._open_file(changelog)
        except (OSError, sqlite3.Error) as reason:
            self._open[changelog] = self._open_in_memory(changelog, reason)

    def _open_file(self, changelog: TopicPartition) -> LocalStore:
        path = self._folder / changelog.topic / f"{changelog.partition}.sqlite"
        return LocalStore.open(path, _name_of(changelog), self._on_damage)

    def _open_in_memory(self, changelog: TopicPartition, error: Exception) -> LocalStore:
        self._log.error(
            "local store kept in memory: check the disk of the data directory, then restart",
            **{
                key.TOPIC: changelog.topic,
                key.PARTITION: changelog.partition,
                key.DETAIL: str(error),
            },
        )
        return LocalStore.open_in_memory(_name_of(changelog))

    def close(self) -> None:
        """Commit and close all open stores; `get` opens them again.

        The error of one that fails is logged; its last rows are in Kafka.
        """
        for changelog, store in self._open.items():
            try:
                store.close()
            except sqlite3.Error as error:
                store.abandon(error)
                self._log.error(
                    "local store not closed",
                    **{
                        key.TOPIC: changelog.topic,
                        key.PARTITION: changelog.partition,
                        key.DETAIL: str(error),
                    },
                )
        self._open.clear()


class Recovery:
    """Catches local stores up with their changelogs.

    `remaining` is the number of records left to read, `moved_at` the monotonic time at which
    records were last applied.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        stores: Stores,
        log: Log,
        *,
        group: str,
    ) -> None:
        self.remaining = 0
        self.moved_at = monotonic()
        self._connection = connection
        self._group = group
        self._stores = stores
        self._log = log

    async def catch_up(
        self, offsets_in_memory: Mapping[TopicPartition, int | None]
    ) -> AsyncGenerator[tuple[TopicPartition, bool]]:
        """Yield (changelog partition, True if it is unchanged) when its store is up to date.

        `offsets_in_memory` has, for each partition to catch up, the end of the changelog up to
        which the caller has the state in memory; None without such a state. A partition is
        unchanged if its changelog still ends there: the state in memory is complete, and the store
        is not read. Raises KafkaError if Kafka cannot be read.
        """
        async with _ReaderSession(self._connection) as consumer:
            async for ready in self._catch_up(consumer, offsets_in_memory):
                yield ready

    async def _catch_up(
        self, consumer: Any, offsets_in_memory: Mapping[TopicPartition, int | None]
    ) -> AsyncIterator[tuple[TopicPartition, bool]]:
        ends = await _fetch_end_offsets(consumer, list(offsets_in_memory))
        begins = await consumer.beginning_offsets(list(offsets_in_memory))
        ranges = {}
        for changelog, end in ends.items():
            if offsets_in_memory[changelog] is not None and offsets_in_memory[changelog] == end:
                yield changelog, True
                continue
            start = max(self._start_of(changelog, begins[changelog], end), begins[changelog])
            if start >= end:
                yield changelog, False
            else:
                ranges[changelog] = (start, end)
        async for changelog in self._read(consumer, ranges, begins):
            yield changelog, False
        self.remaining = 0

    def _start_of(self, changelog: TopicPartition, begin: int, end: int) -> int:
        """Return the offset up to which the store has the rows of a changelog; 0 for an empty one.

        A store whose offset is not in the changelog is cleared, one that fails is replaced.
        """
        try:
            store = self._stores.get(changelog)
            if not begin <= store.next_offset <= end:
                # The topic was created again, or its older records are deleted.
                store.clear()
        except (OSError, sqlite3.Error) as error:
            self._stores.replace(changelog, error)
        return self._stores.get(changelog).next_offset

    async def _read(
        self,
        consumer: Any,
        ranges: dict[TopicPartition, tuple[int, int]],
        begins: Mapping[TopicPartition, int],
    ) -> AsyncIterator[TopicPartition]:
        """Yield each changelog partition when its store has every row before the end of its range.

        A range is the offset to read from, and the end offset. A store that fails is replaced, and
        read from `begins`.
        """
        if not ranges:
            return
        consumer.assign(list(ranges))
        for changelog, (start, _) in ranges.items():
            consumer.seek(changelog, start)
        waiting = list(ranges)[_CONCURRENT_CHANGELOGS:]
        for changelog in waiting:
            consumer.pause(changelog)
        self.remaining = sum(end - start for start, end in ranges.values())
        ends = {changelog: end for changelog, (_, end) in ranges.items()}
        logged_at = monotonic()
        while ends:
            found = await consumer.getmany(
                timeout_ms=_POLL_TIMEOUT_MS, max_records=_MAX_POLL_RECORDS
            )
            for changelog, records in found.items():
                write = partial(self._apply, changelog, records)
                self._write(consumer, changelog, write, begins)
            for changelog in [one for one in ends if one not in waiting]:
                if await consumer.position(changelog) < ends[changelog]:
                    continue
                if not self._write(consumer, changelog, self._stores.get(changelog).flush, begins):
                    continue
                del ends[changelog]
                consumer.pause(changelog)
                if waiting:
                    consumer.resume(waiting.pop(0))
                yield changelog
            logged_at = self._report_remaining(ends, logged_at)
            await asyncio.sleep(0)

    def _report_remaining(self, ends: Mapping[TopicPartition, int], logged_at: float) -> float:
        """Set `remaining`, log it if the last line is old, and return the time of the last line."""
        self.remaining = sum(
            end - self._stores.get(changelog).next_offset for changelog, end in ends.items()
        )
        if monotonic() - logged_at < _LOG_INTERVAL_S:
            return logged_at
        self._log.info("recovering state", **{key.COUNT: self.remaining})
        return monotonic()

    def _write(
        self,
        consumer: Any,
        changelog: TopicPartition,
        write: Callable[[], None],
        begins: Mapping[TopicPartition, int],
    ) -> bool:
        """Write to a store and return True.

        Returns False if the store fails: it is replaced, and the consumer begins again.
        """
        try:
            write()
        except (OSError, sqlite3.Error) as error:
            self._stores.replace(changelog, error)
            consumer.seek(changelog, begins[changelog])
            return False
        return True

    async def follow_as_standby(self, changelogs: list[TopicPartition]) -> None:
        """Keep the stores of other workers' partitions up to date, until cancelled.

        Errors of Kafka are logged and retried, with a new consumer.
        """
        backoff = Backoff(BROKER)
        while True:
            try:
                async with _ReaderSession(self._connection) as consumer:
                    while True:
                        async for _ in self._catch_up(consumer, dict.fromkeys(changelogs)):
                            pass
                        await asyncio.sleep(_STANDBY_PAUSE_S)
            except KafkaError as error:
                self._log.warning(
                    "standby cannot read the changelog, trying again",
                    **{key.DETAIL: repr(error)},
                )
            await backoff.sleep()

    @asynccontextmanager
    async def open_offset_reader(self) -> AsyncIterator[OffsetReader]:
        """Return a context manager that gives functions to read offsets, until its block ends.

        Entering raises KafkaError if no broker can be reached.
        """
        async with _ReaderSession(self._connection) as consumer:
            yield OffsetReader(
                consumer.beginning_offsets,
                partial(_fetch_end_offsets, consumer),
                partial(fetch_committed, self._connection, self._group),
            )

    async def history_of(
        self, changelog: TopicPartition, keys: Collection[bytes]
    ) -> dict[bytes, list[tuple[int, bytes | None]]]:
        """Return all records of these keys in a changelog, by key, each as (offset, row), in order.

        Reads the whole changelog. Raises KafkaError if Kafka cannot be read.
        """
        found: dict[bytes, list[tuple[int, bytes | None]]] = {name: [] for name in keys}
        async for record in self._records_of(changelog):
            if record.key in found:
                found[record.key].append((record.offset, record.value))
        return found

    async def rows_above(
        self, changelog: TopicPartition, epoch: int, start: int = 0
    ) -> list[tuple[int, bytes]]:
        """Return the rows with a higher epoch in order, each as (offset, key).

        Reads the changelog from the offset `start`. Raises KafkaError if Kafka cannot be read.
        """
        found = []
        async for record in self._records_of(changelog, start):
            with suppress(InvalidRow):
                if record.value is not None and epoch_of(record.value) > epoch:
                    found.append((record.offset, record.key))
        return found

    async def _records_of(self, changelog: TopicPartition, start: int = 0) -> AsyncIterator[Any]:
        """Yield the records of a changelog from an offset, or from its beginning if that is later.

        Ends with the last record at the time of the call. Raises KafkaError.
        """
        async with _ReaderSession(self._connection) as consumer:
            [end] = (await _fetch_end_offsets(consumer, [changelog])).values()
            [begin] = (await consumer.beginning_offsets([changelog])).values()
            consumer.assign([changelog])
            consumer.seek(changelog, max(start, begin))
            while await consumer.position(changelog) < end:
                fetched = await consumer.getmany(
                    timeout_ms=_POLL_TIMEOUT_MS, max_records=_MAX_POLL_RECORDS
                )
                for record in fetched.get(changelog, ()):
                    yield record
                self.moved_at = monotonic()
                await asyncio.sleep(0)

    def _apply(self, changelog: TopicPartition, records: list[Any]) -> None:
        """Apply fetched records to the store; log the unreadable ones, and the number of void rows.

        A record without a key is skipped: Kafka takes none in a compacted topic.
        """
        keyed = [record for record in records if record.key is not None]
        changes = ((record.key, record.value) for record in keyed)
        void, unreadable = self._stores.get(changelog).apply_changelog(
            changes, records[-1].offset + 1
        )
        self.moved_at = monotonic()
        partition_keys = {key.TOPIC: changelog.topic, key.PARTITION: changelog.partition}
        for index in unreadable:
            record = keyed[index]
            self._log.warning(
                "unreadable row",
                **partition_keys,
                **{key.OFFSET: record.offset, key.KEY: repr(record.key)},
            )
        if void:
            self._log.warning(
                "rows of an earlier epoch ignored", **partition_keys, **{key.COUNT: void}
            )


def _name_of(changelog: TopicPartition) -> str:
    return f"{changelog.topic}/{changelog.partition}"


async def _fetch_end_offsets(
    consumer: Any, changelogs: list[TopicPartition]
) -> dict[TopicPartition, int]:
    """Return, for each of these partitions, the offset after its last record.

    Raises KafkaError if Kafka cannot be read.

    One request per topic, all at once: aiokafka waits 0.1 s for the metadata of each topic that is
    new to it, and in one request it waits for one topic after another.
    """
    topics: dict[str, list[TopicPartition]] = {}
    for changelog in changelogs:
        topics.setdefault(changelog.topic, []).append(changelog)
    found = await asyncio.gather(*(consumer.end_offsets(some) for some in topics.values()))
    return {changelog: end for some in found for changelog, end in some.items()}


class _ReaderSession:
    def __init__(self, connection: KafkaConnection) -> None:
        self._consumer = make_reader(connection)

    async def __aenter__(self) -> Any:
        await self._consumer.start()
        return self._consumer

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
