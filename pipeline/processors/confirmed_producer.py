"""Writes records to Kafka and returns only after the brokers have confirmed each of them.

Owns the worker's one producer. Records that are not confirmed are sent again, without a limit of
time, until the caller's `is_lost` returns True.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]

from pipeline.processors.shard_output import OutgoingRecord
from runtime.clock_skew import ClockSkew
from runtime.kafka import KafkaConnection
from runtime.logs import Log
from runtime.retry import BROKER, Backoff
from schemas import logkeys as key
from schemas.topics import headers_of

Row = tuple[bytes, bytes | None]
PartitionId = tuple[str, int]
"""A topic and one of its partitions."""

_BATCH_BYTES: Final = 512 * 1024
_LINGER_MS: Final = 2
# aiokafka's `timestamp_type` of a record whose time the broker has set.
_LOG_APPEND_TIME: Final = 1


class OwnershipLost(Exception):  # noqa: N818 - not an error: the partition has another owner
    """The partitions may have another owner; the last records may be written or not."""


class ConfirmedProducer:
    """A producer whose calls return only when the brokers have confirmed the records.

    An attempt that fails and is repeated is logged as a warning. `skew` compares `clock` with the
    brokers' times.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        log: Log,
        *,
        clock: Callable[[], datetime],
        skew: ClockSkew,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._skew = skew
        self._log = log
        self._producer: AIOKafkaProducer | None = None
        self._replace_lock = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises KafkaError if no broker can be reached, OSError for a bad TLS file."""
        self._producer = await self._start_producer()

    async def stop(self) -> None:
        """Close the connection; does nothing if it is not open."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def publish(self, records: Sequence[OutgoingRecord], is_lost: Callable[[], bool]) -> None:
        """Return when the brokers have confirmed all records; a partition keeps their order.

        If a record is not confirmed, all records of its partition are sent again in order: records
        can be repeated, never missing. Raises OwnershipLost if `is_lost` returns True after a
        failure; then any of the records may be written or not.
        """
        batches: dict[PartitionId, list[Row]] = {}
        for topic, partition, name, value in records:
            batches.setdefault((topic, partition), []).append((name, value))
        await self.write(batches, is_lost)

    async def write(
        self, batches: dict[PartitionId, list[Row]], is_lost: Callable[[], bool]
    ) -> dict[PartitionId, int]:
        """Write the rows of each partition in order; return the offset of each one's last row.

        `batches` has at least one row per partition; a row is a key and a value, or None to delete.

        If a row of a partition is not confirmed, all its rows are sent again in order: records can
        be repeated, never missing. Raises OwnershipLost if `is_lost` returns True after a failure;
        then any of the rows may be written or not.
        """
        unconfirmed, ends = dict(batches), dict[PartitionId, int]()
        backoff = Backoff(BROKER)
        while unconfirmed:
            results = await asyncio.gather(
                *(self._send(target, rows) for target, rows in unconfirmed.items()),
                return_exceptions=True,
            )
            failed: dict[PartitionId, list[Row]] = {}
            for (target, rows), result in zip(unconfirmed.items(), results, strict=True):
                if isinstance(result, KafkaError):
                    failed[target] = rows
                elif isinstance(result, BaseException):
                    raise result
                else:
                    ends[target] = result
            unconfirmed = failed
            if unconfirmed:
                if is_lost():
                    raise OwnershipLost
                why = next(repr(one) for one in results if isinstance(one, KafkaError))
                self._log.warning("records not confirmed, sending again", **{key.DETAIL: why})
                await backoff.sleep()
                await self._replace_producer()
        return ends

    async def _send(self, target: PartitionId, rows: list[Row]) -> int:
        """Send the rows once; return the offset of the last one. Raises KafkaError."""
        producer = self._producer
        assert producer is not None
        topic, partition = target
        sent_at_s = self._clock().timestamp()
        headers = headers_of(topic)
        sent = []
        batch = producer.create_batch()
        for name, value in rows:
            if batch.append(key=name, value=value, timestamp=None, headers=headers) is None:
                sent.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                batch.append(key=name, value=value, timestamp=None, headers=headers)
        batch.close()
        size: int = batch.record_count()
        sent.append(await producer.send_batch(batch, topic, partition=partition))
        confirmed = [await one for one in sent]
        last = confirmed[-1]
        if last.timestamp_type == _LOG_APPEND_TIME:
            self._skew.observe(sent_at_s, self._clock().timestamp(), last.timestamp)
        end: int = last.offset + size - 1
        return end

    async def _replace_producer(self) -> None:
        """Replace the producer: after a failure its sequence numbers may differ from the broker's.

        Keeps the old one if no connection is possible.
        """
        async with self._replace_lock:
            old = self._producer
            try:
                self._producer = await self._start_producer()
            except (KafkaError, OSError):
                return
            if old is not None:
                await old.stop()

    async def _start_producer(self) -> AIOKafkaProducer:
        """Return a new, connected producer.

        Raises KafkaError if no broker can be reached, OSError if a TLS file cannot be loaded.
        """
        producer = AIOKafkaProducer(
            **self._connection.aiokafka_producer_options(),
            linger_ms=_LINGER_MS,
            max_batch_size=_BATCH_BYTES,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer
