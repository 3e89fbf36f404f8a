"""The gateway's Kafka producer: idempotent, in order, acknowledged by all in-sync replicas."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]

from pipeline.gateway.producer import ProducerError
from pipeline.gateway.records import Record
from runtime.kafka import KafkaConnection, missing_topics
from schemas.topics import headers_of

# Detects a broker that hangs. Longer than the cluster needs to elect a new leader.
_REQUEST_TIMEOUT_S: Final = 10.0
_CONNECT_TIMEOUT_S: Final = 15.0
_CLOSE_TIMEOUT_S: Final = 5.0
_BATCH_BYTES: Final = 256 * 1024


class IdempotentProducer:
    """An idempotent aiokafka producer.

    While Kafka is unreachable, it retries a batch without end: idempotent batches do not expire
    (aiokafka 0.14.0, `SendProduceReqHandler._can_retry`).
    """

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer

    @classmethod
    async def connect(cls, connection: KafkaConnection, topics: Iterable[str]) -> Self:
        """Return a connected producer that has the metadata of these topics.

        Raises ProducerError if the settings are invalid, no broker can be reached within 15 s, or a
        topic is missing.
        """
        try:
            producer = AIOKafkaProducer(**_options(connection))
        except (OSError, ValueError) as error:
            raise ProducerError(f"the Kafka settings are invalid: {error}") from error
        connected = cls(producer)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await producer.start()
                missing = await missing_topics(producer.client, topics)
                if missing:
                    raise ProducerError(
                        f"no topic {', '.join(missing)}: run `drydock topics apply`"
                    )
                for topic in topics:
                    await producer.partitions_for(topic)
        except BaseException as error:
            await connected.close()
            if not isinstance(error, KafkaError | OSError | TimeoutError):
                raise
            raise ProducerError(
                f"cannot connect: {type(error).__name__} {error}".strip()
            ) from error
        return connected

    async def send(self, record: Record) -> "asyncio.Future[Any]":
        """Return a future that is done once Kafka has acknowledged the record.

        The record is in a batch when this returns. The future gets an exception if delivery fails.
        Raises ProducerError if the client does not accept the record.
        """
        try:
            delivery: asyncio.Future[Any] = await self._producer.send(
                record.topic,
                key=record.key,
                value=record.value,
                headers=headers_of(record.topic),
            )
        except KafkaError as error:
            raise ProducerError(f"{type(error).__name__} {error}") from error
        return delivery

    async def close(self) -> None:
        """Send the pending records, then disconnect.

        Gives up after 5 s, which leaves connections open and records unsent. Kafka's errors are
        ignored.
        """
        with suppress(KafkaError, TimeoutError, OSError):
            await asyncio.wait_for(self._producer.stop(), _CLOSE_TIMEOUT_S)


def _options(connection: KafkaConnection) -> dict[str, Any]:
    return connection.aiokafka_producer_options() | {
        "max_batch_size": _BATCH_BYTES,
        "request_timeout_ms": round(min(connection.request_timeout_s, _REQUEST_TIMEOUT_S) * 1000),
    }
