"""Disks, topics, offsets and processes of a whole fleet are disturbed: each job is done once."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from pipeline.processors.app import SUBSCRIBED
from schemas.topics import (
    DISPATCH,
    DISPATCH_STATE,
    INVENTORY,
    ORDERS,
    RESULTS,
    STATE,
    partition_of,
)
from tests.factories import NOW
from tests.faults.kafka_fleet import JOBS_TOPIC, MACS, MINUTE, KafkaFleet
from tests.kafka.agent_site import eventually
from tests.kafka.brokers import KafkaCluster
from tests.kafka.workers import PARTITIONS, Workers, make_topics

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture
def fleet(empty_kafka: KafkaCluster, tmp_path: Path) -> Iterator[KafkaFleet]:
    """A fleet with a worker that knows all Macs, and no agent."""
    with KafkaFleet.at(empty_kafka, tmp_path) as made:
        made.workers.start()
        made.enroll()
        made.workers.wait_caught_up()
        yield made


# --- disks ---


def test_deleted_data_directories_cost_nothing(fleet: KafkaFleet) -> None:
    agent = fleet.start_agent("one")
    fleet.release()
    eventually(lambda: len(fleet.site.acted()) > 0, "a first order is given")
    shutil.rmtree(fleet.workers.running[-1].data_dir)
    shutil.rmtree(agent.data_dir)
    fleet.is_done_once(2)
    fleet.kill_agent(agent)
    fleet.workers.running[-1].kill()
    fleet.workers.start()
    fleet.start_agent("one")
    fleet.is_done_once(10)


def test_agents_on_the_same_files_or_of_the_same_name_do_nothing_twice(fleet: KafkaFleet) -> None:
    agent = fleet.start_agent("one")
    second = fleet.site.start("one", "--listen", "127.0.0.1:0")
    assert second.process.wait(30) != 0, "two agents use one data directory"
    fleet.release()
    eventually(lambda: len(fleet.site.acted()) > 0, "a first order is given")
    shutil.copytree(agent.data_dir, fleet.site.folder / "copy")
    fleet.site.start("copy", "--name", "one")
    fleet.is_done_once(2)
    assert agent.process.wait(60) != 0, "the older agent of the name continues"


# --- topics ---


@pytest.mark.parametrize(
    "topic",
    [INVENTORY.name, ORDERS.name, JOBS_TOPIC, RESULTS.name, STATE.name, DISPATCH.name],
)
def test_release_is_done_once_after_a_topic_was_deleted(topic: str, fleet: KafkaFleet) -> None:
    """The topic is deleted and created again while all programs run."""
    fleet.start_agent("one")
    fleet.recreate(topic)
    time.sleep(10)
    fleet.check_in()
    fleet.report("26.1", NOW)
    fleet.release()
    for minutes in (1, 6, 16, 36, 76):
        fleet.workers.set_clock(NOW + minutes * MINUTE)
        time.sleep(2)
    fleet.is_done_once(80)


def test_macs_without_their_rows_keep_their_jobs(fleet: KafkaFleet) -> None:
    """Rows of Macs with open jobs are deleted, and a new owner reads the rest."""
    fleet.start_agent("one")
    fleet.release()
    eventually(lambda: len(fleet.site.acted()) == len(MACS), "all orders are given")
    fleet.workers.wait_caught_up()
    worker = fleet.workers.running[-1]
    worker.stop()
    for udid in MACS:
        fleet.workers.producer.send(
            STATE.name, key=udid.encode(), value=None, partition=partition_of(udid, PARTITIONS)
        )
    fleet.workers.producer.flush()
    shutil.rmtree(worker.data_dir)
    fleet.workers.start()
    fleet.workers.set_clock(NOW + MINUTE)
    fleet.check_in()
    fleet.report("26.1", NOW + MINUTE)
    for minutes in (1, 7):
        fleet.pass_time(minutes)
    fleet.is_done_once(20)


def test_partitions_are_added_by_the_documented_steps(fleet: KafkaFleet) -> None:
    old = fleet.workers
    old.running[-1].stop()
    for topic in (STATE.name, DISPATCH_STATE.name):
        old.admin.delete_topics([topic])
    eventually(
        lambda: not {STATE.name, DISPATCH_STATE.name} & {*old.admin.list_topics()},
        "the state is deleted",
    )
    make_topics(old.kafka, partitions=6)
    fleet.workers = Workers(old.kafka, old.folder, NOW + MINUTE)
    try:
        fleet.workers.start(old.folder / "new")
        fleet.start_agent("one")
        fleet.release()
        fleet.check_in()
        fleet.report("26.1", NOW + MINUTE)
        fleet.is_done_once(2)
    finally:
        fleet.workers.close()
        fleet.workers = old


# --- offsets and groups ---


def test_offsets_at_the_beginning_repeat_no_job(fleet: KafkaFleet) -> None:
    fleet.start_agent("one")
    fleet.release()
    fleet.is_done_once(2)
    fleet.workers.running[-1].stop()
    topics = tuple(topic.name for topic in SUBSCRIBED)
    fleet.move_offsets(fleet.workers.group, topics, to_end=False)
    fleet.workers.start()
    fleet.is_done_once(10)


def test_worker_of_another_group_repeats_no_job(fleet: KafkaFleet) -> None:
    other = Workers(fleet.workers.kafka, fleet.workers.folder, NOW)
    try:
        other.start(other.folder / "other")
        fleet.start_agent("one")
        fleet.release()
        eventually(lambda: len(fleet.site.acted()) == len(MACS), "all orders are given")
        time.sleep(20)
    finally:
        other.close()
    fleet.is_done_once(2)


# --- processes ---


def test_worker_stops_at_any_moment_of_its_start(fleet: KafkaFleet) -> None:
    random = Random(7)
    worker = fleet.workers.running[-1]
    worker.stop()
    for number in range(8):
        if number % 2:
            shutil.rmtree(worker.data_dir, ignore_errors=True)
        worker = fleet.workers.start(worker.data_dir)
        time.sleep(random.uniform(0.2, 8))
        asked = time.monotonic()
        assert worker.stop() in (0, -signal.SIGTERM)  # the second: before it handles signals
        assert time.monotonic() - asked < 12
    fleet.workers.start(worker.data_dir)
    fleet.start_agent("one")
    fleet.release()
    fleet.is_done_once(2)
