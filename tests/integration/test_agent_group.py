"""An executor's client and its group, on a real broker."""

import contextlib
import time
from typing import Any

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import RebalanceInProgressError  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from agents.job_consumer import rejoin_if_stuck
from schemas.connection import KafkaConnection
from schemas.topics import jobs_topic
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import make_topics

WAIT_LIMIT_S = 30.0


def commits(consumer: Any, place: TopicPartition) -> bool:
    """Whether the group takes a commit; False where the client thinks that it is still joining."""
    try:
        consumer.commit({place: OffsetAndMetadata(0, "", -1)}, timeout_ms=5000)
    except RebalanceInProgressError:
        return False
    return True


def poll_until_committed(consumer: Any, place: TopicPartition, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        consumer.poll(timeout_ms=100)
        if consumer.assignment() and commits(consumer, place):
            return True
    return False


def test_a_client_that_forgot_to_join_is_brought_back(kafka: KafkaCluster) -> None:
    """Metadata that changes and changes back while it joins: seen as an executor that held its
    partition for good and could commit nothing."""
    make_topics(kafka.bootstrap, "forgetful")
    topic = jobs_topic("forgetful")
    place = TopicPartition(topic, 0)
    options = KafkaConnection(bootstrap=kafka.bootstrap).consumer_options(topic, instance="one")
    with contextlib.closing(KafkaConsumer(**options)) as consumer:
        consumer.subscribe([topic])
        assert poll_until_committed(consumer, place, WAIT_LIMIT_S)
        coordinator = consumer._coordinator
        snapshot, coordinator._assignment_snapshot = coordinator._assignment_snapshot, {}
        consumer.poll(timeout_ms=0)
        coordinator._assignment_snapshot = snapshot
        assert not poll_until_committed(consumer, place, 3.0)  # without us it stays there
        rejoin_if_stuck(consumer)
        assert poll_until_committed(consumer, place, WAIT_LIMIT_S)
