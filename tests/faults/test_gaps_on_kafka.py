"""Deleted records, moved offsets and emptied topics on a real broker: workers report them."""

import json
from typing import Any

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from schemas.topics import ADVISORIES, CHECKINS, CONTROL, INVENTORY, Topic
from tests import factories
from tests.factories import NOW
from tests.kafka.broker_fixtures import empty_kafka, kafka, leaky_clients
from tests.kafka.workers import PARTITIONS, WorkerProcess, Workers, eventually, make_topics, workers

__all__ = ["empty_kafka", "kafka", "leaky_clients", "workers"]
UDIDS = [f"MAC-{number}" for number in range(20)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]


@pytest.fixture
def stopped(workers: Workers) -> WorkerProcess:
    """A worker that has processed all records, and has ended."""
    workers.send([factories.policy_changed(), factories.release("26.1")])
    workers.send([event for udid in UDIDS for event in factories.enrolled(udid)])
    report(workers)
    worker = workers.start()
    workers.wait_caught_up()
    assert worker.stop() == 0
    return worker


def report(workers: Workers, version: str = "26.1") -> None:
    workers.send([factories.full_report(version, udid, NOW, serial=f"C02{udid}") for udid in UDIDS])


def partitions_of(topic: str, count: int = PARTITIONS) -> list[TopicPartition]:
    return [TopicPartition(topic, number) for number in range(count)]


def lost(worker: WorkerProcess, topic: Topic) -> float:
    return worker.metric(f'drydock_records_lost_total{{topic="{topic.name}"}}')


def moved(worker: WorkerProcess) -> float:
    return worker.metric(f'drydock_moved_offsets_total{{topic="{INVENTORY.name}"}}')


def readiness(worker: WorkerProcess) -> tuple[int, Any]:
    status, body = worker.get("/readyz")
    return status, json.loads(body or "{}").get("reasons")


def test_unread_records_deleted_by_retention(workers: Workers, stopped: WorkerProcess) -> None:
    report(workers)
    checkins = [event for udid in UDIDS[:3] for event in factories.enrolled(udid)]
    workers.send(checkins)
    workers.admin.delete_records(
        dict.fromkeys([*partitions_of(INVENTORY.name), *partitions_of(CHECKINS.name)], -1)
    )
    worker = workers.start(stopped.data_dir)
    workers.wait_caught_up()
    assert lost(worker, INVENTORY) == len(UDIDS)
    assert lost(worker, CHECKINS) == len(checkins)
    assert moved(worker) == 0
    assert len(worker.health()["gaps"]) >= 2
    assert '"records lost: they were deleted or skipped"' in worker.log.read_text()
    eventually(lambda: readiness(worker) == (200, []), "ready")


@pytest.mark.parametrize("to", ["latest", "earliest"])
def test_offsets_moved_by_a_tool(to: str, workers: Workers, stopped: WorkerProcess) -> None:
    report(workers)
    ends = workers.ends(partitions_of(INVENTORY.name))
    workers.admin.alter_group_offsets(
        workers.group,
        {
            partition: OffsetAndMetadata(end if to == "latest" else 0, "", -1)
            for partition, end in ends.items()
        },
    )
    worker = workers.start(stopped.data_dir)
    workers.wait_caught_up()
    assert lost(worker, INVENTORY) == (len(UDIDS) if to == "latest" else 0)
    assert moved(worker) == PARTITIONS
    assert worker.stop() == 0
    again = workers.start(stopped.data_dir)
    workers.wait_caught_up()
    assert moved(again) == 0
    assert not again.health()["gaps"]


def test_worker_without_policy_is_ready_only_in_a_new_deployment(workers: Workers) -> None:
    worker = workers.start()
    eventually(lambda: readiness(worker) == (200, []), "ready without a policy")
    assert worker.metric("drydock_policy_in_force") == 0
    workers.send([factories.policy_changed()])
    eventually(lambda: worker.metric("drydock_policy_in_force") == 1, "a policy is in force")


@pytest.mark.parametrize("moment", ["stopped", "running"])
def test_emptied_broadcast_topics(moment: str, workers: Workers, stopped: WorkerProcess) -> None:
    if moment == "running":
        worker = workers.start(stopped.data_dir)
        workers.wait_caught_up()
        eventually(lambda: readiness(worker) == (200, []), "ready")
    emptied = [TopicPartition(topic, 0) for topic in (CONTROL.name, ADVISORIES.name)]
    workers.admin.delete_records(dict.fromkeys(emptied, -1))
    if moment == "stopped":
        worker = workers.start(stopped.data_dir)
    eventually(lambda: readiness(worker)[0] == 503, "not ready")
    eventually(lambda: "empty" in str(readiness(worker)), "a reason")
    reasons = " ".join(readiness(worker)[1])
    assert CONTROL.name in reasons
    assert ADVISORIES.name in reasons
    assert lost(worker, CONTROL) == 1
    assert worker.metric("drydock_ready") == 0
    workers.send([factories.policy_changed()])
    eventually(lambda: CONTROL.name not in str(readiness(worker)), "the policy is published")
    assert readiness(worker)[0] == 503
    workers.send([factories.release("26.1")])
    eventually(lambda: readiness(worker) == (200, []), "ready")
    assert worker.runs


def test_topic_created_again_under_a_worker(workers: Workers, stopped: WorkerProcess) -> None:
    worker = workers.start(stopped.data_dir)
    workers.wait_caught_up()
    workers.admin.delete_topics([ADVISORIES.name])
    make_topics(workers.kafka)
    eventually(lambda: readiness(worker)[0] == 503, "not ready")
    workers.send([factories.release("26.1"), factories.release("26.2")])
    if worker.runs:
        worker.stop()
    again = workers.start(stopped.data_dir)
    eventually(lambda: readiness(again) == (200, []), "ready")
    workers.wait_caught_up()
