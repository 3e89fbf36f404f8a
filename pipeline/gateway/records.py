"""What goes to Kafka: facts and dead letters as keyed bytes."""

from collections.abc import Iterable
from typing import NamedTuple

from schemas.dead_letters import DeadLetter
from schemas.envelope import MAX_EVENT_BYTES, AdvisoryEvent, DeviceEvent, Event, encode
from schemas.routing import route, route_dead_letter


class OversizeError(ValueError):
    """An event that no topic takes."""


class Record(NamedTuple):
    """One record. Those of one topic and key have an order that is kept."""

    topic: str
    key: bytes
    value: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes, without what stores and wires add."""
        return len(self.topic) + len(self.key) + len(self.value)


def event_records(events: Iterable[Event]) -> list[Record]:
    """Facts from outside. Raises OversizeError; AssertionError for a fact that only Drydock
    itself may tell."""
    records = []
    for event in events:
        assert isinstance(event, DeviceEvent | AdvisoryEvent), event.type
        topic, key = route(event)
        value = encode(event)
        if len(value) > MAX_EVENT_BYTES:
            raise OversizeError(f"{event.type} of {len(value)} bytes")
        records.append(Record(topic, key.encode(), value))
    return records


def letter_record(letter: DeadLetter) -> Record:
    """A dead letter."""
    topic, key = route_dead_letter(letter)
    return Record(topic, key.encode(), letter.model_dump_json(exclude_none=True).encode())
