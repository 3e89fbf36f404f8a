"""Kafka records of events and of dead letters: topic, key and bytes."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.payload_signing import sign_record
from pipeline.trust.stamps import Stamps
from schemas.dead_letters import DeadLetter, encode_dead_letter
from schemas.envelope import MAX_EVENT_BYTES, AdvisoryEvent, DeviceEvent, Event, encode
from schemas.routing import route, route_dead_letter
from schemas.signed_records import REPORT_RECORD, SIGNATURE_BYTES, STAMP_BYTES

SigningKey = Callable[[], Ed25519PrivateKey]
"""Returns the key that signs now."""


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


def event_records(
    events: Iterable[Event], stamps: Stamps | None = None, key: SigningKey | None = None
) -> list[Record]:
    """Return one record for each event, in their order, with a stamp if `stamps` are given.

    With `key` the records of Macs are signed, for agents. Raises OversizeError if one event is
    larger than a topic accepts, and AssertionError for an event of a type that only Drydock itself
    publishes.
    """
    return [_event_record(event, stamps, key) for event in events]


def check_sizes(events: Iterable[Event]) -> None:
    """Raise OversizeError if one event is larger than a topic accepts."""
    for event in events:
        _encode(event)


def _event_record(event: Event, stamps: Stamps | None, key: SigningKey | None) -> Record:
    assert isinstance(event, DeviceEvent | AdvisoryEvent), event.type
    topic, name = route(event)
    value = _encode(event)
    # Agents read no advisories: a feed of hundreds of releases needs no signatures.
    if key is not None and isinstance(event, DeviceEvent):
        value = sign_record(value, REPORT_RECORD, key())
    return Record(topic, name.encode(), value if stamps is None else stamps.stamp(value))


def _encode(event: Event) -> bytes:
    value = encode(event)
    limit = MAX_EVENT_BYTES - SIGNATURE_BYTES - STAMP_BYTES
    if len(value) > limit:
        raise OversizeError(f"{event.type} has {len(value)} bytes, over {limit}")
    return value


def letter_record(letter: DeadLetter) -> Record:
    """Return the record of a dead letter."""
    topic, key = route_dead_letter(letter)
    return Record(topic, key.encode(), encode_dead_letter(letter))
