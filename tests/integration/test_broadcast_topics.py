"""Fact topics with transactions in them: their marks and what they took back are no facts."""

import asyncio
from collections.abc import Iterator

import pytest
from kafka import KafkaProducer  # type: ignore[import-untyped]

from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.broadcast_reader import BroadcastReader
from pipeline.server_process import make_log, silence_kafka_clients
from schemas.connection import KafkaConnection
from schemas.envelope import encode
from schemas.topics import ADVISORIES, CONTROL
from tests.factories import release
from tests.kafka.brokers import KafkaCluster
from tests.kafka.workers import make_topics

SOON_S = 30


@pytest.fixture
def producer(empty_kafka: KafkaCluster) -> Iterator[KafkaProducer]:
    make_topics(empty_kafka)
    options = KafkaConnection(bootstrap=empty_kafka.bootstrap).producer_options()
    with KafkaProducer(**options | {"transactional_id": "test.facts"}) as producer:
        producer.init_transactions()
        yield producer


def begin(producer: KafkaProducer, version: str) -> None:
    """A transaction with one release in it, on the broker but not ended."""
    event = release(version)
    producer.begin_transaction()
    producer.send(ADVISORIES.name, key=event.subject.encode(), value=encode(event)).get(SOON_S)


def subjects(facts: BroadcastState) -> set[str]:
    return set(facts.fleet.advisories.known)


def test_broadcast_records_are_read_past_transaction_markers(
    empty_kafka: KafkaCluster, producer: KafkaProducer
) -> None:
    silence_kafka_clients()
    facts = BroadcastState({})
    connection = KafkaConnection(bootstrap=empty_kafka.bootstrap)

    async def read() -> None:
        reader = BroadcastReader(facts, connection, make_log())
        await reader.start()
        try:
            # The last transaction is open: what is in it is neither waited for nor taken.
            assert subjects(facts) == {"macOS-26.1"}
            assert facts.next_offsets == {ADVISORIES.name: 4, CONTROL.name: 0}
            producer.commit_transaction()
            async with asyncio.timeout(SOON_S):
                while facts.next_offsets[ADVISORIES.name] < 6:
                    await asyncio.sleep(0.05)
            assert subjects(facts) == {"macOS-26.1", "macOS-26.3"}
            assert [fact.offset for fact in facts.records] == [0, 4]
        finally:
            await reader.stop()

    begin(producer, "26.1")
    producer.commit_transaction()
    begin(producer, "26.2")
    producer.abort_transaction()
    begin(producer, "26.3")
    asyncio.run(read())
