"""Sends the spool to Kafka in its order, and deletes what Kafka has acknowledged.

Each record of the spool is unsent, in flight, or delivered and soon deleted. `sent_up_to` divides
the unsent from the others. Invariants: a record is sent once by a producer, after all records
before it; it is deleted only after Kafka's acknowledgement. With a new producer everything that
waits in the spool is unsent again; a delivered record does not wait, also if the disk refuses to
delete it.
"""

import time
from typing import Final

from pipeline.gateway.producer import DeliveryFuture, is_acknowledged
from pipeline.gateway.reconnecting import ReconnectingProducer
from pipeline.gateway.spool import Spooled
from pipeline.gateway.spool_thread import SpoolThread
from pipeline.gateway.wakeup import Wakeup
from runtime.logs import Log
from schemas import logkeys as key

_MAX_READ_RECORDS: Final = 200
_READ_BYTES: Final = 16 * 1024 * 1024
# Longest wait for the outcome of a failed producer's records. Later ones may be sent twice.
_OUTCOME_TIMEOUT_S: Final = 120.0


class SpoolDrain:
    """Sends the records of one spool through a producer, at most `max_in_flight` at a time."""

    def __init__(
        self,
        producer: ReconnectingProducer,
        disk: SpoolThread,
        wakeup: Wakeup,
        log: Log,
        *,
        max_in_flight: int,
        wake_interval_s: float,
    ) -> None:
        self._producer = producer
        self._disk = disk
        self._spool = disk.spool
        self._wakeup = wakeup
        self._log = log
        self._max_in_flight = max_in_flight
        self._wake_interval_s = wake_interval_s
        self._sent_up_to = 0
        self._in_flight: dict[int, tuple[Spooled, DeliveryFuture]] = {}
        self._in_flight_since = 0.0

    @property
    def has_in_flight(self) -> bool:
        """True if a record was sent and is not yet counted as delivered."""
        return bool(self._in_flight)

    def silence_s(self) -> float:
        """Return the seconds for which Kafka has acknowledged none of the records in flight.

        0 if no record is in flight.
        """
        if not self._in_flight:
            return 0.0
        return time.monotonic() - max(self._in_flight_since, self._producer.acknowledged_at)

    def restart(self) -> None:
        """Count all records of the spool as unsent."""
        self._sent_up_to = 0
        self._in_flight = {}

    def add_sent(self, spooled: Spooled, delivery: DeliveryFuture) -> None:
        """Count a record as in flight that was sent before it was spooled."""
        if not self._in_flight:
            self._in_flight_since = time.monotonic()
        self._sent_up_to = spooled.seq
        self._in_flight[spooled.seq] = (spooled, delivery)

    async def send(self) -> bool:
        """Send the next records; return True if none is left unsent.

        Some are left if too many are in flight or the producer does not accept one. Delivered
        records are deleted. Raises SpoolError if the disk cannot be read.
        """
        is_all_sent = await self._send_unsent()
        await self.delete_delivered()
        return is_all_sent

    async def _send_unsent(self) -> bool:
        # Read `last` first: records appended during the read must not be skipped.
        while (
            self._sent_up_to < (last := self._spool.last_seq)
            and len(self._in_flight) < self._max_in_flight
        ):
            found = await self._disk.run(
                self._spool.read_after,
                self._sent_up_to,
                max_records=_MAX_READ_RECORDS,
                max_bytes=_READ_BYTES,
            )
            if not found:
                self._sent_up_to = last
            for spooled in found:
                delivery = await self._producer.send(spooled.record)
                if delivery is None:
                    return False
                self.add_sent(spooled, delivery)
        return self._sent_up_to >= self._spool.last_seq

    async def delete_delivered(self) -> None:
        """Delete the records that Kafka has acknowledged from the spool."""
        delivered = [one for one, delivery in self._in_flight.values() if is_acknowledged(delivery)]
        if delivered:
            for one in delivered:
                del self._in_flight[one.seq]
            await self._disk.run(self._spool.delete, delivered)

    async def replace_producer(self) -> None:
        """Close the failed producer, once each record in flight is delivered or failed.

        It waits at most 120 s for that, and no longer than until a stop. Delivered records are
        deleted; the next producer sends the rest again.
        """
        failure = self._producer.failure
        self._log.warning(
            "producer failed; connecting a new one, unconfirmed records are sent again",
            **{key.DETAIL: f"{type(failure).__name__}: {failure}"},
        )
        until = time.monotonic() + _OUTCOME_TIMEOUT_S
        while not self._wakeup.is_stopping and time.monotonic() < until:
            await self.delete_delivered()
            if all(delivery.done() for _, delivery in self._in_flight.values()):
                break
            await self._wakeup.wait(self._wake_interval_s)
        self.restart()
        await self._producer.replace_later()
