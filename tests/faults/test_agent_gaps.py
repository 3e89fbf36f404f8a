"""Records of the topics of an agent are deleted before it reads them. A real broker."""

import json
from pathlib import Path

import pytest
from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaConsumer,
    OffsetAndMetadata,
    TopicPartition,
)
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from schemas.topics import CONTROL, jobs_topic
from tests.kafka.agent_site import Agent, AgentSite, drydock, eventually
from tests.kafka.brokers import KafkaCluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


def delete_records(site: AgentSite, topic: str, partitions: int) -> None:
    """Delete all records of a topic, as `kafka-delete-records` or a retention does."""
    with KafkaAdminClient(**site.connection.client_options()) as admin:
        admin.delete_records({TopicPartition(topic, number): -1 for number in range(partitions)})


def switch(site: AgentSite, command: str, *scope: str) -> None:
    """Run `drydock halt` or `resume`."""
    keys = str(site.folder / "keys")
    done = drydock(command, *scope, "--bootstrap", site.bootstrap, "--keys", keys)
    assert done.returncode == 0, done.stderr


def is_halted(agent: Agent) -> bool:
    return agent.metric("drydock_agent_halted") == 1


def test_agent_without_the_deleted_halts_starts_no_job_until_they_are_repeated(
    own_broker: KafkaCluster, tmp_path: Path
) -> None:
    with AgentSite.at(own_broker, tmp_path, "gaps", 4) as site:
        running = site.start("one")
        site.is_assigned(running, 4)
        switch(site, "halt", "--site", "gaps")
        eventually(lambda: is_halted(running), "the halt is known")
        delete_records(site, CONTROL.name, 1)
        site.order(*site.jobs(4))
        eventually(lambda: running.metric("drydock_agent_jobs_live") == 4, "all are journalled")
        assert is_halted(running)
        running.kill()
        started = site.start("two")
        eventually(lambda: started.metric("drydock_records_lost_total" + LABEL) == 1, "reported")
        eventually(lambda: started.metric("drydock_agent_jobs_live") == 4, "two has the jobs")
        assert started.metric("drydock_agent_halts_known") == 0
        assert started.metric("drydock_ready") == 0
        assert "halts are unknown" in json.loads(started._get("/readyz"))["reason"]
        assert site.acted() == []
        switch(site, "halt", "--site", "gaps")
        eventually(lambda: is_halted(started), "the halt is known again")
        assert started.metric("drydock_ready") == 1
        assert site.acted() == []
        switch(site, "resume", "--site", "gaps")
        site.are_done(site.jobs(4))


LABEL = '{topic="drydock.control.v1"}'


def test_orders_that_were_deleted_or_skipped_are_reported(
    own_broker: KafkaCluster, tmp_path: Path
) -> None:
    with AgentSite.at(own_broker, tmp_path, "gaps", 8) as site:
        first = site.start("one")
        site.order(*site.jobs(4))
        site.are_done(site.jobs(4))
        eventually(lambda: first.metric("drydock_agent_lag_records") == 0, "all offsets committed")
        first.kill()
        site.order(*site.prompts(8))
        delete_records(site, jobs_topic(site.name), 4)
        again = site.start("one")
        lost = 'drydock_records_lost_total{topic="drydock.jobs"}'
        eventually(lambda: again.metric(lost) == 8, "the lost orders are counted")
        assert again.log_count("records lost: they were deleted or skipped") >= 1
        assert again.metric('drydock_moved_offsets_total{topic="drydock.jobs"}') == 0
        more = site.jobs(8)[4:]
        site.order(*more)
        site.are_done(more)


def test_orders_over_which_the_offsets_were_moved_are_read(
    own_broker: KafkaCluster, tmp_path: Path
) -> None:
    with AgentSite.at(own_broker, tmp_path, "gaps", 8) as site:
        first = site.start("one")
        site.order(*site.jobs(4))
        site.are_done(site.jobs(4))
        first.kill()
        more = site.jobs(8)[4:]
        site.order(*more)
        move_to_end(site)
        again = site.start("one")
        site.are_done(more)
        moved = 'drydock_moved_offsets_total{topic="drydock.jobs"}'
        assert again.metric(moved) == 4
        assert site.acted() == sorted(job.job_id for job in site.jobs(8))


def move_to_end(site: AgentSite) -> None:
    """Commit the ends of the job topic, as `kafka-consumer-groups --reset-offsets` does."""
    partitions = [TopicPartition(jobs_topic(site.name), number) for number in range(4)]
    options = site.connection.consumer_options(f"drydock.agent.{site.name}")
    with KafkaConsumer(**options) as consumer:
        ends = consumer.end_offsets(partitions, timeout_ms=10_000)

        def commit() -> bool:
            try:
                consumer.commit(
                    {each: OffsetAndMetadata(end, "", -1) for each, end in ends.items()},
                    timeout_ms=5000,
                )
            except KafkaError:  # the group still has its killed member
                return False
            return True

        consumer.assign(partitions)
        eventually(commit, "the offsets are moved")
