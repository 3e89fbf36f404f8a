"""A fleet's control topic, as commands use it: read to its end, written to with confirmation."""

import logging
import time
from typing import Final

from kafka import KafkaConsumer, KafkaProducer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from pipeline.cli.output import fail
from pipeline.connection import KafkaSettings, SettingsError, kafka_settings
from schemas.envelope import ControlEvent, encode
from schemas.topics import CONTROL

_TIMEOUT_S: Final = 15.0
_LIMIT_MS: Final = round(_TIMEOUT_S * 1000)
_POLL_MS: Final = 250
_PARTITION: Final = TopicPartition(CONTROL.name, 0)


class NoTopicError(Exception):
    """The cluster has no control topic."""


# kafka-python asserts where a broker says what it does not expect.
FAULTS: Final = (KafkaError, NoTopicError, TimeoutError, AssertionError)
"""What `read_control` and `publish` raise: Kafka is away, refuses, or is not set up."""


def fleet_settings(bootstrap: str | None) -> KafkaSettings:
    """How to reach the fleet's Kafka. Ends the command where that is not known.

    From here on the client's own log is silent: what it has to say arrives as an error.
    """
    logging.getLogger("kafka").setLevel(logging.CRITICAL + 1)
    try:
        return kafka_settings(bootstrap)
    except SettingsError as error:
        fail(str(error))


def read_control(settings: KafkaSettings) -> list[bytes]:
    """All that is in the topic now, in its order. Raises FAULTS."""
    found: list[bytes] = []
    until = time.monotonic() + _TIMEOUT_S
    options = settings.consumer_options() | {"bootstrap_timeout_ms": _LIMIT_MS}
    with KafkaConsumer(**options) as consumer:
        if CONTROL.name not in consumer.topics():
            raise NoTopicError(f"there is no topic {CONTROL.name}: run `drydock topics apply`")
        consumer.assign([_PARTITION])
        consumer.seek_to_beginning(_PARTITION)
        end = consumer.end_offsets([_PARTITION], timeout_ms=_LIMIT_MS)[_PARTITION]
        while (consumer.position(_PARTITION, timeout_ms=_LIMIT_MS) or 0) < end:
            if time.monotonic() > until:
                raise TimeoutError(f"{CONTROL.name} is not read within {_TIMEOUT_S:g} s")
            records = consumer.poll(timeout_ms=_POLL_MS).get(_PARTITION, ())
            found += [record.value or b"" for record in records]
    return found


def publish(settings: KafkaSettings, event: ControlEvent) -> None:
    """Return once every in-sync copy has it. Raises FAULTS: then it may be there or not."""
    options = settings.producer_options() | {
        "delivery_timeout_ms": _LIMIT_MS,
        "request_timeout_ms": _LIMIT_MS // 2,
        "max_block_ms": _LIMIT_MS,
        "bootstrap_timeout_ms": _LIMIT_MS,
    }
    producer = KafkaProducer(**options)
    try:
        sent = producer.send(CONTROL.name, key=event.subject.encode(), value=encode(event))
        sent.get(timeout=_TIMEOUT_S)
    finally:
        producer.close(timeout=1)


def one_line_error(error: BaseException) -> str:
    """An error of these in one line."""
    return " ".join(str(error).split()) or type(error).__name__
