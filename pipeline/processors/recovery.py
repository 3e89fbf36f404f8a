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
from pipeline.processors.clients import reader
from pipeline.processors.local_store import LocalStore
from schemas import logkeys as key
from schemas.connection import KafkaConnection

_WAIT_MS: Final = 500
_AT_ONCE: Final = 2_000
# One is fetched while another is taken in; with more, the first is ready as late as the last.
_PLACES_AT_ONCE: Final = 2
_TOLD_EVERY_S: Final = 5.0
_STANDBY_PAUSE_S: Final = 1.0

EndsOf = Callable[[list[TopicPartition]], Awaitable[dict[TopicPartition, int]]]


class Stores:
    """The local stores of one worker, opened when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[TopicPartition, LocalStore] = {}

    def of(self, place: TopicPartition) -> LocalStore:
        """The store of one changelog partition. Raises OSError, sqlite3.Error."""
        store = self._open.get(place)
        if store is None:
            path = self._folder / place.topic / f"{place.partition}.sqlite"
            store = self._open[place] = LocalStore.open(path)
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
        self, held: Mapping[TopicPartition, int | None]
    ) -> AsyncIterator[tuple[TopicPartition, bool]]:
        """Bring the stores of these partitions up to date, and give each one as it is ready.

        `held` says up to where a partition's state is in memory, None if it is not; with each
        comes whether that state is still all there is: nobody wrote behind our back.
        """
        async with _Reading(self._connection) as consumer:
            async for ready in self._catch_up(consumer, held):
                yield ready

    async def _catch_up(
        self, consumer: Any, held: Mapping[TopicPartition, int | None]
    ) -> AsyncIterator[tuple[TopicPartition, bool]]:
        ends = await _ends(consumer, list(held))
        begins = await consumer.beginning_offsets(list(held))
        left = {}
        for place, end in ends.items():
            if held[place] is not None and held[place] == end:
                yield place, True
                continue
            store = self._stores.of(place)
            if not begins[place] <= store.next <= end:
                # The topic is not the one this copy was made of, or no longer goes back so far.
                store.clear()
            start = max(store.next, begins[place])
            if start >= end:
                yield place, False
            else:
                left[place] = (start, end)
        async for place in self._read(consumer, left):
            yield place, False
        self.remaining = 0

    async def _read(
        self, consumer: Any, left: dict[TopicPartition, tuple[int, int]]
    ) -> AsyncIterator[TopicPartition]:
        if not left:
            return
        consumer.assign(list(left))
        for place, (start, _) in left.items():
            consumer.seek(place, start)
        waiting = list(left)[_PLACES_AT_ONCE:]
        for place in waiting:
            consumer.pause(place)
        self.remaining = sum(end - start for start, end in left.values())
        ends = {place: end for place, (_, end) in left.items()}
        told_at = monotonic()
        while ends:
            found = await consumer.getmany(timeout_ms=_WAIT_MS, max_records=_AT_ONCE)
            for place, records in found.items():
                self._follow(place, records)
            for place in [place for place in ends if place not in waiting]:
                if await consumer.position(place) >= ends[place]:
                    del ends[place]
                    consumer.pause(place)
                    if waiting:
                        consumer.resume(waiting.pop(0))
                    self._stores.of(place).save()
                    yield place
            self.remaining = sum(end - self._stores.of(place).next for place, end in ends.items())
            if monotonic() - told_at >= _TOLD_EVERY_S:
                told_at = monotonic()
                self._log.info("recovering state", **{key.COUNT: self.remaining})
            await asyncio.sleep(0)

    async def stand_by(self, places: list[TopicPartition]) -> None:
        """Keep the stores of other workers' partitions up to date, until cancelled."""
        async with _Reading(self._connection) as consumer:
            while True:
                try:
                    async for _ in self._catch_up(consumer, dict.fromkeys(places)):
                        pass
                except KafkaError as error:
                    self._log.warning("cannot follow state", **{key.DETAIL: repr(error)})
                await asyncio.sleep(_STANDBY_PAUSE_S)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[EndsOf]:
        """What asks the brokers for the ends of partitions."""
        async with _Reading(self._connection) as consumer:
            yield partial(_ends, consumer)

    def _follow(self, place: TopicPartition, records: list[Any]) -> None:
        store = self._stores.of(place)
        changes = ((record.key, record.value) for record in records)
        try:
            void = store.follow(changes, records[-1].offset + 1)
        except rows.BadRow as error:
            raise rows.BadRow(f"{place.topic}/{place.partition}: {error}") from error
        self.moved_at = monotonic()
        if void:
            self._log.warning(
                "rows of a former owner are void",
                **{key.TOPIC: place.topic, key.PARTITION: place.partition, key.COUNT: void},
            )


async def _ends(consumer: Any, places: list[TopicPartition]) -> dict[TopicPartition, int]:
    """Where these partitions end. All topics at a time: the client waits a tenth of a second for
    one that it does not know yet, and asked for several learns one after another."""
    topics: dict[str, list[TopicPartition]] = {}
    for place in places:
        topics.setdefault(place.topic, []).append(place)
    found = await asyncio.gather(*(consumer.end_offsets(some) for some in topics.values()))
    return {place: end for some in found for place, end in some.items()}


class _Reading:
    def __init__(self, connection: KafkaConnection) -> None:
        self._consumer = reader(connection)

    async def __aenter__(self) -> Any:
        await self._consumer.start()
        return self._consumer

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
