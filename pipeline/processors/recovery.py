"""Brings a partition's rows to this machine: for an owner before it begins, for a standby always.

It reads the changelogs with a consumer of its own, in batches, into the local stores. Faust would
hand them over one by one, and hold every partition until the last one is there.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import structlog
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]

from pipeline.processors import rows
from pipeline.processors.clients import make_reader
from pipeline.processors.local_store import LocalStore
from schemas import logkeys as key
from schemas.connection import KafkaConnection

_POLL_TIMEOUT_MS: Final = 500
_MAX_POLL_RECORDS: Final = 2_000
# One is fetched while another is taken in; with more, the first is ready as late as the last.
_CONCURRENT_CHANGELOGS: Final = 2
_LOG_INTERVAL_S: Final = 5.0
_STANDBY_PAUSE_S: Final = 1.0

FetchEndOffsets = Callable[[list[TopicPartition]], Awaitable[dict[TopicPartition, int]]]


class Stores:
    """The local stores of one worker, opened when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[TopicPartition, LocalStore] = {}

    def get(self, changelog: TopicPartition) -> LocalStore:
        """The store of one changelog partition. Raises OSError, sqlite3.Error."""
        store = self._open.get(changelog)
        if store is None:
            path = self._folder / changelog.topic / f"{changelog.partition}.sqlite"
            store = self._open[changelog] = LocalStore.open(path)
        return store

    def close(self) -> None:
        """Let go of all of them."""
        for store in self._open.values():
            store.close()
        self._open.clear()


class Recovery:
    """Catches local stores up with their changelogs. `remaining` records are still to be read."""

    def __init__(
        self,
        connection: KafkaConnection,
        stores: Stores,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self.remaining = 0
        self.moved_at = monotonic()
        self._connection = connection
        self._stores = stores
        self._log = log

    async def catch_up(
        self, offsets_in_memory: Mapping[TopicPartition, int | None]
    ) -> AsyncIterator[tuple[TopicPartition, bool]]:
        """Bring the stores of these partitions up to date, and give each one as it is ready.

        `held` says up to where a partition's state is in memory, None if it is not; with each
        comes whether that state is still all there is: nobody wrote behind our back.
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
            store = self._stores.get(changelog)
            if not begins[changelog] <= store.next_offset <= end:
                # The topic is not the one this copy was made of, or no longer goes back so far.
                store.clear()
            start = max(store.next_offset, begins[changelog])
            if start >= end:
                yield changelog, False
            else:
                ranges[changelog] = (start, end)
        async for changelog in self._read(consumer, ranges):
            yield changelog, False
        self.remaining = 0

    async def _read(
        self, consumer: Any, ranges: dict[TopicPartition, tuple[int, int]]
    ) -> AsyncIterator[TopicPartition]:
        if not ranges:
            return
        consumer.assign(list(ranges))
        for changelog, (start, _) in ranges.items():
            consumer.seek(changelog, start)
        waiting = list(ranges)[_CONCURRENT_CHANGELOGS:]
        for changelog in waiting:
            consumer.pause(changelog)
        self.remaining = sum(end - start for start, end in ranges.values())
        ends = {place: end for place, (_, end) in ranges.items()}
        logged_at = monotonic()
        while ends:
            found = await consumer.getmany(
                timeout_ms=_POLL_TIMEOUT_MS, max_records=_MAX_POLL_RECORDS
            )
            for changelog, records in found.items():
                self._apply(changelog, records)
            for changelog in [place for place in ends if place not in waiting]:
                if await consumer.position(changelog) >= ends[changelog]:
                    del ends[changelog]
                    consumer.pause(changelog)
                    if waiting:
                        consumer.resume(waiting.pop(0))
                    self._stores.get(changelog).flush()
                    yield changelog
            self.remaining = sum(
                end - self._stores.get(place).next_offset for place, end in ends.items()
            )
            if monotonic() - logged_at >= _LOG_INTERVAL_S:
                logged_at = monotonic()
                self._log.info("recovering state", **{key.COUNT: self.remaining})
            await asyncio.sleep(0)

    async def follow_as_standby(self, changelogs: list[TopicPartition]) -> None:
        """Keep the stores of other workers' partitions up to date, until cancelled."""
        async with _ReaderSession(self._connection) as consumer:
            while True:
                try:
                    async for _ in self._catch_up(consumer, dict.fromkeys(changelogs)):
                        pass
                except KafkaError as error:
                    self._log.warning(
                        "standby cannot read the changelog", **{key.DETAIL: repr(error)}
                    )
                await asyncio.sleep(_STANDBY_PAUSE_S)

    @asynccontextmanager
    async def open_offset_reader(self) -> AsyncIterator[FetchEndOffsets]:
        """What asks the brokers for the ends of partitions."""
        async with _ReaderSession(self._connection) as consumer:
            yield partial(_fetch_end_offsets, consumer)

    def _apply(self, changelog: TopicPartition, records: list[Any]) -> None:
        store = self._stores.get(changelog)
        changes = ((record.key, record.value) for record in records)
        try:
            for record in records:
                rows.check_key(record.key)
            void = store.apply_changelog(changes, records[-1].offset + 1)
        except rows.InvalidRow as error:
            raise rows.InvalidRow(f"{changelog.topic}/{changelog.partition}: {error}") from error
        self.moved_at = monotonic()
        if void:
            self._log.warning(
                "rows of an earlier epoch ignored",
                **{key.TOPIC: changelog.topic, key.PARTITION: changelog.partition, key.COUNT: void},
            )


async def _fetch_end_offsets(
    consumer: Any, changelogs: list[TopicPartition]
) -> dict[TopicPartition, int]:
    """Where these partitions end. All topics at a time: the client waits a tenth of a second for
    one that it does not know yet, and asked for several learns one after another."""
    topics: dict[str, list[TopicPartition]] = {}
    for changelog in changelogs:
        topics.setdefault(changelog.topic, []).append(changelog)
    found = await asyncio.gather(*(consumer.end_offsets(some) for some in topics.values()))
    return {place: end for some in found for place, end in some.items()}


class _ReaderSession:
    def __init__(self, connection: KafkaConnection) -> None:
        self._consumer = make_reader(connection)

    async def __aenter__(self) -> Any:
        await self._consumer.start()
        return self._consumer

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
