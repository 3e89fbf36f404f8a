"""Makes inputs durable in Kafka or, while Kafka is unreachable, in the gateway's spool."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from pipeline.gateway.delivery import StoreAndForwardProducer
from pipeline.gateway.event_sink import NotDurableError, Obstacle
from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.producer import BackpressureError
from pipeline.gateway.records import event_records, letter_record
from pipeline.gateway.spool import SpoolError
from schemas import logkeys as key
from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.envelope import Event


@dataclass(frozen=True, slots=True)
class KafkaSink:
    """An EventSink over a producer whose `run` delivers the records."""

    producer: StoreAndForwardProducer
    metrics: GatewayMetrics
    log: structlog.typing.FilteringBoundLogger

    @property
    def is_accepting(self) -> bool:
        """True if Kafka acknowledges or the spool has room; False once delivery stops."""
        return self.producer.is_accepting

    async def store(self, events: Sequence[Event], dead_letters: Sequence[DeadLetter]) -> None:
        """Return once the events, then the dead letters, are durable; count and log the latter.

        Raises OversizeError, and then stores nothing. Raises NotDurableError: BUSY (too many
        records wait, or delivery stops or restarts), NO_ROOM (the spool is full, or its disk
        fails).
        """
        records = [*event_records(events), *map(letter_record, dead_letters)]
        try:
            await self.producer.put(records)
        except BackpressureError as error:
            raise NotDurableError(Obstacle.BUSY, str(error)) from None
        except SpoolError as error:
            raise NotDurableError(Obstacle.NO_ROOM, str(error)) from None
        for letter in dead_letters:
            self.metrics.count_dead_letter(letter.code)
            fields = {
                key.ERROR_CODE: letter.code,
                key.SOURCE: letter.source,
                key.DETAIL: letter.detail,
            }
            is_bug = letter.code is DeadLetterCode.BUG
            (self.log.error if is_bug else self.log.warning)("input dead-lettered", **fields)
