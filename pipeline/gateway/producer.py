"""The interfaces and errors between `StoreAndForwardProducer`, a Kafka producer and metrics."""

import asyncio
from enum import StrEnum
from typing import Any, Protocol

from pipeline.gateway.records import Record

DeliveryFuture = asyncio.Future[Any]


class BackpressureError(Exception):
    """Too many records wait to become durable; retry later."""


class DeliveryInterruptedError(Exception):
    """Delivery stops or restarts before a record is durable; retry later."""


class ProducerError(Exception):
    """Kafka cannot be reached, or a producer has failed and must be replaced."""


class Producer(Protocol):
    """Sends records to Kafka in the order of the calls of `send`."""

    async def send(self, record: Record) -> DeliveryFuture:
        """Return a future that is done once Kafka has acknowledged the record.

        The future gets an exception if delivery fails. The call may wait, and may be cancelled
        while it waits: then the record is not accepted. Raises ProducerError if the producer cannot
        accept it.
        """

    async def close(self) -> None:
        """Disconnect; return within seconds, also if that fails."""


class DurableIn(StrEnum):
    """The store in which a record is durable."""

    KAFKA = "kafka"
    SPOOL = "spool"


class DeliveryMetrics(Protocol):
    """Counts records and shows the mode of delivery."""

    def observe_durable(self, topic: str, durable_in: DurableIn, duration_s: float) -> None:
        """Count a record that is durable `duration_s` after its acceptance."""

    def set_spooling(self, *, spooling: bool) -> None:
        """Show that records go through the spool (True) or directly to Kafka (False)."""


def is_acknowledged(delivery: DeliveryFuture) -> bool:
    """Return True if Kafka has acknowledged the record; False if it is pending or failed."""
    return delivery.done() and not delivery.cancelled() and delivery.exception() is None
