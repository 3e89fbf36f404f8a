"""One partition of a site on a Kafka in memory, for `agents.leases`."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import pytest
from kafka import TopicPartition  # type: ignore[import-untyped]
from kafka.errors import ProducerFencedError  # type: ignore[import-untyped]

from agents import leases
from schemas.topics import attempts_topic, jobs_topic

SITE: Final = "london"
TOPIC: Final = attempts_topic(SITE)
PARTITION: Final = 3


def do_nothing() -> None:
    """Do nothing: an action of the broker that succeeds at once."""


@dataclass(frozen=True)
class Record:
    key: bytes
    value: bytes | None
    topic: str = field(default="", compare=False)
    offset: int = field(default=0, compare=False)
    partition: int = field(default=PARTITION, compare=False)
    timestamp: int = field(default=-1, compare=False)


@dataclass
class Sent:
    """The future of one sent record."""

    error: Exception | None

    def get(self, timeout: float) -> None:
        assert timeout > 0
        if self.error is not None:
            raise self.error


@dataclass
class Broker:
    """Changelog and jobs of one partition, and the responses of the broker. None is a marker."""

    log: list[Record | None] = field(default_factory=list)
    jobs: list[Record | None] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    epoch: int = 0
    on_init: Callable[[], None] = do_nothing
    on_commit: Callable[[], None] = do_nothing
    on_poll: Callable[[], None] = do_nothing
    refusal: Exception | None = None
    unreachable: Exception | None = None
    polls_before_known: int = 0
    first_offset: int = 0
    last_offset: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    closed: threading.Event = field(default_factory=threading.Event)

    def put(self, key: str, value: str | None) -> None:
        self.log.append(Record(key.encode(), None if value is None else value.encode()))

    def log_of(self, topic_partition: TopicPartition) -> list[Record | None]:
        return {TOPIC: self.log, jobs_topic(SITE): self.jobs}[topic_partition.topic]


class Producer:
    """A transactional producer: what it sends is in the log after the commit."""

    def __init__(self, broker: Broker, options: dict[str, Any]) -> None:
        if broker.unreachable is not None:
            raise broker.unreachable
        broker.options = options
        self._broker = broker
        self._epoch = -1
        self._open: list[Record] | None = None

    def init_transactions(self) -> None:
        self._broker.steps.append("init")
        self._broker.on_init()
        self._broker.epoch += 1
        self._epoch = self._broker.epoch

    def begin_transaction(self) -> None:
        assert self._open is None
        self._broker.steps.append("begin")
        self._open = []

    def send(self, topic: str, *, key: bytes, value: bytes | None, partition: int) -> Sent:
        assert (topic, partition) == (TOPIC, PARTITION)
        assert self._open is not None
        self._open.append(Record(key, value))
        return Sent(self._broker.refusal)

    def commit_transaction(self) -> None:
        assert self._open is not None
        written, self._open = self._open, None
        if self._epoch != self._broker.epoch:
            raise ProducerFencedError
        self._broker.on_commit()
        if self._broker.refusal is None:
            self._broker.log += [*written, None]

    def close(self, timeout: float) -> None:
        assert timeout > 0
        self._broker.closed.set()


class Consumer:
    """A consumer of one partition that gives one record at a time."""

    def __init__(self, broker: Broker, options: Mapping[str, Any]) -> None:
        assert options["isolation_level"] == "read_committed"
        self._broker = broker
        self._partitions: list[TopicPartition] = []
        self._at: int | None = None
        self._polls = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._broker.steps.append("close consumer")

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self._partitions = list(partitions)

    def seek_to_beginning(self, topic_partition: TopicPartition) -> None:
        assert [topic_partition] == self._partitions
        self._at = self._broker.first_offset

    def end_offsets(self, partitions: Sequence[TopicPartition], timeout_ms: int) -> dict[Any, int]:
        assert timeout_ms > 0
        self._broker.steps.append("read")
        return {
            topic_partition: len(self._broker.log_of(topic_partition))
            for topic_partition in partitions
        }

    def position(self, topic_partition: TopicPartition, timeout_ms: int) -> int | None:
        assert timeout_ms > 0
        assert [topic_partition] == self._partitions
        assert self._at is not None
        return None if self._polls < self._broker.polls_before_known else self._at

    def poll(self, timeout_ms: int) -> dict[Any, list[Record]]:
        assert timeout_ms > 0
        self._polls += 1
        self._broker.on_poll()
        end = self._broker.last_offset
        log = self._broker.log_of(self._partitions[0])
        if self._at is None or self._at == (len(log) if end is None else end):
            return {}
        record = log[self._at]
        self._at += 1
        if record is None:
            return {}
        return {
            self._partitions[0]: [
                replace(record, topic=self._partitions[0].topic, offset=self._at - 1)
            ]
        }


def install(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all clients of `agents.leases` clients of this broker."""
    monkeypatch.setattr(leases, "KafkaProducer", lambda **options: Producer(broker, options))
    monkeypatch.setattr(leases, "KafkaConsumer", lambda **options: Consumer(broker, options))
