"""Records to Kafka, each batch of them confirmed: nothing counts until the broker has it.

Owns the worker's one producer. A broker that is slow or away is waited for, with the same records
sent again; they are given up only when the caller says so.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]

from pipeline.connection import aiokafka_options
from pipeline.processors.shard_output import OutgoingRecord
from schemas import logkeys as key
from schemas.connection import KafkaConnection
from schemas.topics import MAX_MESSAGE_BYTES

Row = tuple[bytes, bytes | None]
PartitionId = tuple[str, int]
"""A topic and one of its partitions."""

_BATCH_BYTES: Final = 512 * 1024
_LINGER_MS: Final = 2
_MIN_RETRY_DELAY_S: Final = 0.2
_MAX_RETRY_DELAY_S: Final = 10.0


class OwnershipLost(Exception):  # noqa: N818 - no error: the partition is another worker's by now
    """The records were not confirmed before the caller gave them up."""


class ConfirmedProducer:
    """Sends, and waits until it is confirmed. `log` hears of a broker that does not answer."""

    def __init__(
        self, connection: KafkaConnection, log: structlog.typing.FilteringBoundLogger
    ) -> None:
        self._connection = connection
        self._log = log
        self._producer: AIOKafkaProducer | None = None
        self._replace_lock = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises KafkaError where there is no broker."""
        self._producer = await self._start_producer()

    async def stop(self) -> None:
        """Let go of the connection."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def publish(self, records: Sequence[OutgoingRecord], is_lost: Callable[[], bool]) -> None:
        """Publish records; those of one partition in their order. Raises GivenUp."""
        batches: dict[PartitionId, list[Row]] = {}
        for topic, partition, name, value in records:
            batches.setdefault((topic, partition), []).append((name, value))
        await self.write(batches, is_lost)

    async def write(
        self, batches: dict[PartitionId, list[Row]], is_lost: Callable[[], bool]
    ) -> dict[PartitionId, int]:
        """Write records in their order; the offset of each partition's last one. Raises GivenUp.

        What fails is sent again, all that was not confirmed of a partition, in order: a repeat is
        possible, a gap is not.
        """
        unconfirmed, ends = dict(batches), dict[PartitionId, int]()
        wait_s = _MIN_RETRY_DELAY_S
        while unconfirmed:
            results = await asyncio.gather(
                *(self._send(target, rows) for target, rows in unconfirmed.items()),
                return_exceptions=True,
            )
            failed: dict[PartitionId, list[Row]] = {}
            for (place, rows), result in zip(unconfirmed.items(), results, strict=True):
                if isinstance(result, KafkaError):
                    failed[place] = rows
                elif isinstance(result, BaseException):
                    raise result
                else:
                    ends[place] = result
            unconfirmed = failed
            if unconfirmed:
                if is_lost():
                    raise OwnershipLost
                why = next(repr(one) for one in results if isinstance(one, KafkaError))
                self._log.warning("broker does not take records", **{key.DETAIL: why})
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, _MAX_RETRY_DELAY_S)
                await self._replace_producer()
        return ends

    async def _send(self, target: PartitionId, rows: list[Row]) -> int:
        producer = self._producer
        assert producer is not None
        topic, partition = target
        sent = []
        batch = producer.create_batch()
        for name, value in rows:
            if batch.append(key=name, value=value, timestamp=None) is None:
                sent.append(await producer.send_batch(batch, topic, partition=partition))
                batch = producer.create_batch()
                batch.append(key=name, value=value, timestamp=None)
        batch.close()
        size: int = batch.record_count()
        sent.append(await producer.send_batch(batch, topic, partition=partition))
        confirmed = [await one for one in sent]
        last: int = confirmed[-1].offset
        return last + size - 1

    async def _replace_producer(self) -> None:
        """A new producer: one whose records failed may be out of step with the broker's count."""
        async with self._replace_lock:
            old = self._producer
            try:
                self._producer = await self._start_producer()
            except (KafkaError, OSError):
                return
            if old is not None:
                await old.stop()

    async def _start_producer(self) -> AIOKafkaProducer:
        compression = self._connection.compression.value
        producer = AIOKafkaProducer(
            **aiokafka_options(self._connection),
            acks="all",
            enable_idempotence=True,
            linger_ms=_LINGER_MS,
            max_batch_size=_BATCH_BYTES,
            max_request_size=MAX_MESSAGE_BYTES,
            compression_type=None if compression == "none" else compression,
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer
