"""What the courier works with: a producer, what it tells, who counts."""

import asyncio
from enum import StrEnum
from typing import Any, Protocol

from pipeline.gateway.records import Record

DeliveryFuture = asyncio.Future[Any]


class BackpressureError(Exception):
    """Too much waits to become durable; try again later."""


class ProducerError(Exception):
    """Kafka cannot be reached, or a producer is of no more use."""


class Producer(Protocol):
    """A producer that keeps the order of what it is given."""

    async def send(self, record: Record) -> DeliveryFuture:
        """Take a record; the future is done when Kafka has it. Raises LinkError. May wait, and be
        cancelled while it does: then it has not taken the record."""

    async def close(self) -> None:
        """Let go, soon."""


class DurableIn(StrEnum):
    """What made a record durable."""

    KAFKA = "kafka"
    SPOOL = "spool"


class DeliveryMetrics(Protocol):
    """Who counts."""

    def observe_durable(self, topic: str, durable_in: DurableIn, duration_s: float) -> None:
        """A record for this topic is durable, so long after it was given."""

    def set_spooling(self, *, spooling: bool) -> None:
        """Which mode is on."""


def is_acknowledged(delivery: DeliveryFuture) -> bool:
    """Whether Kafka has the record."""
    return delivery.done() and not delivery.cancelled() and delivery.exception() is None
