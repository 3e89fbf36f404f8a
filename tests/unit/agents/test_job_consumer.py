"""An executor whose client does not find back into its group."""

from typing import Any

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.errors import KafkaTimeoutError, RebalanceInProgressError  # type: ignore[import-untyped]

from agents.job_consumer import GroupMember, JobConsumer
from agents.logs import make_log
from agents.metrics import AgentMetrics
from schemas.connection import KafkaConnection
from schemas.topics import jobs_topic

WAIT_LIMIT_S = 20.0
MEMBER = GroupMember("london", "one", session_s=0.05)


class Coordinator:
    """A member that is about to join, and may have forgotten it."""

    def __init__(self) -> None:
        self.joins = True

    def rebalance_in_progress(self) -> bool:
        return True

    def need_rejoin(self) -> bool:
        return self.joins

    def request_rejoin(self) -> None:
        self.joins = True


class FailingConsumer:
    """A consumer that holds a partition and cannot commit."""

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
    nobody: Any = None
    return JobConsumer(
        KafkaConnection(), MEMBER, nobody, AgentMetrics(), make_log(), max_poll_s=0.2
    )


def test_it_ends_where_a_rebalance_never_does(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = a_job_consumer(RebalanceInProgressError(), monkeypatch)
    stuck.start()
    stuck.join(WAIT_LIMIT_S)
    assert not stuck.is_alive()
    assert stuck.failure is not None
    assert "out of the group drydock.agent.london" in stuck.failure


def test_it_waits_for_a_broker_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = a_job_consumer(KafkaTimeoutError(), monkeypatch)
    waiting.start()
    waiting.join(0.6)  # longer than a rebalance may last: 0.2 s + 2 sessions of 0.05 s
    assert waiting.is_alive()
    waiting.drain(0.0)
    waiting.join(WAIT_LIMIT_S)
    assert waiting.failure is None


def test_it_brings_back_a_client_that_forgot_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = a_job_consumer(RebalanceInProgressError(), monkeypatch)
    consumer = FailingConsumer(RebalanceInProgressError())
    consumer._coordinator.joins = False
    monkeypatch.setattr(JobConsumer, "_subscribe", lambda _: consumer)
    stuck.start()
    stuck.join(WAIT_LIMIT_S)
    assert consumer._coordinator.joins
