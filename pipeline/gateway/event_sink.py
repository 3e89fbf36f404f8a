"""The interface between the HTTP application and the store that makes its inputs durable.

There are two stores: Kafka with a spool (`kafka_sink`), and SQLite (`pipeline.embedded`).
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Final, Protocol

from pipeline.trust.senders import Sender
from schemas.dead_letters import DeadLetter
from schemas.envelope import Event
from schemas.feeds import FeedSource

# The text of a response with status 429, of every sink and limit.
BUSY_DETAIL: Final = "too many requests are waiting: try again"


class Obstacle(StrEnum):
    """The reason for which a sink does not make an input durable."""

    BUSY = "busy"  # too many inputs wait
    NO_ROOM = "no_room"  # the store is full, or cannot be written
    UNAVAILABLE = "unavailable"  # the store is not open


class NotDurableError(Exception):
    """An input is not durable; its sender may repeat it. The message is one line."""

    def __init__(self, obstacle: Obstacle, detail: str) -> None:
        super().__init__(detail)
        self.obstacle = obstacle


class EventSink(Protocol):
    """Makes events and dead letters durable."""

    @property
    def refusal(self) -> str | None:
        """The reason for which new inputs are not accepted, in one line; None if they are."""

    async def store(self, events: Sequence[Event], dead_letters: Sequence[DeadLetter]) -> None:
        """Return once all are durable; count and log the dead letters.

        Raises OversizeError if an event is larger than a topic accepts: nothing is stored then.
        Raises NotDurableError otherwise. Then, and after a cancellation, a part may be durable, so
        a repeat must have the same event ids.
        """


class FeedSink(Protocol):
    """Compares documents of feeds with the earlier ones, and makes the changes durable."""

    async def store_feed(
        self, source: FeedSource, document: bytes, sender: Sender, *, accept_losses: bool
    ) -> dict[str, Any]:
        """Return the outcome of a whole document as JSON values, once its changes are durable.

        `sender` is the login that delivered it.

        `outcome`, the numbers `events` and `dead_letters`, and for a refused document the reason as
        `refused`. `accept_losses` accepts a document that lacks many earlier entries. Raises
        NotDurableError.
        """
