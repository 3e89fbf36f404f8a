"""The network to Kafka is cut, or loses all data: each job is done once."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.faults.kafka_fleet import MACS, KafkaFleet
from tests.installers.servers import Proxy, Toxiproxy, missing_servers
from tests.kafka.agent_site import eventually
from tests.kafka.brokers import SHORT_LIVED, KafkaCluster, free_ports, missing_parts
from tests.kafka.gateways import Fleet, found_of, gateway

_CUTS: Final = 4
_CUT_S: Final = 4.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


class ProxiedKafka(KafkaCluster):
    """A broker that clients reach only through a proxy, since it advertises that address."""

    def __init__(self, folder: Path, toxiproxy: Toxiproxy) -> None:
        ports = free_ports(2)
        self.way: Proxy = toxiproxy.proxy(f"127.0.0.1:{ports[0]}")
        self._address = self.way.url.removeprefix("http://")
        advertised = {"advertised.listeners": f"PLAINTEXT://{self._address}"}
        super().__init__(1, folder, ports, extra=advertised, jvm=SHORT_LIVED)

    def address(self, node: int) -> str:  # noqa: ARG002 - of KafkaCluster
        """Return the address of the proxy."""
        return self._address


@pytest.fixture
def toxiproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    """A proxy that cuts and delays connections."""
    if missing := missing_servers():
        pytest.skip(missing)
    proxy = Toxiproxy.create(tmp_path_factory.mktemp("toxiproxy"))
    proxy.program.start()
    yield proxy
    proxy.api.close()
    proxy.program.stop()


@pytest.fixture
def proxied(
    leaky_clients: None, toxiproxy: Toxiproxy, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxiedKafka]:
    """A broker behind the proxy."""
    if lacking := missing_parts():
        pytest.skip(f"no Kafka: {lacking}")
    kafka = ProxiedKafka(tmp_path_factory.mktemp("kafka"), toxiproxy)
    kafka.start()
    yield kafka
    kafka.kill()


@pytest.fixture
def fleet(proxied: ProxiedKafka, tmp_path: Path) -> Iterator[KafkaFleet]:
    """A fleet with a worker that waits for input, and an agent."""
    with KafkaFleet.at(proxied, tmp_path) as made:
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


@pytest.mark.parametrize("disturb", [cut, swallow])
def test_each_job_is_done_once_and_each_webhook_kept(
    disturb: Callable[[Proxy], None], proxied: ProxiedKafka, fleet: KafkaFleet, tmp_path: Path
) -> None:
    load = Fleet("LOAD", macs=5, rate=20)
    worker, agent = fleet.workers.running[-1], fleet.site.agents[-1]
    with gateway(proxied, tmp_path / "gateway") as running:
        running.settles()
        fleet.enroll()
        fleet.release()
        with load.posting(lambda: running.url):
            eventually(lambda: len(fleet.site.acted()) > 0, "a first order is given")
            disturb(proxied.way)
            eventually(lambda: len(fleet.site.acted()) == len(MACS), "all orders are given", 120)
        running.settles()
    found = found_of(load, proxied)
    assert (found.missing(load), found.disordered(load)) == ([], [])
    assert set(load.statuses) == {200}
    assert worker.runs
    assert agent.process.poll() is None
    fleet.is_done_once(2)
