"""All clients write a key to the same partition.

kafka-python 3.0.12, aiokafka 0.14.0 and Faust 0.15.3 hash the bytes of a key with Java's murmur2
unless the key is null. Faust uses aiokafka's default partitioner (its own setting
`producer_partitioner` is None by default), and encodes a `str` key with the serializer `raw` as
UTF-8. No client normalises Unicode: two spellings of one word are two keys.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaProducer  # type: ignore[import-untyped]
from aiokafka.partitioner import (  # type: ignore[import-untyped]
    DefaultPartitioner as AiokafkaPartitioner,
)
from hypothesis import given
from hypothesis import strategies as st
from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
)
from kafka.partitioner.default import murmur2  # type: ignore[import-untyped]

from runtime.kafka import KafkaConnection
from schemas.topics import partition_of
from tests.kafka.brokers import KafkaCluster

KEYS = (
    "5A0C7D9E-0000-4000-8000-000000000001",
    "serial:C02XK0AAJGH5",
    "a",
    "ab",
    "abc",
    "abcd",
    "Zürich",
    "Zu\u0308rich",
    "東京",
    "офис-7",
    "🖥️ loan unit",
    "\x00\x7f\x80",
)
PARTITIONS = 7


def by_faust(key: str, partitions: int) -> int:
    app = faust.App("partitioner-of-faust", broker="kafka://127.0.0.1:1", web_enabled=False)
    encoded = app.serializers.dumps_key(str, key, serializer="raw")
    producer: Any = app.transport.create_producer()
    assert getattr(app.conf, "producer_partitioner") is None  # noqa: B009 - faust's type is wrong
    return int(producer.partitioner(encoded, list(range(partitions)), []))


def by_aiokafka(key: str, partitions: int) -> int:
    return int(AiokafkaPartitioner()(key.encode(), list(range(partitions)), []))


def by_kafka_python(key: str, partitions: int) -> int:
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize("client", [by_faust, by_aiokafka, by_kafka_python])
@pytest.mark.parametrize("key", KEYS, ids=ascii)
def test_partition_of_a_key_equals_the_one_of_each_client(
    client: Callable[[str, int], int], key: str
) -> None:
    for partitions in (1, 4, 7, 32, 48):
        assert partition_of(key, partitions) == client(key, partitions)


@given(key=st.text(st.characters(exclude_categories=["Cs"])), partitions=st.integers(1, 4096))
def test_partition_of_any_key_equals_the_one_of_the_clients(key: str, partitions: int) -> None:
    chosen = partition_of(key, partitions)
    assert 0 <= chosen < partitions
    assert chosen == by_kafka_python(key, partitions) == by_aiokafka(key, partitions)


def test_partition_of_a_key_never_changes() -> None:
    # Fixed values: if the partition of a key changed, a worker would lose the state of its Mac.
    assert [partition_of(key, 32) for key in KEYS] == [
        *(6, 16, 28, 10, 27, 20),
        *(17, 17, 11, 23, 3, 24),
    ]


@pytest.mark.parametrize("partitions", [0, -1])
def test_partition_count_below_one_is_an_error(partitions: int) -> None:
    with pytest.raises(ValueError, match="at least one partition"):
        partition_of("x", partitions)


def test_key_that_is_not_valid_unicode_is_an_error() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        partition_of("\ud800", 4)


def send_with_kafka_python(connection: KafkaConnection, topic: str) -> None:
    with KafkaProducer(**connection.producer_options()) as producer:
        sends = [producer.send(topic, key=key.encode(), value=b"kafka-python") for key in KEYS]
        for each in sends:
            each.get(timeout=30)


def send_with_aiokafka(connection: KafkaConnection, topic: str) -> None:
    async def send() -> None:
        async with AIOKafkaProducer(acks="all", **connection.aiokafka_options()) as producer:
            for key in KEYS:
                await producer.send_and_wait(topic, key=key.encode(), value=b"aiokafka")

    asyncio.run(send())


def send_with_faust(connection: KafkaConnection, topic: str) -> None:
    async def send() -> None:
        app = faust.App(
            "sender-of-faust", broker=f"kafka://{connection.bootstrap}", web_enabled=False
        )
        written_to = app.topic(
            topic, key_type=str, key_serializer="raw", value_type=bytes, value_serializer="raw"
        )
        await app.producer.start()
        try:
            for key in KEYS:
                await (await written_to.send(key=key, value=b"faust", force=True))
        finally:
            await app.producer.stop()

    asyncio.run(send())


def test_records_of_all_clients_with_one_key_are_in_one_partition(
    empty_kafka: KafkaCluster,
) -> None:
    connection = KafkaConnection(bootstrap=empty_kafka.bootstrap)
    topic = "partitioner"
    with KafkaAdminClient(**connection.client_options()) as admin:
        admin.create_topics({topic: {"num_partitions": PARTITIONS, "replication_factor": 1}})
        admin.wait_for_topics([topic])
    send_with_kafka_python(connection, topic)
    send_with_aiokafka(connection, topic)
    send_with_faust(connection, topic)

    found: dict[str, set[tuple[int, str]]] = {}
    with KafkaConsumer(
        topic, **connection.consumer_options(), consumer_timeout_ms=30_000
    ) as consumer:
        for _ in range(3 * len(KEYS)):
            record = next(consumer)
            found.setdefault(record.key.decode(), set()).add(
                (record.partition, record.value.decode())
            )
    assert found == {
        key: {
            (partition_of(key, PARTITIONS), client)
            for client in ("kafka-python", "aiokafka", "faust")
        }
        for key in KEYS
    }
