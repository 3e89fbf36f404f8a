"""Reads the broadcast topics from the beginning, without a group: every worker reads them all."""

import asyncio
from typing import Any

from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]

from pipeline.processors.broadcast import BROADCAST_TOPICS, BroadcastState
from pipeline.processors.clients import make_reader
from runtime.kafka import KafkaConnection
from runtime.logs import Log
from runtime.retry import QUICK, Backoff
from schemas import logkeys as key

_POLL_TIMEOUT_MS = 500
_PARTITIONS = tuple(TopicPartition(topic.name, 0) for topic in BROADCAST_TOPICS)


class BroadcastReader:
    """Keeps a `BroadcastState` up to date until it is stopped."""

    def __init__(
        self,
        broadcast: BroadcastState,
        connection: KafkaConnection,
        log: Log,
    ) -> None:
        self._broadcast = broadcast
        self._connection = connection
        self._log = log
        self._consumer: Any = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return once all records present at the call are folded; a task reads later ones.

        Raises KafkaError if Kafka cannot be read.
        """
        self._consumer = make_reader(self._connection)
        await self._consumer.start()
        self._consumer.assign(_PARTITIONS)
        await self._consumer.seek_to_beginning(*_PARTITIONS)
        ends = await self._consumer.end_offsets(_PARTITIONS)
        while any(self._broadcast.next_offsets[tp.topic] < end for tp, end in ends.items()):
            await self._read_once()
        self._task = asyncio.create_task(self._keep_reading())

    async def stop(self) -> None:
        """End the reading task and close the consumer."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._consumer is not None:
            await self._consumer.stop()

    @property
    def error(self) -> BaseException | None:
        """The exception that ended the reading task, which is a bug; None if none did.

        Errors of Kafka do not end it: they are logged, and it reads again.
        """
        done = self._task is not None and self._task.done() and not self._task.cancelled()
        return self._task.exception() if done and self._task is not None else None

    async def log_ranges(
        self, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """Return begin and end of the log of each of these partitions, and of the broadcast topics.

        The end is the offset after the last record. Call it only after `start`. Raises KafkaError.
        """
        wanted = [*partitions, *_PARTITIONS]
        begins = await self._consumer.beginning_offsets(wanted)
        ends = await self._consumer.end_offsets(wanted)
        return {partition: (begins[partition], ends[partition]) for partition in wanted}

    async def _keep_reading(self) -> None:
        backoff = Backoff(QUICK)
        while True:
            try:
                await self._read_once()
            except KafkaError as error:
                self._log.warning(
                    "cannot read broadcast topics, trying again", **{key.DETAIL: repr(error)}
                )
                await backoff.sleep()

    async def _read_once(self) -> None:
        found = await self._consumer.getmany(timeout_ms=_POLL_TIMEOUT_MS)
        for tp, records in found.items():
            for record in records:
                folded = self._broadcast.fold_record(tp.topic, record.offset, record.value)
                if folded is not None and folded.rejection is not None:
                    self._log.error(
                        "broadcast record rejected",
                        **{key.TOPIC: tp.topic, key.OFFSET: record.offset},
                        **{
                            key.ERROR_CODE: folded.rejection.code,
                            key.DETAIL: folded.rejection.detail,
                        },
                    )
        for tp in _PARTITIONS:
            self._broadcast.advance_to(tp.topic, await self._consumer.position(tp))
