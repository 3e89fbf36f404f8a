"""Full disks under the gateway and an agent, as processes on a real broker."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.volumes import MIB, Volume, small_volume
from tests.kafka.agent_site import AgentSite, eventually
from tests.kafka.brokers import KafkaCluster
from tests.kafka.gateways import (
    Fleet,
    Server,
    command_webhook,
    found_of,
    gateway,
)
from tests.kafka.topics import make_topics
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
RECOVERY_S = 5.0


@pytest.fixture
def broker(leaky_clients: None, kafka: KafkaCluster) -> Iterator[KafkaCluster]:
    """The broker of the run, which the test may stop; it runs again afterwards."""
    make_topics(kafka.bootstrap)
    yield kafka
    kafka.start()


class Sender:
    """Posts webhooks one by one; `fleet` has those with response 200."""

    def __init__(self, name: str) -> None:
        self.fleet = Fleet(name, macs=20, rate=1)
        self._number = 0

    def post(self, running: Server) -> int:
        udid, number = f"{self.fleet.name}-{self._number % 20:04}", self._number // 20
        self._number += 1
        url = f"{running.url}/webhooks/nanomdm"
        found = httpx.post(url, content=command_webhook(udid, number), trust_env=False, timeout=60)
        if found.status_code == 200:
            self.fleet.accepted[udid].append(number)
        return found.status_code

    def check(self, kafka: KafkaCluster) -> None:
        found = found_of(self.fleet, kafka)
        assert found.missing(self.fleet) == []
        assert found.disordered(self.fleet) == []
        assert found.duplicates == 0


def readiness(running: Server) -> int:
    return httpx.get(f"{running.url}/readyz", trust_env=False, timeout=60).status_code


@pytest.mark.parametrize("cause", ["the spool", "another file"])
def test_gateway_sends_its_spool_from_a_full_disk_when_kafka_is_back(
    cause: str, broker: KafkaCluster, tmp_path: Path
) -> None:
    sender = Sender("FULL" + cause[-4:].strip().upper())
    with (
        small_volume(tmp_path / "data", 4 * MIB) as volume,
        gateway(broker, tmp_path, DRYDOCK_ACK_WAIT_S="0.2") as running,
    ):
        running.settles()
        broker.stop()
        if cause == "the spool":
            while sender.post(running) == 200:
                pass
        else:
            for _ in range(200):
                assert sender.post(running) == 200
            volume.fill()
        assert sender.post(running) == 503
        assert readiness(running) == 503
        broker.start()
        running.settles()
        wait_until(lambda: readiness(running) == 200, RECOVERY_S, "not ready")
        for _ in range(50):
            assert sender.post(running) == 200
        assert running.value("drydock_gateway_spool_undeleted_records") == 0
    sender.check(broker)


def test_gateway_spools_again_within_seconds_of_room(broker: KafkaCluster, tmp_path: Path) -> None:
    sender = Sender("ROOM")
    with (
        small_volume(tmp_path / "data", 8 * MIB) as volume,
        gateway(broker, tmp_path, DRYDOCK_ACK_WAIT_S="0.2") as running,
    ):
        running.settles()
        broker.stop()
        for _ in range(3):
            assert sender.post(running) == 200
            volume.fill()
            assert sender.post(running) == 503
            assert readiness(running) == 503
            volume.free()
            wait_until(lambda: readiness(running) == 200, RECOVERY_S, "not ready")
        broker.start()
        running.settles()
    sender.check(broker)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    with small_volume(tmp_path / "one", 16 * MIB) as made:
        yield made


def test_agent_starts_no_job_on_a_full_disk_and_continues_by_itself(
    broker: KafkaCluster, volume: Volume, tmp_path: Path
) -> None:
    with AgentSite.at(broker, tmp_path, "full-disk", 8) as site:
        agent = site.start("one")
        site.is_assigned(agent, 4)
        jobs = site.prompts(8)
        site.order(*jobs[:4])
        site.are_done(jobs[:4])
        volume.fill()
        eventually(lambda: agent.metric("drydock_agent_volume_full") == 1, "it sees the full disk")
        site.order(*jobs[4:])
        assert agent.health()["shortage"]
        given = site.acted()
        volume.free()
        site.are_done(jobs)
        assert given == sorted(job.job_id for job in jobs[:4])
        assert max(Counter(site.acted()).values()) == 1


def test_jobs_under_way_are_finished_once_after_a_full_disk(
    broker: KafkaCluster, volume: Volume, tmp_path: Path
) -> None:
    with AgentSite.at(broker, tmp_path, "full-under-way", 8) as site:
        agent = site.start("one")
        site.is_assigned(agent, 4)
        site.macs.set_delay(0.5)
        jobs = site.prompts(8)
        site.order(*jobs)
        eventually(lambda: bool(site.acted()), "the first order is given")
        volume.fill()
        eventually(lambda: agent.metric("drydock_agent_volume_full") == 1, "it sees the full disk")
        site.macs.set_delay(0.0)
        volume.free()
        site.are_done(jobs)
        assert site.acted() == sorted(job.job_id for job in jobs)
