"""Jobs that are lost between worker and agent are carried out after all, once. A real broker."""

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from schemas.jobs import Job
from schemas.topics import DISPATCH_STATE, JOB_PARTITIONS, jobs_topic
from tests import factories
from tests.factories import NOW
from tests.factories.sites import JOBS_KEY
from tests.kafka.agent_site import AgentSite, eventually
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import make_topics as make_missing_topics
from tests.kafka.workers import Workers, make_topics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

SITE = "london"
TOPIC = jobs_topic(SITE)
MACS = [f"MAC-{number}" for number in range(6)]
MINUTE = timedelta(minutes=1)


@dataclass
class Fleet:
    """A worker with a clock of its own, and a site with six Macs that lack a release."""

    workers: Workers
    site: AgentSite

    def report(self) -> None:
        """Let all Macs report their old version, with a policy and a release."""
        policy = factories.POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 50")
        self.workers.send([factories.policy_changed(policy), factories.release("26.2")])
        for udid in MACS:
            self.workers.send([*factories.enrolled(udid), factories.polled(udid)])
            serial = f"C02{udid}"
            self.workers.send([factories.full_report("26.1", udid, NOW - MINUTE, serial=serial)])

    def published(self) -> list[Job]:
        """Return the jobs in the topic of the site, repeats included."""
        return [event.data.job for event in self.workers.published()]

    def replace_worker(self) -> None:
        """End the worker, and start another one without its files."""
        old = self.workers.running[-1]
        old.stop()
        shutil.rmtree(old.data_dir)
        self.workers.start()

    def move_offsets_to_the_end(self) -> None:
        """Let the group of the site's agents skip all records of the jobs."""
        partitions = [TopicPartition(TOPIC, number) for number in range(JOB_PARTITIONS)]
        ends = {
            partition: OffsetAndMetadata(end, "", -1)
            for partition, end in self.workers._ends(partitions).items()
        }

        def moved() -> bool:
            try:
                self.workers.admin.alter_group_offsets(f"drydock.agent.{SITE}", ends)
            except KafkaError:  # the group still has a member
                return False
            return True

        eventually(moved, "the offsets are moved")

    def delete_records(self, topic: str) -> None:
        """Delete all records of a topic, as `kafka-delete-records` does."""
        counts = self.workers.admin.describe_topics([topic])[0]["partitions"]
        self.workers.admin.delete_records(
            {TopicPartition(topic, number): -1 for number in range(len(counts))}
        )

    def recreate(self, topic: str) -> None:
        """Delete a topic and create it again, empty."""
        admin = self.workers.admin
        admin.delete_topics([topic])
        eventually(lambda: topic not in admin.list_topics(), "the topic is deleted")
        make_missing_topics(self.workers.kafka.bootstrap, SITE)


def lose_records(fleet: Fleet) -> None:
    fleet.delete_records(TOPIC)


def lose_topic(fleet: Fleet) -> None:
    fleet.recreate(TOPIC)


def skip_records(fleet: Fleet) -> None:
    agent = fleet.site.start("early")
    fleet.site.is_assigned(agent, JOB_PARTITIONS)
    agent.signal(signal.SIGKILL)
    fleet.move_offsets_to_the_end()


def lose_dispatch(fleet: Fleet) -> None:
    fleet.workers.running[-1].stop()
    fleet.recreate(DISPATCH_STATE.name)
    fleet.delete_records(TOPIC)
    fleet.workers.start()


@pytest.fixture
def fleet(empty_kafka: KafkaCluster, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet whose worker has published a job for each Mac; no agent runs."""
    make_topics(empty_kafka)
    workers = Workers(empty_kafka, tmp_path, NOW)
    try:
        with AgentSite.at(empty_kafka, tmp_path, SITE, len(MACS), start=NOW) as site:
            site.trust(JOBS_KEY.public_key())
            made = Fleet(workers, site)
            workers.start()
            made.report()
            workers.wait_caught_up()
            assert sorted(job.udid for job in made.published()) == MACS
            yield made
    finally:
        workers.close()


@pytest.mark.parametrize("lose", [lose_records, lose_topic, skip_records, lose_dispatch])
@pytest.mark.parametrize("owner", ["same-owner", "new-owner"])
def test_lost_job_is_carried_out_once(
    lose: Callable[[Fleet], None], owner: str, fleet: Fleet
) -> None:
    jobs, workers = fleet.published(), fleet.workers
    lose(fleet)
    agent = fleet.site.start("one")
    fleet.site.is_assigned(agent, JOB_PARTITIONS)
    workers.set_clock(NOW + 4 * MINUTE)
    workers.wait_caught_up()
    assert agent.metric("drydock_agent_records_total") == 0, "the fault lost no job"
    if owner == "new-owner":
        fleet.replace_worker()
    workers.set_clock(NOW + 5 * MINUTE)
    fleet.site.are_done(jobs)
    workers.wait_caught_up()
    offered = workers.running[-1].get("/metrics")[1]
    if lose is not lose_dispatch:  # which counts as the first offer
        assert f'drydock_jobs_offered_again_total{{site="{SITE}"}} 6.0' in offered
    records = agent.metric("drydock_agent_records_total")
    for minutes in (15, 35, 75, 135):
        workers.set_clock(NOW + minutes * MINUTE)
        workers.wait_caught_up()
    assert agent.metric("drydock_agent_records_total") == records
    assert fleet.site.acted() == sorted(job.job_id for job in jobs)
