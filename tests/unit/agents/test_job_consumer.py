"""A job consumer whose Kafka client does not return to its group, or whose partition stalls."""

from typing import Any

import pytest
from kafka import OffsetAndMetadata, TopicPartition  # type: ignore[import-untyped]
from kafka.errors import KafkaTimeoutError, RebalanceInProgressError  # type: ignore[import-untyped]

from agents.consumer_group import GroupMember
from agents.first_offset import first_offset
from agents.job_consumer import JobConsumer
from agents.metrics import AgentMetrics
from agents.partition_runner import PartitionStatus
from agents.stalls import StallMonitor
from runtime.kafka import KafkaConnection
from runtime.logs import make_log
from runtime.offset_gaps import COMMIT_METADATA
from schemas.topics import jobs_topic
from tests.unit.agents.memory_site import eventually

WAIT_LIMIT_S = 20.0
MEMBER = GroupMember("london", "one", session_s=0.05)


class Coordinator:
    """The coordinator of a member, which may have forgotten its rejoin while it rebalances."""

    def __init__(self) -> None:
        self.joins = True
        self.rebalances = True

    def rebalance_in_progress(self) -> bool:
        return self.rebalances

    def need_rejoin(self) -> bool:
        return self.joins

    def request_rejoin(self) -> None:
        self.joins = True


class FailingConsumer:
    """A consumer with one partition, whose commits fail with this error."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error
        self._coordinator = Coordinator()
        self.begin, self.offset, self.end, self.metadata = 0, 0, 0, COMMIT_METADATA

    def poll(self, **_: Any) -> dict[TopicPartition, list[Any]]:
        return {}

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition(jobs_topic("london"), 0)}

    def committed(self, *_: Any, **__: Any) -> OffsetAndMetadata:
        return OffsetAndMetadata(self.offset, self.metadata, -1)

    def beginning_offsets(self, partitions: Any, **_: Any) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.begin)

    def end_offsets(self, partitions: Any, **_: Any) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.end)

    def commit(self, *_: Any, **__: Any) -> None:
        if self._error is not None:
            raise self._error

    def seek(self, *_: Any) -> None:
        pass

    def paused(self) -> set[TopicPartition]:
        return set()

    def highwater(self, _: TopicPartition) -> int:
        return 0

    def group_metadata(self) -> Any:
        raise KafkaTimeoutError

    def close(self, **_: Any) -> None:
        pass


def a_job_consumer(error: Exception, monkeypatch: pytest.MonkeyPatch) -> JobConsumer:
    monkeypatch.setattr(JobConsumer, "_subscribe", lambda _: FailingConsumer(error))
    no_runners: Any = None
    return JobConsumer(
        KafkaConnection(),
        MEMBER,
        no_runners,
        AgentMetrics(),
        make_log(),
        is_kafka_up=lambda: True,
        max_poll_s=0.2,
    )


def test_consumer_ends_if_a_rebalance_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = a_job_consumer(RebalanceInProgressError(), monkeypatch)
    stuck.start()
    stuck.join(WAIT_LIMIT_S)
    assert not stuck.is_alive()
    assert stuck.failure is not None
    assert "out of the group drydock.agent.london" in stuck.failure


def test_consumer_waits_while_the_broker_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = a_job_consumer(KafkaTimeoutError(), monkeypatch)
    waiting.start()
    waiting.join(0.6)  # longer than a rebalance may last: 0.2 s + 2 sessions of 0.05 s
    assert waiting.is_alive()
    waiting.drain(0.0)
    waiting.join(WAIT_LIMIT_S)
    assert waiting.failure is None


def test_consumer_requests_the_rejoin_that_its_client_forgot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck = a_job_consumer(RebalanceInProgressError(), monkeypatch)
    consumer = FailingConsumer(RebalanceInProgressError())
    consumer._coordinator.joins = False
    monkeypatch.setattr(JobConsumer, "_subscribe", lambda _: consumer)
    stuck.start()
    stuck.join(WAIT_LIMIT_S)
    assert consumer._coordinator.joins


class StuckRunner:
    """The runner of a partition that never gets its lease, or whose Mac never responds."""

    partition = 0
    live_jobs = touched_jobs = waiting_results = doubted_jobs = waiting = 0
    worked_at = 0.0
    status: PartitionStatus | None = None

    def __init__(self, trouble: str) -> None:
        self.trouble = trouble

    def start(self) -> None:
        pass

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None:
        pass

    def drain(self) -> None:
        pass

    def join(self, _: float) -> None:
        pass


@pytest.mark.parametrize(
    ("trouble", "shown"), [("the lease was not confirmed", "lease"), ("", "does not respond")]
)
def test_stalled_partition_is_refused_and_shown(
    trouble: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = FailingConsumer(None)
    consumer._coordinator.joins = consumer._coordinator.rebalances = False
    monkeypatch.setattr(JobConsumer, "_subscribe", lambda _: consumer)
    metrics = AgentMetrics()
    make_runner: Any = lambda *_: StuckRunner(trouble)  # noqa: E731
    stalled = JobConsumer(
        KafkaConnection(),
        MEMBER,
        make_runner,
        metrics,
        make_log(),
        is_kafka_up=lambda: True,
        stalls=StallMonitor(0.05, 0.05),
    )
    stalled.start()
    eventually(lambda: consumer._coordinator.joins, "the consumer joins again")
    assert stalled._assignor.refused == {0}
    assert shown in stalled.troubles()[0]
    assert metrics.registry.get_sample_value("drydock_agent_partitions_refused_total") == 1
    eventually(
        lambda: metrics.registry.get_sample_value("drydock_agent_partitions_stalled") == 1,
        "the partition is shown",
    )
    stalled.drain(0.0)
    stalled.join(WAIT_LIMIT_S)
    assert not stalled.is_alive()


def test_status_is_that_of_the_last_cycle_while_a_later_offset_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The runner commits before it publishes: a status with that offset would claim the end."""
    consumer = FailingConsumer(None)
    consumer.offset, consumer.end = 7, 9
    consumer._coordinator.joins = consumer._coordinator.rebalances = False
    monkeypatch.setattr(JobConsumer, "_subscribe", lambda _: consumer)
    runner = StuckRunner("")
    runner.status = PartitionStatus(None, None, 0, 0)
    make_runner: Any = lambda *_: runner  # noqa: E731
    reading = JobConsumer(
        *(KafkaConnection(), MEMBER, make_runner, AgentMetrics(), make_log()),
        is_kafka_up=lambda: True,
    )
    reading.start()
    eventually(lambda: bool(reading.partition_statuses()), "the runner started")
    reading.commit(0, 9)
    eventually(lambda: reading._done.get(0) == 9, "the offset is committed")
    assert reading.partition_statuses() == {0: PartitionStatus(7, None, 0, 0)}
    reading.drain(0.0)
    reading.join(WAIT_LIMIT_S)


@pytest.mark.parametrize(
    ("begin", "offset", "end", "metadata", "first", "lost", "moved"),
    [
        pytest.param(0, 7, 9, COMMIT_METADATA, 7, 0, 0, id="no gap"),
        pytest.param(7, 7, 9, COMMIT_METADATA, 7, 0, 0, id="processed records deleted"),
        pytest.param(8, 5, 9, COMMIT_METADATA, 8, 3, 0, id="records deleted"),
        pytest.param(0, 7, 2, COMMIT_METADATA, 0, 0, 0, id="topic created again"),
        pytest.param(2, 9, 9, "", 2, 0, 1, id="offset moved"),
        pytest.param(8, 5, 9, "", 8, 3, 1, id="offset moved before the begin"),
    ],
)
def test_partition_begins_at_its_first_record_that_may_be_new(
    begin: int, offset: int, end: int, metadata: str, first: int, lost: int, moved: int
) -> None:
    consumer = FailingConsumer(None)
    consumer.begin, consumer.offset, consumer.end, consumer.metadata = begin, offset, end, metadata
    metrics = AgentMetrics()
    partition = TopicPartition(jobs_topic("london"), 0)
    assert first_offset(consumer, partition, 5_000, metrics, make_log()) == first
    labels = {"topic": "drydock.jobs"}
    value = metrics.registry.get_sample_value
    assert value("drydock_records_lost_total", labels) == lost
    assert value("drydock_moved_offsets_total", labels) == moved
