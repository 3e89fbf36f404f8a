"""The journal of an agent is lost in Kafka and on disk: no order is given again. A real broker."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaProducer,
    TopicPartition,
)
from kafka.admin import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]

from pipeline.payload_signing import sign_approval
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose
from schemas.events.control import Approval
from schemas.jobs import Action, Job, Method
from schemas.topics import attempts_topic, partition_of
from tests.factories.sites import a_job
from tests.kafka.agent_site import AgentSite, eventually
from tests.kafka.brokers import KafkaCluster
from tests.kafka.topics import PARTITIONS, make_topics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture
def site(
    kafka: KafkaCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[AgentSite]:
    """A site for one test, with 6 Macs and a key for approvals."""
    name = request.node.callspec.id if hasattr(request.node, "callspec") else "attempts"
    with AgentSite.at(kafka, tmp_path, f"lost-{name}", 6) as made:
        KeyStore(tmp_path / "keys").make(Purpose.APPROVALS)
        yield made


def erases(site: AgentSite, count: int) -> list[Job]:
    """Return approved erasing jobs over SSH, whose marks the erase deletes, for MAC-0 and so on."""
    key = KeyStore(site.folder / "keys").signer(Purpose.APPROVALS)
    jobs = []
    for number in range(count):
        plain = a_job(
            Action.REINSTALL,
            Method.STARTOSINSTALL,
            udid=f"MAC-{number}",
            site=site.name,
            erases=True,
        )
        approval = Approval(
            udid=plain.udid,
            job_id=plain.job_id,
            action="reinstall",
            by="someone",
            expires_at=plain.expires_at,
        )
        jobs.append(plain.model_copy(update={"approval": sign_approval(approval, key).signed}))
    return jobs


def recreate_topic(site: AgentSite) -> None:
    """Delete the topic of the attempts and create it again."""
    with KafkaAdminClient(**site.connection.client_options()) as admin:
        admin.delete_topics([attempts_topic(site.name)])
        eventually(
            lambda: attempts_topic(site.name) not in admin.list_topics(), "the topic is deleted"
        )
    make_topics(site.bootstrap, site.name)


def delete_records(site: AgentSite) -> None:
    """Delete all records of the attempts, as a wrong setting of the topic permits."""
    topic = attempts_topic(site.name)
    wrong = ConfigResource(
        ConfigResourceType.TOPIC, topic, configs={"cleanup.policy": "compact,delete"}
    )
    with KafkaAdminClient(**site.connection.client_options()) as admin:
        admin.alter_configs([wrong], incremental=True)
        admin.delete_records({TopicPartition(topic, number): -1 for number in range(4)})


@pytest.mark.parametrize("lose", [recreate_topic, delete_records], ids=["topic", "records"])
@pytest.mark.parametrize("disk", ["disk-lost", "disk-kept"])
def test_lost_attempts_give_no_order_again(
    lose: Callable[[AgentSite], None], disk: str, site: AgentSite
) -> None:
    agent = site.start("one")
    jobs = erases(site, 4) + site.jobs(6)[4:]
    site.order(*jobs)
    site.are_done(jobs)
    agent.kill()
    lose(site)
    if disk == "disk-lost":
        shutil.rmtree(agent.data_dir)
    site.order(*jobs)  # as after a reset of the group's offsets
    again = site.start("one")
    eventually(lambda: again.metric("drydock_agent_lag_records") == 0, "all jobs journalled")
    eventually(lambda: again.metric("drydock_agent_jobs_live") == 0, "all jobs ended")
    time.sleep(2)
    assert site.acted() == sorted(job.job_id for job in jobs), "an order was given twice"
    if lose is delete_records:
        assert again.metric("drydock_agent_doubted_journals_total") >= 1
        assert again.log_count("journal may lack orders") >= 1


def test_unreadable_attempts_stop_no_partition(site: AgentSite) -> None:
    agent = site.start("one")
    jobs = erases(site, 2) + site.jobs(4)[2:]
    site.order(*jobs)
    site.are_done(jobs)
    agent.kill()
    shutil.rmtree(agent.data_dir)
    with KafkaProducer(**site.connection.producer_options()) as producer:
        for job in jobs:
            producer.send(
                attempts_topic(site.name),
                key=job.job_id.encode(),
                value=b"\x00garbage",
                partition=partition_of(job.udid, PARTITIONS),
            )
        producer.send(attempts_topic(site.name), key=b"job-x", value=b"garbage", partition=1)
        producer.flush()
    again = site.start("one")
    more = site.jobs(6)[4:]
    site.order(*more)
    site.are_done(more)
    letters = 'drydock_dead_letters_total{code="unreadable",topic="drydock.attempts"}'
    eventually(lambda: again.metric(letters) == 5, "the records are reported")
    eventually(lambda: again.metric("drydock_agent_jobs_live") == 0, "all jobs ended")
    assert again.metric("drydock_agent_doubted_jobs") == 1  # job-x has no order
    assert again.metric("drydock_ready") == 1
    assert site.acted() == sorted(job.job_id for job in [*jobs, *more])
