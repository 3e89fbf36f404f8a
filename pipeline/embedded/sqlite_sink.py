"""Makes inputs durable in the SQLite file of a service."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.embedded import write_requests
from pipeline.embedded.service import Service
from pipeline.embedded.service_thread import (
    AcceptedInput,
    NoRoomError,
    QueueFullError,
    ReadRequest,
    ServiceThread,
    UnavailableError,
    WriteRequest,
)
from pipeline.gateway.event_sink import BUSY_DETAIL, NotDurableError, Obstacle
from pipeline.gateway.records import check_sizes
from pipeline.trust.senders import Sender
from schemas.dead_letters import DeadLetter
from schemas.envelope import Event
from schemas.feeds import FeedSource


@dataclass(frozen=True, slots=True)
class SqliteSink:
    """An EventSink and FeedSink over the thread of a service.

    It raises NotDurableError: BUSY (too many requests wait), NO_ROOM (the volume is full), or
    UNAVAILABLE (the service is not open, or failed before the input was durable).
    """

    service_thread: ServiceThread

    @property
    def refusal(self) -> str | None:
        """None while the service is open and its volume has room; the reason otherwise."""
        return self.service_thread.refusal

    async def store(self, events: Sequence[Event], dead_letters: Sequence[DeadLetter]) -> None:
        """Return once all, and what follows from them, are committed in one transaction.

        Raises OversizeError or NotDurableError; then nothing is stored. After a cancellation all
        may be stored.
        """

        def prepare(_: Service, __: datetime) -> AcceptedInput:
            check_sizes(events)  # `decode` would refuse a larger event when the log is read
            return AcceptedInput(events, dead_letters)

        await self.submit(prepare)

    async def store_feed(
        self, source: FeedSource, document: bytes, sender: Sender, *, accept_losses: bool
    ) -> dict[str, Any]:
        """Return the outcome of a whole feed document (`write_requests.feed`), once it is stored.

        Raises NotDurableError.
        """
        stored: dict[str, Any] = await self.submit(
            write_requests.feed(source, document, sender, accept_losses=accept_losses)
        )
        return stored

    async def submit(self, request: WriteRequest) -> Any:
        """Return the response of a write request once its input is durable.

        Raises NotDurableError, or the exception of the request.
        """
        with _sink_errors():
            return await asyncio.wrap_future(self.service_thread.submit(request))

    async def ask(self, request: ReadRequest) -> Any:
        """Return the result of a read request; raises NotDurableError, or its exception."""
        with _sink_errors():
            return await asyncio.wrap_future(self.service_thread.ask(request))


@contextmanager
def _sink_errors() -> Iterator[None]:
    """Raise NotDurableError in place of the errors of a service thread."""
    try:
        yield
    except QueueFullError:
        raise NotDurableError(Obstacle.BUSY, BUSY_DETAIL) from None
    except NoRoomError as error:
        raise NotDurableError(Obstacle.NO_ROOM, str(error)) from None
    except UnavailableError as error:
        raise NotDurableError(Obstacle.UNAVAILABLE, str(error)) from None
