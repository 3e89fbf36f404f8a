"""A job consumer whose Kafka client does not return to its group."""

from typing import Any

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.errors import KafkaTimeoutError, RebalanceInProgressError  # type: ignore[import-untyped]

from agents.job_consumer import GroupMember, JobConsumer
from agents.metrics import AgentMetrics
from runtime.kafka import KafkaConnection
from runtime.logs import make_log
from schemas.topics import jobs_topic

WAIT_LIMIT_S = 20.0
MEMBER = GroupMember("london", "one", session_s=0.05)


class Coordinator:
    """The coordinator of a rebalancing member, which may have forgotten its rejoin."""

    def __init__(self) -> None:
        self.joins = True

    def rebalance_in_progress(self) -> bool:
        return True

    def need_rejoin(self) -> bool:
        return self.joins

    def request_rejoin(self) -> None:
        self.joins = True


class FailingConsumer:
    """A consumer with one partition whose commits fail."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self._coordinator = Coordinator()

    def poll(self, **_: Any) -> dict[TopicPartition, list[Any]]:
        return {}

    def assignment(self) -> set[TopicPartition]:
        return {TopicPartition(jobs_topic("london"), 0)}

    def committed(self, *_: Any, **__: Any) -> int:
        return 0

    def commit(self, *_: Any, **__: Any) -> None:
        raise self._error

    def highwater(self, _: TopicPartition) -> int:
        return 0

    def group_metadata(self) -> Any:
        raise self._error

    def close(self, **_: Any) -> None:
        pass


def a_job_consumer(error: Exception, monkeypatch: pytest.MonkeyPatch) -> JobConsumer:
    monkeypatch.setattr(JobConsumer, "_subscribe", lambda _: FailingConsumer(error))
    no_runners: Any = None
    return JobConsumer(
        KafkaConnection(), MEMBER, no_runners, AgentMetrics(), make_log(), max_poll_s=0.2
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
