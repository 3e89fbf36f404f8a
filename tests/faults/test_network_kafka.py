"""The network to Kafka, between brokers or to the gateway is bad: each job is done once."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Final

import pytest

from tests.faults.kafka_fleet import MACS, KafkaFleet
from tests.kafka.agent_site import eventually
from tests.kafka.broker_fixtures import started
from tests.kafka.brokers import SHORT_LIVED, KafkaCluster, free_ports, missing_parts
from tests.kafka.gateways import Fleet, found_of, gateway
from tests.toxiproxy import Proxy, Toxiproxy

_CUTS: Final = 4
_CUT_S: Final = 4.0
_DELAY_MS: Final = 200
# Longer than the 6 s after which the controllers fence a broker.
_SPLIT_S: Final = 12.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


class ProxiedKafka(KafkaCluster):
    """Brokers that clients, each other and their controllers reach only through proxies.

    Each broker advertises the address of its proxies. From one controller to another there is a
    proxy for each direction.
    """

    def __init__(self, brokers: int, folder: Path, toxiproxy: Toxiproxy) -> None:
        ports = free_ports(3 * brokers)
        super().__init__(brokers, folder, ports[: 2 * brokers], jvm=SHORT_LIVED)
        self._between = dict(zip(self.nodes, ports[2 * brokers :], strict=True))
        self.ways = {
            node: toxiproxy.proxy(f"127.0.0.1:{ports[2 * node - 2]}") for node in self.nodes
        }
        self._from_brokers = {
            node: toxiproxy.proxy(f"127.0.0.1:{port}") for node, port in self._between.items()
        }
        self._controllers = {
            (one, other): toxiproxy.proxy(f"127.0.0.1:{ports[2 * other - 1]}")
            for one, other in permutations(self.nodes, 2)
        }

    def address(self, node: int) -> str:
        """Return the address of the proxy for clients."""
        return self.ways[node].address

    def split(self, node: int, *, connected: bool) -> None:
        """Cut one broker off from the others, or connect it again; clients still reach it."""
        self._from_brokers[node].switch(enabled=connected)
        for ends, way in self._controllers.items():
            if node in ends:
                way.switch(enabled=connected)

    def _settings(self, node: int) -> dict[str, str]:
        found = super()._settings(node)
        between = f"127.0.0.1:{self._between[node]}"
        clients, brokers = self.address(node), self._from_brokers[node].address
        voters = [
            f"{other}@127.0.0.1:{self.ports[2 * node - 1]}"
            if other == node
            else f"{other}@{self._controllers[node, other].address}"
            for other in self.nodes
        ]
        return found | {
            "controller.quorum.voters": ",".join(voters),
            "listeners": f"{found['listeners']},BROKERS://{between}",
            "advertised.listeners": f"PLAINTEXT://{clients},BROKERS://{brokers}",
            "inter.broker.listener.name": "BROKERS",
            "listener.security.protocol.map": (
                f"{found['listener.security.protocol.map']},BROKERS:PLAINTEXT"
            ),
        }


@contextmanager
def proxied(brokers: int, toxiproxy: Toxiproxy, folder: Path) -> Iterator[ProxiedKafka]:
    """Run brokers behind proxies."""
    if lacking := missing_parts():
        pytest.skip(f"no Kafka: {lacking}")
    kafka = started(lambda number: ProxiedKafka(brokers, folder / str(number), toxiproxy))
    try:
        yield kafka
    finally:
        kafka.kill()


@contextmanager
def working_fleet(kafka: KafkaCluster, folder: Path) -> Iterator[KafkaFleet]:
    """Run a fleet with a worker that waits for input, and an agent."""
    with KafkaFleet.at(kafka, folder) as made:
        made.workers.start()
        made.workers.wait_caught_up()
        made.start_agent("one")
        yield made


def cut(way: Proxy) -> None:
    """End all connections and refuse new ones for seconds, again and again."""
    for _ in range(_CUTS):
        way.switch(enabled=False)
        time.sleep(_CUT_S)
        way.switch(enabled=True)
        time.sleep(_CUT_S)


def swallow(way: Proxy) -> None:
    """Keep the connections and lose all data, as a network that splits without a reset."""
    for _ in range(_CUTS):
        way.add("timeout", timeout=0)
        way.add("timeout", stream="upstream", timeout=0)
        time.sleep(_CUT_S)
        way.clear()
        time.sleep(_CUT_S)


def delay_and_reset(way: Proxy) -> None:
    """Delay all data by 150 to 250 ms, and reset each twentieth connection, for seconds."""
    way.add("latency", latency=_DELAY_MS, jitter=50)
    way.add("latency", stream="upstream", latency=_DELAY_MS, jitter=50)
    way.add("reset_peer", toxicity=0.05, timeout=100)
    time.sleep(2 * _CUTS * _CUT_S)
    way.clear()


def reset(way: Proxy) -> None:
    """Delay all data, and reset each connection after a second, for seconds."""
    way.add("latency", latency=_DELAY_MS)
    way.add("reset_peer", timeout=1000)
    time.sleep(2 * _CUTS * _CUT_S)
    way.clear()


def is_done_once_in_spite(
    disturb: Callable[[], None],
    kafka: KafkaCluster,
    folder: Path,
    way_of: Callable[[str], str] = str,
) -> Fleet:
    """Disturb a fleet under work, and check it; return the senders, who use the address `way_of`.

    Nothing that was accepted is missing or in another order, no program ended, each job is done
    once.
    """
    load = Fleet("LOAD", macs=5, rate=20)
    with working_fleet(kafka, folder) as fleet, gateway(kafka, folder / "gateway") as running:
        worker, agent = fleet.workers.running[-1], fleet.site.agents[-1]
        url = way_of(running.url)
        running.settles()
        fleet.enroll()
        fleet.release()
        with load.posting(lambda: url):
            eventually(lambda: len(fleet.site.acted()) > 0, "a first order is given")
            disturb()
            fleet.workers.reconnect()
            eventually(lambda: len(fleet.site.acted()) == len(MACS), "all orders are given", 120)
        running.settles()
        found = found_of(load, kafka)
        assert (found.missing(load), found.disordered(load)) == ([], [])
        assert worker.runs
        assert agent.process.poll() is None
        fleet.is_done_once(2)
    return load


@pytest.mark.usefixtures("leaky_clients")
@pytest.mark.parametrize("disturb", [cut, swallow, delay_and_reset])
def test_network_to_kafka_is_bad(
    disturb: Callable[[Proxy], None], toxiproxy: Toxiproxy, tmp_path: Path
) -> None:
    with proxied(1, toxiproxy, tmp_path / "kafka") as kafka:
        load = is_done_once_in_spite(lambda: disturb(kafka.ways[1]), kafka, tmp_path)
    assert set(load.statuses) == {200}


@pytest.mark.usefixtures("leaky_clients")
@pytest.mark.parametrize("disturb", [cut, reset])
def test_network_to_the_gateway_is_bad(
    disturb: Callable[[Proxy], None],
    empty_kafka: KafkaCluster,
    toxiproxy: Toxiproxy,
    tmp_path: Path,
) -> None:
    ways: list[Proxy] = []

    def through_proxy(url: str) -> str:
        ways.append(toxiproxy.proxy(url))
        return ways[-1].url

    load = is_done_once_in_spite(lambda: disturb(ways[0]), empty_kafka, tmp_path, through_proxy)
    # The sender got no response, or one of the gateway, which accepts every webhook.
    assert {200} < set(load.statuses) <= {200, None}


@pytest.mark.usefixtures("leaky_clients")
@pytest.mark.parametrize("reached", [True, False], ids=["clients reach it", "nothing reaches it"])
def test_network_splits_a_broker_from_the_others(
    reached: bool, toxiproxy: Toxiproxy, tmp_path: Path
) -> None:
    with proxied(3, toxiproxy, tmp_path / "kafka") as kafka:

        def split() -> None:
            for node in kafka.nodes:
                kafka.split(node, connected=False)
                kafka.ways[node].switch(enabled=reached)
                time.sleep(_SPLIT_S)
                kafka.split(node, connected=True)
                kafka.ways[node].switch(enabled=True)
                kafka.wait_ready()

        load = is_done_once_in_spite(split, kafka, tmp_path)
    assert set(load.statuses) == {200}
