"""Output of a shard: records to publish, rows of state to write, counters to report. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from pipeline.reconcile.changes import JobProgress
from schemas.dead_letters import DeadLetterCode
from schemas.decisions import Reason
from schemas.jobs import Action
from schemas.queries import QueryKind


class ConsumedRecord(Protocol):
    """A record as it was read; aiokafka's `ConsumerRecord` conforms."""

    @property
    def offset(self) -> int: ...  # noqa: D102 - Kafka's names
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102


class OutgoingRecord(NamedTuple):
    """A record to publish to a given partition."""

    topic: str
    partition: int
    key: bytes
    value: bytes


@dataclass(slots=True)
class Counters:
    """Counts to add to the metrics once the output is durable.

    `folded` is by topic, `decisions` by action and reason, `dead_letters` by topic and code.
    `oldest_age_s` is the age of the oldest folded event by topic, `oldest_receipt` the earliest
    receipt of a folded event that was not a duplicate, `issued` the number of jobs issued.
    `durations` has the action of each succeeded job and its seconds from issue to success.
    `offered_again` has, by site, the jobs that were published again: no executor had accepted them.
    `due_queries` is by kind.
    """

    folded: Counter[str] = field(default_factory=Counter)
    oldest_age_s: dict[str, float] = field(default_factory=dict)
    decisions: Counter[tuple[Action | None, Reason]] = field(default_factory=Counter)
    results: Counter[JobProgress] = field(default_factory=Counter)
    oldest_receipt: datetime | None = None
    issued: int = 0
    durations: list[tuple[Action, float]] = field(default_factory=list)
    dead_letters: Counter[tuple[str, DeadLetterCode]] = field(default_factory=Counter)
    offered_again: Counter[str] = field(default_factory=Counter)
    due_queries: Counter[QueryKind] = field(default_factory=Counter)

    def count_folded(self, topic: str, count: int, age_s: float) -> None:
        """Count `count` folded events of a topic, the oldest of them `age_s` seconds old."""
        if count:
            self.folded[topic] += count
            self.oldest_age_s[topic] = max(age_s, self.oldest_age_s.get(topic, 0.0))

    def note_receipt(self, received_at: datetime | None) -> None:
        """Keep the earliest receipt of the events so far; None for an event without one."""
        if received_at is not None and (
            self.oldest_receipt is None or received_at < self.oldest_receipt
        ):
            self.oldest_receipt = received_at


@dataclass(slots=True)
class ShardOutput:
    """Everything that follows from the consumed records of one partition.

    `records` must be acknowledged before any of `rows` is written, and the rows before the offsets
    of the consumed records are committed. A crash in between then repeats the same work, with the
    same job ids; in another order a crash could keep the state and lose the job. A row with the
    value None is deleted.
    """

    records: list[OutgoingRecord] = field(default_factory=list)
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)

    @property
    def is_empty(self) -> bool:
        """True if there is no record to publish and no row to write; there may be counters."""
        return not self.records and not self.rows
