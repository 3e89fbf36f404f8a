"""Reads the fact topics whole, from the beginning, without a group: every worker has them all."""

import asyncio
from typing import Any

import structlog
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]

from pipeline.processors.clients import reader
from pipeline.processors.facts import FACT_TOPICS, Facts
from schemas import logkeys as key
from schemas.connection import KafkaConnection

_WAIT_MS = 500
_PARTITIONS = tuple(TopicPartition(topic.name, 0) for topic in FACT_TOPICS)


class FactsReader:
    """Keeps `facts` up to date until it is stopped."""

    def __init__(
        self,
        facts: Facts,
        connection: KafkaConnection,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        self._facts = facts
        self._connection = connection
        self._log = log
        self._consumer: Any = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all that is there, then go on reading. Raises KafkaError."""
        self._consumer = reader(self._connection)
        await self._consumer.start()
        self._consumer.assign(_PARTITIONS)
        await self._consumer.seek_to_beginning(*_PARTITIONS)
        ends = await self._consumer.end_offsets(_PARTITIONS)
        while any(self._facts.ends[tp.topic] < end for tp, end in ends.items()):
            await self._read()
        self._task = asyncio.create_task(self._read_on())

    async def stop(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.stop()

    @property
    def error(self) -> BaseException | None:
        """Why it ended, if it did: our own bug, for what Kafka does is waited for."""
        done = self._task is not None and self._task.done() and not self._task.cancelled()
        return self._task.exception() if done and self._task is not None else None

    async def ends(self, places: list[TopicPartition]) -> dict[TopicPartition, int]:
        """The ends of other topics' partitions, asked of the brokers. Raises KafkaError."""
        found: dict[TopicPartition, int] = await self._consumer.end_offsets(places)
        return found

    async def _read_on(self) -> None:
        while True:
            try:
                await self._read()
            except KafkaError as error:
                self._log.warning("cannot read facts", **{key.DETAIL: repr(error)})
                await asyncio.sleep(1)

    async def _read(self) -> None:
        found = await self._consumer.getmany(timeout_ms=_WAIT_MS)
        for tp, records in found.items():
            for record in records:
                fact = self._facts.take(tp.topic, record.offset, record.value)
                if fact is not None and fact.refusal is not None:
                    self._log.error(
                        "fact refused",
                        **{key.TOPIC: tp.topic, key.OFFSET: record.offset},
                        **{key.ERROR_CODE: fact.refusal.code, key.DETAIL: fact.refusal.detail},
                    )
        for tp in _PARTITIONS:
            self._facts.pass_to(tp.topic, await self._consumer.position(tp))
