"""Three brokers are killed, frozen and restarted under a working fleet: each job is done once."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.kafka_fleet import MACS, KafkaFleet
from tests.kafka.agent_site import eventually
from tests.kafka.brokers import KafkaCluster
from tests.kafka.gateways import Fleet, found_of, gateway

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


def lose_two(kafka: KafkaCluster) -> None:
    for node in (2, 3):
        kafka.kill(node)
    time.sleep(15)
    kafka.start()


def kill_all(kafka: KafkaCluster) -> None:
    kafka.kill()
    time.sleep(5)
    kafka.start()


def restart_in_turn(kafka: KafkaCluster) -> None:
    for node in kafka.nodes:
        kafka.restart(node)


def freeze_repeatedly(kafka: KafkaCluster) -> None:
    """Like a network that is cut for 4 s at a time: connections stay, nothing is answered."""
    for _ in range(4):
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for node in kafka.nodes:
                os.kill(kafka.pid(node), number)
            time.sleep(4)


@pytest.fixture
def fleet(three_brokers: KafkaCluster, tmp_path: Path) -> Iterator[KafkaFleet]:
    """A fleet with a worker that waits for input, and an agent."""
    with KafkaFleet.at(three_brokers, tmp_path) as made:
        made.workers.start()
        made.workers.wait_caught_up()
        made.start_agent("one")
        yield made


@pytest.mark.parametrize("disturb", [lose_two, kill_all, restart_in_turn, freeze_repeatedly])
def test_each_job_is_done_once_and_each_webhook_kept(
    disturb: Callable[[KafkaCluster], None], fleet: KafkaFleet, tmp_path: Path
) -> None:
    kafka, load = fleet.workers.kafka, Fleet("LOAD", macs=5, rate=20)
    worker, agent = fleet.workers.running[-1], fleet.site.agents[-1]
    with gateway(kafka, tmp_path / "gateway") as running:
        running.settles()
        fleet.enroll()
        fleet.release()
        with load.posting(lambda: running.url):
            eventually(lambda: len(fleet.site.acted()) > 0, "a first order is given")
            disturb(kafka)
            fleet.workers.reconnect()
            eventually(lambda: len(fleet.site.acted()) == len(MACS), "all orders are given", 120)
        running.settles()
    found = found_of(load, kafka)
    assert (found.missing(load), found.disordered(load)) == ([], [])
    assert set(load.statuses) == {200}
    assert worker.runs
    assert agent.process.poll() is None
    fleet.is_done_once(2)
