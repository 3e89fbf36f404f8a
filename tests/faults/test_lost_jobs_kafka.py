"""Jobs that are lost between worker and agent are carried out after all, once. A real broker."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.topics import DISPATCH_STATE
from tests.faults.kafka_fleet import AGENTS_GROUP, JOBS_TOPIC, MACS, KafkaFleet, offers
from tests.kafka.agent_site import eventually
from tests.kafka.brokers import KafkaCluster

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


def lose_records(fleet: KafkaFleet) -> None:
    fleet.delete_records(JOBS_TOPIC)


def lose_topic(fleet: KafkaFleet) -> None:
    fleet.recreate(JOBS_TOPIC)


def skip_records(fleet: KafkaFleet) -> None:
    fleet.move_offsets(AGENTS_GROUP, (JOBS_TOPIC,), to_end=True)


def lose_dispatch(fleet: KafkaFleet) -> None:
    fleet.workers.running[-1].stop()
    fleet.recreate(DISPATCH_STATE.name)
    fleet.delete_records(JOBS_TOPIC)
    fleet.workers.start()


@pytest.fixture
def fleet(empty_kafka: KafkaCluster, tmp_path: Path) -> Iterator[KafkaFleet]:
    """A fleet with a worker that waits for input, and no agent."""
    with KafkaFleet.at(empty_kafka, tmp_path) as made:
        made.workers.start()
        yield made


@pytest.mark.parametrize("owner", ["same-owner", "new-owner"])
@pytest.mark.parametrize("lose", [lose_records, lose_topic, skip_records, lose_dispatch])
def test_lost_job_is_carried_out_once(
    lose: Callable[[KafkaFleet], None], owner: str, fleet: KafkaFleet
) -> None:
    fleet.enroll()
    fleet.release()
    fleet.workers.wait_caught_up()
    assert sorted(job.udid for job in fleet.published()) == [*MACS]
    lose(fleet)
    agent = fleet.start_agent("one")
    fleet.pass_time(4)
    time.sleep(3)
    assert agent.metric("drydock_agent_records_total") == 0, "the fault lost no job"
    if owner == "new-owner":
        fleet.replace_worker()
    fleet.pass_time(5)
    if lose is not lose_dispatch:  # which publishes the lost jobs for the first time
        eventually(lambda: offers(fleet) == len(MACS), "each lost job is offered again")
    fleet.is_done_once(6)
    received = agent.metric("drydock_agent_records_total")
    for minutes in (15, 35, 75, 135):
        fleet.pass_time(minutes)
    assert agent.metric("drydock_agent_records_total") == received, "an accepted job was offered"
