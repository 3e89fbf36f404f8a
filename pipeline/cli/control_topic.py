"""Topics of a fleet for commands: read one to its end; publish to the control topic, confirmed.

Each event is signed with the operators' key for control: workers and agents use no other event.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from pipeline.cli.output import fail
from pipeline.config import StampSettings, read_stamps
from pipeline.payload_signing import sign_record
from pipeline.policy.file import read_policy
from pipeline.policy.model import Policy
from pipeline.processors.broadcast import BroadcastState
from pipeline.signing_keys import KeyStore
from pipeline.state.advisories import Advisories
from runtime.kafka import KafkaSettings, SettingsError, kafka_settings
from runtime.logs import SILENT, silence_kafka_clients
from runtime.trusted_keys import KeyRing, KeysError, Purpose
from schemas.envelope import ApprovalGrantedEvent, ControlEvent, encode
from schemas.signed_payloads import PublicKeys
from schemas.signed_records import CONTROL_RECORD
from schemas.topics import ADVISORIES, CONTROL, headers_of

_TIMEOUT_S: Final = 15.0
_LIMIT_MS: Final = round(_TIMEOUT_S * 1000)
_POLL_MS: Final = 250


class NoTopicError(Exception):
    """The cluster has no topic of this name."""


# kafka-python 3.0.12 raises AssertionError for some unexpected responses of a broker.
FAULTS: Final = (KafkaError, NoTopicError, TimeoutError, AssertionError)
"""Faults of `read_control` and `publish`: Kafka is unreachable, refuses, or has no topic."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """A fleet on Kafka, the key that signs control events, and the trusted keys of such events."""

    settings: KafkaSettings
    key: Ed25519PrivateKey
    trusted: PublicKeys


def open_fleet(bootstrap: str | None, keys: Path | None) -> Fleet:
    """Return the fleet of a command that changes it.

    `bootstrap` None takes the brokers from the environment. Exit 2 if the settings are missing or
    invalid, or if the directory `keys` has no key for control.
    """
    settings = fleet_settings(bootstrap)
    if keys is None:
        fail(
            "control events are signed: give --keys the directory with the key of"
            " `drydock keys make --purpose control`, or set DRYDOCK_KEYS_DIR"
        )
    try:
        key = KeyStore(keys).signer(Purpose.CONTROL)
        return Fleet(settings, key, KeyRing.load(keys).control)
    except KeysError as error:
        fail(str(error))


def fleet_settings(bootstrap: str | None) -> KafkaSettings:
    """Return the settings of the fleet's Kafka. Exit 2 if they are missing or invalid.

    `bootstrap` None takes the brokers from the environment. Silences the log of the Kafka client:
    its errors arrive as exceptions.
    """
    silence_kafka_clients(SILENT)
    try:
        return kafka_settings(bootstrap)
    except SettingsError as error:
        fail(str(error))


def read_control(settings: KafkaSettings) -> list[bytes]:
    """Return the values of all records in the control topic as of now, in their order.

    A record without a value gives empty bytes. Raises one of FAULTS, also if this takes longer than
    15 s.
    """
    return read_values(settings, CONTROL.name)


def read_values(settings: KafkaSettings, topic: str) -> list[bytes]:
    """Return the values of all records of a topic of one partition, as `read_control`."""
    return [value for _, value in _read_whole(settings, topic)]


def read_keys(settings: KafkaSettings, topic: str) -> frozenset[str]:
    """Return the keys of all records in a topic of one partition. Raises one of FAULTS."""
    return frozenset(key.decode(errors="replace") for key, _ in _read_whole(settings, topic))


def read_advisories(fleet: Fleet) -> Advisories:
    """Return the catalogue of the fleet: its advisories, and strikes that a trusted key signed.

    With DRYDOCK_STAMP_KEYS only stamped advisories count, as for workers. Raises one of FAULTS.
    """
    given = StampSettings().stamp_keys
    stamps = None if given is None else read_stamps()
    state = BroadcastState({}, stamps, fleet.trusted)
    for topic in (ADVISORIES, CONTROL):
        for offset, (_, value) in enumerate(_read_whole(fleet.settings, topic.name)):
            state.fold_record(topic.name, offset, value)
    return state.fleet.advisories


def read_policy_in_force(settings: KafkaSettings, trusted: PublicKeys) -> Policy | None:
    """Return the policy that the control topic has now; None without one.

    Without `trusted` keys for control an unsigned one counts too. Raises one of FAULTS.
    """
    state = BroadcastState({}, control=trusted or None)
    for offset, value in enumerate(read_control(settings)):
        state.fold_record(CONTROL.name, offset, value)
    changed = state.fleet.policy
    return None if changed is None else read_policy(changed.text)


def _read_whole(settings: KafkaSettings, topic: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of all records in the topic's only partition as of now, in their order.

    A record without a key or value gives empty bytes. Raises one of FAULTS.
    """
    partition = TopicPartition(topic, 0)
    until = time.monotonic() + _TIMEOUT_S
    options = settings.consumer_options() | {"bootstrap_timeout_ms": _LIMIT_MS}
    with KafkaConsumer(**options) as consumer:
        if topic not in consumer.topics():
            raise NoTopicError(f"there is no topic {topic}: run `drydock topics apply`")
        consumer.assign([partition])
        consumer.seek_to_beginning(partition)
        end = consumer.end_offsets([partition], timeout_ms=_LIMIT_MS)[partition]
        while (consumer.position(partition, timeout_ms=_LIMIT_MS) or 0) < end:
            if time.monotonic() > until:
                raise TimeoutError(f"{topic} could not be read within {_TIMEOUT_S:g} s")
            for record in consumer.poll(timeout_ms=_POLL_MS).get(partition, ()):
                yield record.key or b"", record.value or b""


def publish(fleet: Fleet, event: ControlEvent) -> None:
    """Sign and publish an event; return once every in-sync replica has it.

    Raises one of FAULTS: then the event may be in the topic or not.
    """
    _send(fleet.settings, event.subject, sign_record(encode(event), CONTROL_RECORD, fleet.key))


def publish_approval(settings: KafkaSettings, event: ApprovalGrantedEvent) -> None:
    """Publish an approval, which its approver has signed, as `publish`."""
    _send(settings, event.subject, encode(event))


def _send(settings: KafkaSettings, subject: str, value: bytes) -> None:
    producer = KafkaProducer(**settings.producer_options(timeout_s=_TIMEOUT_S))
    try:
        sent = producer.send(
            CONTROL.name, key=subject.encode(), value=value, headers=headers_of(CONTROL.name)
        )
        sent.get(timeout=_TIMEOUT_S)
    finally:
        producer.close(timeout=1)


def publish_or_fail(fleet: Fleet, event: ControlEvent) -> None:
    """Publish an event; return once every in-sync replica has it. Exit 2 if that is not known."""
    try:
        publish(fleet, event)
    except FAULTS as error:
        fail(unconfirmed(fleet.settings, error))


def unconfirmed(settings: KafkaSettings, error: BaseException) -> str:
    """Return the message for an event that Kafka did not confirm."""
    return (
        f"NOT confirmed by Kafka at {settings.bootstrap}; fix the cause and run this again:"
        f" {one_line_error(error)}"
    )


def one_line_error(error: BaseException) -> str:
    """Return the text of an error as one line, or its type's name if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__
