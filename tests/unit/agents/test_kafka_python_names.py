"""The private names of kafka-python that `agents.consumer_group.rejoin_if_stuck` uses.

If a test fails, kafka-python has changed: compare `rejoin_if_stuck` with the new source of
`kafka/coordinator`, run `tests/integration/test_agent_group.py` against a broker, and only then
pin the new version here and in pyproject.toml.
"""

import inspect
from importlib.metadata import version

import pytest
from kafka import KafkaConsumer  # type: ignore[import-untyped]
from kafka.cluster import ClusterMetadata  # type: ignore[import-untyped]
from kafka.consumer.subscription_state import (  # type: ignore[import-untyped]
    SubscriptionState,
)
from kafka.coordinator.base import (  # type: ignore[import-untyped]
    BaseCoordinator,
    MemberState,
)
from kafka.coordinator.consumer import ConsumerCoordinator  # type: ignore[import-untyped]

from agents.consumer_group import rejoin_if_stuck

TOPIC = "drydock.jobs.london"


class Network:
    """The part of the client's event loop that the constructor of a coordinator reads."""


class Manager:
    def __init__(self) -> None:
        self.cluster = ClusterMetadata()
        self._net = Network()


class Client:
    """A client without sockets: a real one connects in the background."""

    def __init__(self) -> None:
        self._manager = Manager()


class Consumer:
    """The part of a KafkaConsumer that `rejoin_if_stuck` uses, with a real, joined coordinator."""

    def __init__(self, state: MemberState) -> None:
        subscription = SubscriptionState()
        subscription.subscribe(topics=[TOPIC])
        coordinator = self._coordinator = ConsumerCoordinator(
            Client(), subscription, group_id="g", api_version=(3, 9), enable_auto_commit=False
        )
        coordinator._joined_subscription = {TOPIC}
        coordinator._metadata_snapshot = coordinator._assignment_snapshot = {TOPIC: 1}
        coordinator.rejoin_needed = False
        coordinator.state = state


def test_kafka_python_has_the_version_that_this_code_was_written_for() -> None:
    assert version("kafka-python") == "3.0.12"


def test_consumer_keeps_its_coordinator_under_the_private_name() -> None:
    assert {"_coordinator", "ConsumerCoordinator"} <= set(KafkaConsumer.__init__.__code__.co_names)
    assert "_coordinator" in KafkaConsumer.commit.__code__.co_names


@pytest.mark.parametrize("name", ["rebalance_in_progress", "need_rejoin", "request_rejoin"])
def test_coordinator_has_the_method_without_parameters(name: str) -> None:
    assert list(inspect.signature(getattr(ConsumerCoordinator, name)).parameters) == ["self"]


def test_forgotten_join_is_requested_again() -> None:
    consumer = Consumer(MemberState.REBALANCING)
    assert consumer._coordinator.rebalance_in_progress()
    assert not consumer._coordinator.need_rejoin()
    rejoin_if_stuck(consumer)
    assert consumer._coordinator.need_rejoin()


def test_stable_member_is_left_alone() -> None:
    consumer = Consumer(MemberState.STABLE)
    rejoin_if_stuck(consumer)
    assert not consumer._coordinator.need_rejoin()


def test_join_is_forgotten_when_changed_metadata_changes_back() -> None:
    """Shows the fault that `rejoin_if_stuck` repairs. If this fails, it may be unnecessary."""
    coordinator = Consumer(MemberState.REBALANCING)._coordinator
    coordinator._metadata_snapshot = {TOPIC: 2}
    assert coordinator.need_rejoin()
    coordinator._metadata_snapshot = {TOPIC: 1}
    assert not coordinator.need_rejoin()
    assert coordinator.rebalance_in_progress()


def test_requested_rejoin_is_read_by_the_code_that_joins() -> None:
    assert "need_rejoin" in ConsumerCoordinator.poll.__code__.co_names
    assert "need_rejoin" in BaseCoordinator.join_group_async.__code__.co_names
    assert "request_rejoin" not in vars(ConsumerCoordinator)
    assert "rejoin_needed" in BaseCoordinator.request_rejoin.__code__.co_names
    assert "rejoin_needed" in BaseCoordinator.need_rejoin.__code__.co_names
