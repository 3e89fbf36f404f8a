"""Broadcast topics with transactions: markers and aborted records are skipped."""

import asyncio
from collections.abc import Iterator

import pytest
from kafka import KafkaProducer  # type: ignore[import-untyped]

from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.broadcast_reader import BroadcastReader
from runtime.kafka import KafkaConnection
from runtime.logs import make_log, silence_kafka_clients
from schemas.envelope import encode
from schemas.topics import ADVISORIES, CONTROL, HALTS
from tests.factories import release
from tests.kafka.brokers import KafkaCluster
from tests.kafka.workers import make_topics

SOON_S = 30


@pytest.fixture
def producer(empty_kafka: KafkaCluster) -> Iterator[KafkaProducer]:
    make_topics(empty_kafka)
    options = KafkaConnection(bootstrap=empty_kafka.bootstrap).producer_options()
    with KafkaProducer(**options | {"transactional_id": "test.broadcast"}) as producer:
        producer.init_transactions()
        yield producer


def begin(producer: KafkaProducer, version: str) -> None:
    """Begin a transaction with one release, which reaches the broker; do not end it."""
    event = release(version)
    producer.begin_transaction()
    producer.send(ADVISORIES.name, key=event.subject.encode(), value=encode(event)).get(SOON_S)


def subjects(state: BroadcastState) -> set[str]:
    return set(state.fleet.advisories.known)


def test_broadcast_records_are_read_past_transaction_markers(
    empty_kafka: KafkaCluster, producer: KafkaProducer
) -> None:
    silence_kafka_clients()
    state = BroadcastState({})
    connection = KafkaConnection(bootstrap=empty_kafka.bootstrap)

    async def read() -> None:
        reader = BroadcastReader(state, connection, make_log())
        await reader.start()
        try:
            # The last transaction is open: the start does not wait for it and does not read it.
            assert subjects(state) == {"macOS-26.1"}
            assert state.next_offsets == {ADVISORIES.name: 4, CONTROL.name: 0, HALTS.name: 0}
            producer.commit_transaction()
            async with asyncio.timeout(SOON_S):
                while state.next_offsets[ADVISORIES.name] < 6:
                    await asyncio.sleep(0.05)
            assert subjects(state) == {"macOS-26.1", "macOS-26.3"}
            assert [record.offset for record in state.records] == [0, 4]
        finally:
            await reader.stop()

    begin(producer, "26.1")
    producer.commit_transaction()
    begin(producer, "26.2")
    producer.abort_transaction()
    begin(producer, "26.3")
    asyncio.run(read())
