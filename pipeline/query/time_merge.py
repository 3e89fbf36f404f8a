"""Merges the records of many partitions by the time at which Kafka stored them. Pure.

Kafka has an order within a partition only. The time that the broker gives (LogAppendTime) orders
the partitions: an order is stored after the advisory that led to it, a result after its order.

| partition | has waiting records | effect |
| --- | --- | --- |
| behind its end | yes | its first record may be the next one |
| behind its end | no | `pop` yields nothing: an older record may come |
| at its end | no | it is not waited for |
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from schemas.topics import (
    ADVISORIES,
    CHECKINS,
    CONTROL,
    DEAD_LETTERS,
    DECISIONS,
    HALTS,
    INVENTORY,
    ORDERS,
    RESULTS,
)

# In the order of cause and effect: for records of one millisecond.
READ_TOPICS: Final = (
    *(CONTROL, HALTS, ADVISORIES, INVENTORY, CHECKINS),
    *(DECISIONS, ORDERS, RESULTS, DEAD_LETTERS),
)
_RANKS: Final[Mapping[str, int]] = {topic.name: rank for rank, topic in enumerate(READ_TOPICS)}


class Partition(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class TopicRecord(NamedTuple):
    """A record of a topic; `stored_ms` is its time in Kafka, in ms since 1970."""

    topic: str
    partition: int
    offset: int
    stored_ms: int
    key: bytes
    value: bytes


class TimeMerge:
    """The records of partitions that wait for records of others."""

    def __init__(self, partitions: Iterable[Partition]) -> None:
        self._waiting: dict[Partition, deque[TopicRecord]] = {one: deque() for one in partitions}
        self._behind = set(self._waiting)

    def add(self, partition: Partition, records: Iterable[TopicRecord]) -> None:
        """Let the next records of a partition wait."""
        self._waiting[partition].extend(records)

    def mark_at_end(self, partition: Partition) -> None:
        """Stop waiting for a partition: all records up to its end were added."""
        self._behind.discard(partition)

    @property
    def is_behind(self) -> bool:
        """True until every partition was at its end."""
        return bool(self._behind)

    def waiting(self, partition: Partition) -> int:
        """Return the number of records of a partition that wait."""
        return len(self._waiting[partition])

    def pop(self) -> Iterator[TopicRecord]:
        """Yield and remove the records whose predecessors are all known, in order."""
        if any(not self._waiting[one] for one in self._behind):
            return
        heads = [(_order(waiting[0]), one) for one, waiting in self._waiting.items() if waiting]
        heapq.heapify(heads)
        while heads:
            _, partition = heads[0]
            waiting = self._waiting[partition]
            yield waiting.popleft()
            if waiting:
                heapq.heapreplace(heads, (_order(waiting[0]), partition))
            elif partition in self._behind:
                return
            else:
                heapq.heappop(heads)


def _order(record: TopicRecord) -> tuple[int, int, int]:
    return record.stored_ms, _RANKS[record.topic], record.partition
