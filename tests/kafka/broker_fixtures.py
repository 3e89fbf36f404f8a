"""Fixtures with a real broker. The conftest of a test folder imports the ones that it needs."""

import gc
import socket
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from kafka import KafkaAdminClient  # type: ignore[import-untyped]

from tests.kafka.brokers import (
    SHORT_LIVED,
    BrokerError,
    KafkaCluster,
    free_ports,
    missing_parts,
)
from tests.waiting import wait_until

Cluster = TypeVar("Cluster", bound=KafkaCluster)


def start_cluster(brokers: int, tmp_path_factory: pytest.TempPathFactory) -> KafkaCluster:
    """Return a running cluster; skip the test if Java or Kafka is missing (in CI: fail)."""
    lacking = missing_parts()
    if lacking:
        pytest.skip(f"no Kafka: {lacking}")
    return started(
        lambda _: KafkaCluster(
            brokers,
            tmp_path_factory.mktemp("kafka"),
            free_ports(2 * brokers),
            jvm=SHORT_LIVED,
        )
    )


def started(make: Callable[[int], Cluster]) -> Cluster:
    """Return a cluster that runs; `make` gets the number of the attempt, from 1 to 3."""
    for attempt in (1, 2, 3):
        cluster = make(attempt)
        try:
            cluster.start()
        except BrokerError:
            # Another program may have taken one of the ports: retry with other ports.
            cluster.kill()
            if attempt == 3:
                raise
        else:
            break
    return cluster


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    """One real broker for all tests of a run; its topics and records stay between tests."""
    cluster = start_cluster(1, tmp_path_factory)
    yield cluster
    cluster.kill()


@pytest.fixture
def empty_kafka(kafka: KafkaCluster) -> KafkaCluster:
    """The broker of the run, with no topics except Kafka's internal ones."""
    with KafkaAdminClient(bootstrap_servers=kafka.bootstrap) as admin:

        def topics() -> list[str]:
            return [name for name in admin.list_topics() if not name.startswith("__")]

        if topics():
            admin.delete_topics(topics())
        wait_until(lambda: not topics(), 30, "topics were not deleted")
    return kafka


@pytest.fixture
def leaky_clients() -> Iterator[None]:
    """Close the sockets that kafka-python leaves open when a broker is down.

    kafka-python 3.0.12 does not close the socket of a refused connection. Its ResourceWarning
    would fail a later test.
    """
    yield
    for one in gc.get_objects():
        if type(one) is socket.socket and one.fileno() >= 0 and _is_unconnected(one):
            one.close()


def _is_unconnected(one: socket.socket) -> bool:
    """Return True if the socket neither listens nor is connected."""
    if one.family != socket.AF_INET or one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    try:
        one.getpeername()
    except OSError:
        return True
    return False


@pytest.fixture
def own_broker(
    leaky_clients: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaCluster]:
    """One broker for one test, which may kill it or delete records of its topics."""
    cluster = start_cluster(1, tmp_path_factory)
    yield cluster
    cluster.kill()


@pytest.fixture
def three_brokers(
    leaky_clients: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaCluster]:
    """A cluster of three brokers for one test, which may kill and restart them."""
    cluster = start_cluster(3, tmp_path_factory)
    yield cluster
    cluster.kill()
