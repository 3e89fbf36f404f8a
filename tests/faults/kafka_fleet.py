"""A fleet on a real broker: a worker with a clock of its own, and a site with agents and Macs."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.errors import NoError  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from schemas.envelope import JobIssuedEvent, decode
from schemas.jobs import Job
from schemas.topics import JOB_PARTITIONS, ORDERS, jobs_topic
from tests import factories
from tests.factories import NOW
from tests.factories.sites import JOBS_KEY
from tests.kafka.agent_site import Agent, AgentSite, eventually
from tests.kafka.brokers import KafkaCluster
from tests.kafka.workers import Workers, make_topics

SITE = "london"
MACS = tuple(f"MAC-{number}" for number in range(6))
MINUTE = timedelta(minutes=1)
_POLICY = factories.POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 50")


@dataclass
class KafkaFleet:
    """Workers and a site with six Macs; the Macs' and agents' clock runs by itself from NOW.

    The Macs' reports are sent by the test, the workers' clock is set by the test.
    """

    workers: Workers
    site: AgentSite

    @classmethod
    @contextmanager
    def at(cls, kafka: KafkaCluster, folder: Path) -> Iterator[Self]:
        """Run a fleet on empty topics, without a worker or an agent so far."""
        make_topics(kafka, copies=kafka.brokers)
        workers = Workers(kafka, folder, NOW)
        try:
            with AgentSite.at(kafka, folder, SITE, len(MACS), start=NOW) as site:
                site.trust(JOBS_KEY.public_key())
                yield cls(workers, site)
        finally:
            workers.close()

    # --- input ---

    def enroll(self) -> None:
        """Send a policy, and check-ins and reports of all Macs, which run the newest release."""
        self.workers.send([factories.policy_changed(_POLICY), factories.release("26.1")])
        self.check_in()
        self.report("26.1", NOW - MINUTE)

    def check_in(self) -> None:
        """Send the enrollment and a poll of all Macs."""
        for udid in MACS:
            self.workers.send([*factories.enrolled(udid), factories.polled(udid)])

    def release(self) -> None:
        """Send a release that all Macs lack."""
        self.workers.send([factories.release("26.2")])

    def report(self, version: str, at: datetime) -> None:
        """Send a report of this version from all Macs."""
        self.workers.send(
            factories.full_report(version, udid, at, serial=f"C02{udid}") for udid in MACS
        )

    def pass_time(self, minutes: float) -> None:
        """Set the workers' clock to this time after NOW, and wait until they have caught up."""
        self.workers.set_clock(NOW + minutes * MINUTE)
        self.workers.wait_caught_up()

    def start_agent(self, name: str) -> Agent:
        """Start an agent and wait until it has all partitions of the site."""
        agent = self.site.start(name)
        self.site.is_assigned(agent, JOB_PARTITIONS)
        return agent

    # --- faults ---

    def replace_worker(self) -> None:
        """End the worker, and start another one without its files."""
        old = self.workers.running[-1]
        old.stop()
        shutil.rmtree(old.data_dir)
        self.workers.start()

    def kill_agent(self, agent: Agent) -> None:
        """Kill an agent and wait for its end."""
        agent.signal(signal.SIGKILL)
        agent.process.wait()

    def move_offsets(self, group: str, topics: tuple[str, ...], *, to_end: bool) -> None:
        """Set the committed offsets of a group without members to the ends or to the beginning."""
        partitions = self.workers.partitions_of(*topics)
        ends = self.workers.ends(partitions) if to_end else dict.fromkeys(partitions, 0)
        offsets = {partition: OffsetAndMetadata(end, "", -1) for partition, end in ends.items()}

        def moved() -> bool:
            # An error while the group has a member.
            results = self.workers.admin.alter_group_offsets(group, offsets)
            return all(error is NoError for error in results.values())

        eventually(moved, "the offsets are moved")

    def delete_records(self, topic: str) -> None:
        """Delete all records of a topic, as `kafka-delete-records` does."""
        partitions: list[TopicPartition] = self.workers.partitions_of(topic)
        self.workers.admin.delete_records(dict.fromkeys(partitions, -1))

    def recreate(self, topic: str) -> None:
        """Delete a topic and create it again, empty."""
        admin = self.workers.admin
        admin.delete_topics([topic])
        eventually(lambda: topic not in admin.list_topics(), "the topic is deleted")
        make_topics(self.workers.kafka, copies=self.workers.kafka.brokers)
        self.workers.forget(topic)

    # --- output ---

    def orders(self) -> dict[str, Job]:
        """Return the issued jobs by id."""
        events = [decode(record.value) for record in self.workers.read(ORDERS.name)]
        jobs = [event.data.job for event in events if isinstance(event, JobIssuedEvent)]
        return {job.job_id: job for job in jobs}

    def published(self) -> list[Job]:
        """Return the jobs in the topic of the site, repeats included."""
        return [event.data.job for event in self.workers.published()]

    def is_done_once(self, minutes: float) -> None:
        """Wait until all jobs are carried out; fail if one was carried out twice or stays open.

        Time passes to `minutes` after NOW, then by two more, in which the Macs report the release.
        """
        self.pass_time(minutes)
        jobs = self.orders()
        self.site.are_done([*jobs.values()])
        self.report("26.2", NOW + (minutes + 1) * MINUTE)
        self.pass_time(minutes + 2)
        assert self.site.acted() == sorted(jobs), "a job was carried out twice, or not at all"
        state = self.workers.state()
        outcomes = {udid: [job["outcome"] for job in state[udid]["jobs"]] for udid in MACS}
        assert outcomes == {udid: ["succeeded"] for udid in MACS}


def offers(fleet: KafkaFleet) -> float:
    """Return the number of jobs that the newest worker has offered again; -1 if unknown."""
    name = f'drydock_jobs_offered_again_total{{site="{SITE}"}} '
    _, text = fleet.workers.running[-1].get("/metrics")
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return float(lines[0].removeprefix(name)) if lines else -1.0


JOBS_TOPIC = jobs_topic(SITE)
AGENTS_GROUP = f"drydock.agent.{SITE}"
