"""The interface of a store that takes the answers of Macs from events."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Protocol

from schemas.envelope import Event


class AnswerFeed(Protocol):
    """Stores the events of feeds: the log of `drydock run`, or partitions of Kafka's topics.

    Events may come twice and in any order. A position is stored together with its events.
    """

    def position(self, feed: str) -> int | None:
        """Return the stored position of a feed, None before the first."""
        ...

    def add_events(
        self, events: Iterable[Event], now: datetime, positions: Mapping[str, int]
    ) -> Collection[str]:
        """Store events and the new positions of their feeds.

        Returns the UDIDs of Macs with news about an open command: their jobs are due.
        """
        ...
