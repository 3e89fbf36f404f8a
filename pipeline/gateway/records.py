"""Kafka records of events and of dead letters: topic, key and bytes."""

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.trust.stamps import STAMP_BYTES, Stamps
from schemas.dead_letters import DeadLetter, encode_dead_letter
from schemas.envelope import MAX_EVENT_BYTES, AdvisoryEvent, DeviceEvent, Event, encode
from schemas.routing import route, route_dead_letter


class OversizeError(ValueError):
    """An event is larger than a topic accepts."""


class Record(NamedTuple):
    """One Kafka record. Records of one topic and key are delivered in their order."""

    topic: str
    key: bytes
    value: bytes

    @property
    def size(self) -> int:
        """Number of bytes of topic, key and value, without overhead of a store or the protocol."""
        return len(self.topic) + len(self.key) + len(self.value)


def event_records(events: Iterable[Event], stamps: Stamps | None = None) -> list[Record]:
    """Return one record for each event, in their order, with a stamp if `stamps` are given.

    Raises OversizeError if one event is larger than a topic accepts, and AssertionError for an
    event of a type that only Drydock itself publishes.
    """
    return [_event_record(event, stamps) for event in events]


def check_sizes(events: Iterable[Event]) -> None:
    """Raise OversizeError if one event is larger than a topic accepts."""
    for event in events:
        _encode(event)


def _event_record(event: Event, stamps: Stamps | None) -> Record:
    assert isinstance(event, DeviceEvent | AdvisoryEvent), event.type
    topic, key = route(event)
    value = _encode(event)
    return Record(topic, key.encode(), value if stamps is None else stamps.stamp(value))


def _encode(event: Event) -> bytes:
    value = encode(event)
    if len(value) > MAX_EVENT_BYTES - STAMP_BYTES:
        raise OversizeError(f"{event.type} has {len(value)} bytes, over {MAX_EVENT_BYTES}")
    return value


def letter_record(letter: DeadLetter) -> Record:
    """Return the record of a dead letter."""
    topic, key = route_dead_letter(letter)
    return Record(topic, key.encode(), encode_dead_letter(letter))
