"""One partition of an agent stalls on a real broker: another agent gets it, the others go on."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer  # type: ignore[import-untyped]

from schemas.envelope import JobIssuedEvent, encode
from schemas.ids import event_id
from schemas.jobs import Job
from schemas.topics import jobs_topic, partition_of
from tests.factories.sites import a_job, a_spec, signed_job
from tests.kafka.agent_site import eventually
from tests.kafka.brokers import KafkaCluster
from tests.kafka.local_agent import LocalSite
from tests.kafka.topics import make_topics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]
MACS = 12
BAD = 2


@pytest.fixture
def site(
    kafka: KafkaCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[LocalSite]:
    """A site with 12 Macs and 4 partitions."""
    name = f"stall-{abs(hash(request.node.name)) % 10**8}"
    make_topics(kafka.bootstrap, name)
    specs = [a_spec(f"MAC-{number}", site=name) for number in range(MACS)]
    with LocalSite.at(kafka.bootstrap, name, tmp_path, specs) as made:
        yield made


def order(site: LocalSite) -> list[Job]:
    """Publish a job for each Mac."""
    jobs = [a_job(udid=f"MAC-{number}", site=site.name) for number in range(MACS)]
    with KafkaProducer(**site.connection.producer_options()) as producer:
        for job in jobs:
            event = JobIssuedEvent(
                id=event_id("issued", job.job_id),
                source="/test",
                subject=job.udid,
                time=job.issued_at,
                data=signed_job(job),
            )
            producer.send(jobs_topic(site.name), key=job.udid.encode(), value=encode(event))
        producer.flush()
    return jobs


def in_bad_partition(job: Job) -> bool:
    return partition_of(job.udid, 4) == BAD


def ids(jobs: list[Job]) -> list[str]:
    return sorted(job.job_id for job in jobs)


def test_partition_with_an_unusable_journal_goes_to_the_other_agent(site: LocalSite) -> None:
    blocked = site.folder / "one" / f"{site.name}-{BAD}.sqlite"
    blocked.mkdir(parents=True)
    one = site.start("one")
    eventually(lambda: one.partitions() == {0, 1, 3}, "one works on the others")
    jobs = order(site)
    others = [job for job in jobs if not in_bad_partition(job)]
    eventually(lambda: site.acted() == ids(others), "the other partitions are done")
    eventually(lambda: BAD in one.consumer.troubles(), "the partition is shown")
    assert "unable to open" in one.consumer.troubles()[BAD]
    two = site.start("two")
    eventually(lambda: BAD in two.partitions(), "two has the partition")
    eventually(lambda: site.acted() == ids(jobs), "all jobs are done")
    eventually(lambda: len(one.partitions()) == 2, "the load is shared")


def test_partition_is_kept_without_another_agent_and_goes_on_when_it_can(site: LocalSite) -> None:
    blocked = site.folder / "one" / f"{site.name}-{BAD}.sqlite"
    blocked.mkdir(parents=True)
    one = site.start("one")
    jobs = order(site)
    eventually(lambda: BAD in one.consumer.troubles(), "the partition is shown")
    blocked.rmdir()
    eventually(lambda: site.acted() == ids(jobs), "all jobs are done")
    eventually(lambda: not one.consumer.troubles(), "nothing is shown any more")


def test_partition_whose_mac_hangs_stops_no_other_and_goes_to_the_other_agent(
    site: LocalSite,
) -> None:
    responds = threading.Event()

    def hang(job: Job) -> None:
        if in_bad_partition(job):
            responds.wait()

    one = site.start("one", hang)
    eventually(lambda: one.partitions() == {0, 1, 2, 3}, "one has all partitions")
    jobs = order(site)
    others = [job for job in jobs if not in_bad_partition(job)]
    try:
        eventually(lambda: site.acted() == ids(others), "the other partitions are done")
        eventually(lambda: BAD in one.consumer.troubles(), "the partition is shown")
        assert "does not respond" in one.consumer.troubles()[BAD]
        assert one.consumer.is_alive()
        two = site.start("two")
        eventually(lambda: BAD in two.partitions(), "two has the partition")
        eventually(lambda: site.acted() == ids(jobs), "all jobs are done once")
    finally:
        responds.set()
    eventually(lambda: BAD not in one.partitions(), "one left the partition")
    assert site.acted() == ids(jobs)
