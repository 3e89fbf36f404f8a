"""Makes inputs durable in Kafka or, while Kafka is unreachable, in the gateway's spool."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.gateway.delivery import StoreAndForwardProducer
from pipeline.gateway.event_sink import BUSY_DETAIL, NotDurableError, Obstacle
from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.producer import BackpressureError, DeliveryInterruptedError
from pipeline.gateway.records import SigningKey, event_records, letter_record
from pipeline.gateway.spool import SpoolError
from pipeline.trust.stamps import Stamps
from runtime.dead_letters import log_dead_letter
from runtime.logs import Log
from schemas.dead_letters import DeadLetter
from schemas.envelope import Event


@dataclass(frozen=True, slots=True)
class KafkaSink:
    """An EventSink over a producer whose `run` delivers the records.

    With `stamps` each event is stamped: workers accept no other record. With `key` the records of
    Macs are signed: the agents of live sites use no other record.
    """

    producer: StoreAndForwardProducer
    metrics: GatewayMetrics
    log: Log
    stamps: Stamps | None = None
    key: SigningKey | None = None

    @property
    def refusal(self) -> str | None:
        """None if Kafka acknowledges or the spool has room; the reason otherwise."""
        return self.producer.refusal

    async def store(self, events: Sequence[Event], dead_letters: Sequence[DeadLetter]) -> None:
        """Return once the events, then the dead letters, are durable; count and log the latter.

        Raises OversizeError, and then stores nothing. Raises NotDurableError: BUSY (too many
        records wait), UNAVAILABLE (delivery stops or restarts), NO_ROOM (the spool is full, or its
        disk fails).
        """
        records = [*event_records(events, self.stamps, self.key), *map(letter_record, dead_letters)]
        try:
            await self.producer.put(records)
        except BackpressureError:
            raise NotDurableError(Obstacle.BUSY, BUSY_DETAIL) from None
        except DeliveryInterruptedError as error:
            raise NotDurableError(Obstacle.UNAVAILABLE, str(error)) from None
        except SpoolError as error:
            raise NotDurableError(Obstacle.NO_ROOM, str(error)) from None
        for letter in dead_letters:
            self.metrics.count_dead_letter(letter.code)
            log_dead_letter(self.log, letter)
