"""Kafka goes away while agents rebalance or rebuild a journal; no agent ends, no job is lost."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kafka import KafkaProducer  # type: ignore[import-untyped]

from schemas.attempts import AttemptRecord
from schemas.topics import attempts_topic
from tests.factories.sites import START, hours
from tests.kafka.agent_site import Agent, AgentSite, eventually
from tests.kafka.brokers import KafkaCluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
MACS = 12


def kill(broker: KafkaCluster) -> None:
    """Take the broker away for 40 s: longer than a session and than a poll interval."""
    broker.kill()
    time.sleep(40)
    broker.start()


def freeze(broker: KafkaCluster) -> None:
    """Freeze the broker for 75 s: connections stay open, and no request gets a response."""
    os.kill(broker.pid(1), signal.SIGSTOP)
    time.sleep(75)
    os.kill(broker.pid(1), signal.SIGCONT)


OUTAGES = pytest.mark.parametrize("outage", [kill, freeze])


def fill_attempts(site: AgentSite, count: int) -> None:
    """Write many ended attempts, so that a lease reads for seconds."""
    record = AttemptRecord(
        job_id="job-1", udid="MAC-1", expires_at=START + hours(1000), live=False, by="x" * 500
    )
    raw = record.model_dump_json(exclude_none=True)
    with KafkaProducer(**site.connection.producer_options(linger_ms=50)) as producer:
        for number in range(count):
            name = f"job-{number}"
            producer.send(
                attempts_topic(site.name),
                key=name.encode(),
                value=raw.replace("job-1", name).encode(),
                partition=number % 4,
            )
        producer.flush()


def goes_on(site: AgentSite, agents: list[Agent]) -> None:
    """Wait until all jobs are done once; every agent still runs and has no trouble."""
    jobs = site.jobs(MACS)
    eventually(lambda: site.acted() == sorted(job.job_id for job in jobs), "all jobs are done", 180)
    more = site.prompts(MACS)
    site.order(*more)
    site.are_done(more)
    for agent in agents:
        assert agent.process.poll() is None, "the agent has ended"
        eventually(lambda agent=agent: agent.metric("drydock_ready") == 1, "the agent is ready")  # type: ignore[misc]


@OUTAGES
@pytest.mark.parametrize("moment", ["joins", "leaves"])
def test_outage_in_a_rebalance_is_waited_out(
    moment: str, outage: Callable[[KafkaCluster], None], own_broker: KafkaCluster, tmp_path: Path
) -> None:
    with AgentSite.at(own_broker, tmp_path, "outage", MACS) as site:
        agents = [site.start("one")]
        site.is_assigned(agents[0], 4)
        if moment == "leaves":
            leaving = site.start("two")
            site.is_assigned(leaving, 2)
        site.order(*site.jobs(MACS))
        if moment == "joins":
            agents.append(site.start("two"))
            eventually(lambda: agents[1].log_count("started") == 1, "two has started")
            time.sleep(1)
        else:
            leaving.kill()
            time.sleep(5.5)  # its session ends after 6 s
        outage(own_broker)
        goes_on(site, agents)


@OUTAGES
@pytest.mark.parametrize("delay_s", [0.5, 2.0])
def test_outage_while_a_journal_is_rebuilt_is_waited_out(
    delay_s: float, outage: Callable[[KafkaCluster], None], own_broker: KafkaCluster, tmp_path: Path
) -> None:
    with AgentSite.at(own_broker, tmp_path, "outage", MACS) as site:
        fill_attempts(site, 40_000)
        site.order(*site.jobs(MACS))
        agent = site.start("one")
        eventually(lambda: agent.metric("drydock_agent_partitions") == 4, "it has its partitions")
        time.sleep(delay_s)
        outage(own_broker)
        goes_on(site, [agent])
