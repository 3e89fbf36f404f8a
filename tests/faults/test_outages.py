"""Kafka is away during a rebalance or a recovery: workers wait for it and go on."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError  # type: ignore[import-untyped]

from pipeline.processors import recovery
from pipeline.processors.device_shard import DEVICE_TOPICS
from schemas.topics import SITE_PARTITIONS, STATE
from tests import factories
from tests.factories import NOW, topic_of
from tests.kafka.broker_fixtures import leaky_clients, start_cluster
from tests.kafka.brokers import KafkaCluster
from tests.kafka.workers import PARTITIONS, WorkerProcess, Workers, eventually, make_topics
from tests.unit.processors.memory_kafka import Brokers, MemoryReader, MemoryWorker, state_of

__all__ = ["leaky_clients"]
UDIDS = [f"MAC-{number}" for number in range(40)]
ALL_PARTITIONS = len(DEVICE_TOPICS) * PARTITIONS + SITE_PARTITIONS


class FailingReader(MemoryReader):
    """A reader whose n-th request of all readers fails."""

    def __init__(self, brokers: Brokers, request: Callable[[], None]) -> None:
        super().__init__(brokers)
        self._request = request

    async def start(self) -> None:
        self._request()

    async def end_offsets(self, changelogs: Any) -> Any:
        self._request()
        return await super().end_offsets(changelogs)

    async def beginning_offsets(self, changelogs: Any) -> Any:
        self._request()
        return await super().beginning_offsets(changelogs)

    async def getmany(self, **options: Any) -> Any:
        self._request()
        return await super().getmany(**options)


def live_with_failure(brokers: Brokers, folder: Path, failing: int) -> bool:
    """Run a worker whose n-th request to read fails; return True if it had as many requests."""
    worker = MemoryWorker(brokers, folder, lambda: NOW)
    requests = count()
    failed = False

    def request() -> None:
        nonlocal failed
        if next(requests) == failing:
            failed = True
            raise KafkaConnectionError

    async def fetch_committed(*_: object) -> Any:
        request()
        return await brokers.fetch_committed()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recovery, "make_reader", lambda *_: FailingReader(brokers, request))
        patch.setattr(recovery, "fetch_committed", fetch_committed)
        asyncio.run(worker.live())
    assert len(worker.worker.partitions) == 4
    worker.end()
    return failed


def test_recovery_waits_after_each_failed_request(tmp_path: Path) -> None:
    brokers = Brokers()
    brokers.send([factories.policy_changed(), factories.release("26.2")], topic_of)
    for udid in UDIDS[:12]:
        brokers.send(factories.enrolled(udid), topic_of)
        brokers.send([factories.full_report("26.1", udid, serial=f"C02{udid}")], topic_of)
    assert not live_with_failure(brokers, tmp_path / "first", -1)
    jobs = len(brokers.published())
    state = state_of(brokers, tmp_path / "before").keys()
    for failing in count():
        # The changelog is also read for an earlier row of this key.
        brokers.append(STATE.name, 0, b"unknown", b"not JSON")
        if not live_with_failure(brokers, tmp_path / f"worker-{failing}", failing):
            break
    assert failing > 10
    assert len(brokers.published()) == jobs
    assert state_of(brokers, tmp_path / "after").keys() == state


# --- a real broker ---


@pytest.fixture
def workers(
    leaky_clients: None, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    """A group without workers on a broker that the test may stop."""
    cluster = start_cluster(1, tmp_path_factory)
    make_topics(cluster)
    some = Workers(cluster, tmp_path, NOW)
    yield some
    some.close()
    cluster.kill()


def freeze(kafka: KafkaCluster) -> None:
    """Let the broker hang for longer than several sessions of the group."""
    os.kill(kafka.pid(1), signal.SIGSTOP)
    time.sleep(25)
    os.kill(kafka.pid(1), signal.SIGCONT)


def kill(kafka: KafkaCluster) -> None:
    """Kill the broker and start it again after two sessions of the group."""
    kafka.kill()
    time.sleep(15)
    kafka.start()


def page_responds(worker: WorkerProcess) -> bool:
    """The worker has begun to join the group."""
    return bool(worker.health())


def has_partitions(worker: WorkerProcess) -> bool:
    """The worker recovers the partitions that it got in the first rebalance, or has done so."""
    return bool(worker.health().get("offsets"))


def has_all_partitions(worker: WorkerProcess) -> bool:
    """The worker recovers the partitions of the one that died, or has done so."""
    return len(worker.health().get("offsets", ())) == ALL_PARTITIONS


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("outage", [freeze, kill])
@pytest.mark.parametrize("moment", [page_responds, has_partitions, has_all_partitions])
def test_outage_while_partitions_move(
    moment: Callable[[WorkerProcess], bool],
    outage: Callable[[KafkaCluster], None],
    workers: Workers,
) -> None:
    workers.send([factories.policy_changed(), factories.release("26.2")])
    workers.send([event for udid in UDIDS for event in factories.enrolled(udid)])
    workers.send([factories.full_report("26.1", udid, NOW, serial=f"C02{udid}") for udid in UDIDS])
    first = workers.start()
    workers.wait_caught_up()
    jobs = len(workers.published())
    second = workers.start()
    owner_dies = moment is has_all_partitions
    if owner_dies:
        eventually(lambda: has_partitions(second), "the second worker is a member")
        first.kill()
    eventually(lambda: moment(second), moment.__name__)
    outage(workers.kafka)
    workers.wait_caught_up(200)
    assert second.runs
    assert first.runs is not owner_dies
    published = [event.data.job.job_id for event in workers.published()]
    assert len(published) == len(set(published)), "a job was published twice"
    assert len(published) == jobs > 0
    workers.send([factories.full_report("26.2", UDIDS[0], NOW, serial=f"C02{UDIDS[0]}")])
    workers.wait_caught_up()
    assert "26.2" in str(workers.state()[UDIDS[0]]["device"])
