"""Events through a real broker, with the settings that all programs use."""

from datetime import UTC, datetime
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer  # type: ignore[import-untyped]
from kafka.errors import (  # type: ignore[import-untyped]
    KafkaError,
    MessageSizeTooLargeError,
)

from runtime.kafka import Compression, KafkaConnection
from schemas.envelope import MAX_EVENT_BYTES, InventoryEvent, decode, encode
from schemas.topics import INVENTORY, MAX_MESSAGE_BYTES
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import run_topics

UDID = "5A0C7D9E-0000-4000-8000-000000000001"
MAC = InventoryEvent.model_validate(
    {
        "id": "one",
        "source": "osquery",
        "subject": UDID,
        "time": datetime(2026, 1, 20, 12, tzinfo=UTC),
        "data": {
            "udid": UDID,
            "serial": "C02XK0AAJGH5",
            "os_version": "14.7.1",
            "build": "23H222",
            "model": "MacBookPro18,3",
            "site": "austin",
            "source": "osquery",
        },
    }
)


@pytest.fixture
def connection(empty_kafka: KafkaCluster) -> KafkaConnection:
    assert run_topics("apply", empty_kafka).exit_code == 0
    return KafkaConnection(bootstrap=empty_kafka.bootstrap)


def sent(connection: KafkaConnection, *values: bytes, **options: Any) -> list[Any]:
    with KafkaProducer(**connection.producer_options() | options) as producer:
        assert producer.config["enable_idempotence"] is True
        sends = [producer.send(INVENTORY.name, key=UDID.encode(), value=v) for v in values]
        return [each.get(timeout=60) for each in sends]


def received(connection: KafkaConnection, count: int) -> list[bytes]:
    options = connection.consumer_options("reader") | {"consumer_timeout_ms": 60_000}
    with KafkaConsumer(INVENTORY.name, **options) as consumer:
        return [next(consumer).value for _ in range(count)]


def test_event_is_received_as_sent(connection: KafkaConnection) -> None:
    sent(connection, encode(MAC))
    assert [decode(value) for value in received(connection, 1)] == [MAC]


def test_events_of_one_mac_are_received_in_order(connection: KafkaConnection) -> None:
    many = [encode(MAC.model_copy(update={"id": str(number)})) for number in range(500)]
    offsets = [each.offset for each in sent(connection, *many)]
    assert offsets == sorted(offsets)
    assert received(connection, 500) == many


def test_compressed_events_are_readable(connection: KafkaConnection) -> None:
    gzip = connection.model_copy(update={"compression": Compression.GZIP})
    sent(gzip, *[encode(MAC)] * 50)
    assert received(connection, 50) == [encode(MAC)] * 50


def test_uncommitted_events_are_received_again(connection: KafkaConnection) -> None:
    sent(connection, b"first", b"second")
    assert received(connection, 2) == received(connection, 2) == [b"first", b"second"]


def test_event_of_the_maximum_size_can_be_sent(connection: KafkaConnection) -> None:
    value = b" " * MAX_EVENT_BYTES
    sent(connection, value)
    assert received(connection, 1) == [value]


def test_message_over_the_maximum_size_is_refused_by_the_producer(
    connection: KafkaConnection,
) -> None:
    with pytest.raises(MessageSizeTooLargeError):
        sent(connection, b" " * (MAX_MESSAGE_BYTES + 1))


def test_option_that_conflicts_with_idempotence_is_an_error(
    connection: KafkaConnection, leaky_clients: None
) -> None:
    with pytest.raises((KafkaError, ValueError, AssertionError)):
        KafkaProducer(**connection.producer_options() | {"acks": 1})
