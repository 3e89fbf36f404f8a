"""What the courier works with: a producer, what it tells, who counts."""

import asyncio
from enum import StrEnum
from typing import Any, Protocol

from pipeline.gateway.records import Record

Told = asyncio.Future[Any]


class BusyError(Exception):
    """Too much waits to become durable; try again later."""


class LinkError(Exception):
    """Kafka cannot be reached, or a producer is of no more use."""


class Link(Protocol):
    """A producer that keeps the order of what it is given."""

    async def send(self, record: Record) -> Told:
        """Take a record; the future is done when Kafka has it. Raises LinkError. May wait, and be
        cancelled while it does: then it has not taken the record."""

    async def close(self) -> None:
        """Let go, soon."""


class Where(StrEnum):
    """What made a record durable."""

    KAFKA = "kafka"
    SPOOL = "spool"


class Observer(Protocol):
    """Who counts."""

    def durable(self, topic: str, where: Where, seconds: float) -> None:
        """A record for this topic is durable, so long after it was given."""

    def set_spooling(self, *, spooling: bool) -> None:
        """Which mode is on."""


def is_acknowledged(told: Told) -> bool:
    """Whether Kafka has the record."""
    return told.done() and not told.cancelled() and told.exception() is None
