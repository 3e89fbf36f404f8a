"""The consumer of an agent and its group, on a real broker."""

import contextlib
import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import RebalanceInProgressError  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from agents.consumer_group import rejoin_if_stuck
from runtime.kafka import KafkaConnection
from schemas.topics import jobs_topic
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import make_topics

WAIT_LIMIT_S = 30.0


def commits(consumer: Any, partition: TopicPartition) -> bool:
    """Return True if the group accepts a commit; False if the client is still joining."""
    try:
        consumer.commit({partition: OffsetAndMetadata(0, "", -1)}, timeout_ms=5000)
    except RebalanceInProgressError:
        return False
    return True


def poll_until_committed(consumer: Any, partition: TopicPartition, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        consumer.poll(timeout_ms=100)
        if consumer.assignment() and commits(consumer, partition):
            return True
    return False


def test_consumer_that_is_stuck_in_a_rebalance_joins_again(kafka: KafkaCluster) -> None:
    """kafka-python 3.0.12: if metadata changes and changes back during a join, the consumer is
    stuck. An agent then keeps its partition and cannot commit.
    """
    make_topics(kafka.bootstrap, "forgetful")
    topic = jobs_topic("forgetful")
    partition = TopicPartition(topic, 0)
    options = KafkaConnection(bootstrap=kafka.bootstrap).consumer_options(topic, instance="one")
    with contextlib.closing(KafkaConsumer(**options)) as consumer:
        consumer.subscribe([topic])
        assert poll_until_committed(consumer, partition, WAIT_LIMIT_S)
        coordinator = consumer._coordinator
        snapshot, coordinator._assignment_snapshot = coordinator._assignment_snapshot, {}
        consumer.poll(timeout_ms=0)
        coordinator._assignment_snapshot = snapshot
        assert not poll_until_committed(
            consumer, partition, 3.0
        )  # without `rejoin_if_stuck` it stays stuck
        rejoin_if_stuck(consumer)
        assert poll_until_committed(consumer, partition, WAIT_LIMIT_S)
