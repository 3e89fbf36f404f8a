"""Leader election: the group member with the only partition of the topic of feed states polls.

Correctness does not depend on it; it only avoids double requests to the feeds. A replica that has
lost its leadership without noticing cannot write (`pipeline.feeds.state_store`).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

from aiokafka import AIOKafkaConsumer  # type: ignore[import-untyped]
from aiokafka.abc import ConsumerRebalanceListener  # type: ignore[import-untyped]
from aiokafka.errors import (  # type: ignore[import-untyped]
    KafkaError,
    UnknownTopicOrPartitionError,
)

from runtime.kafka import KafkaConnection, session_options
from runtime.logs import Log
from runtime.retry import BROKER, Backoff
from schemas import logkeys as key
from schemas.topics import FEEDS

_POLL_MS: Final = 1000
_CLOSE_S: Final = 10.0


class PollerGroupMember:
    """A member of the consumer group of `drydock feeds`.

    `joined` is True from the member's first rebalance until Kafka fails or `run` is cancelled.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        group: str,
        session_timeout_s: float,
        log: Log,
    ) -> None:
        self.joined = False
        self._log = log
        self._leading = asyncio.Event()
        self._not_leading = asyncio.Event()
        self._not_leading.set()
        self._options = connection.aiokafka_options() | {
            "group_id": group,
            "enable_auto_commit": False,
            "auto_offset_reset": "latest",
            **session_options(session_timeout_s),
        }

    async def run(self) -> None:
        """Take part in the group until cancelled; log an error of Kafka and retry within 10 s."""
        backoff = Backoff(BROKER)
        while True:
            try:
                await self._participate()
            except (KafkaError, OSError) as error:
                self._log.warning(
                    "not in the consumer group; retrying", **{key.DETAIL: repr(error)}
                )
            await backoff.sleep()

    async def while_leading(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait for leadership, then do the work until it ends or the leadership is lost.

        When the leadership is lost the work is cancelled. An exception of the work is raised.
        """
        await self._leading.wait()
        working = asyncio.ensure_future(work())
        losing = asyncio.ensure_future(self._not_leading.wait())
        try:
            await asyncio.wait({working, losing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            losing.cancel()
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working

    async def _participate(self) -> None:
        """Join the group and stay in it until cancelled or until Kafka fails.

        Raises KafkaError or OSError, also if the topic of feed states is missing; this member is
        then no leader.
        """
        consumer = AIOKafkaConsumer(**self._options)
        consumer.subscribe([FEEDS.name], listener=_Listener(self._assigned))
        try:
            await consumer.start()
            if FEEDS.name not in await consumer.topics():
                raise UnknownTopicOrPartitionError(f"{FEEDS.name}: run `drydock topics apply`")
            while True:
                # The records are not used. A consumer that does not poll within
                # max_poll_interval_ms is removed from the group.
                await consumer.getmany(timeout_ms=_POLL_MS)
        finally:
            self._assigned(None)
            with suppress(KafkaError, TimeoutError, OSError):
                await asyncio.wait_for(consumer.stop(), _CLOSE_S)

    def _assigned(self, partitions: Any) -> None:
        """Apply the new assignment of this member, which leads if it has the partition.

        `partitions` is empty without the partition, and None if the member has left the group.
        """
        self.joined = partitions is not None
        yes, no = (
            (self._leading, self._not_leading) if partitions else (self._not_leading, self._leading)
        )
        yes.set()
        no.clear()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, assigned: Callable[[Any], None]) -> None:
        self._assigned = assigned

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Give up the leadership when a rebalance begins."""
        del revoked
        self._assigned(())

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """Take the leadership if the partition is assigned to this member."""
        self._assigned(assigned)
