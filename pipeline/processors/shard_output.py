"""Output of a shard: records to publish, rows of state to write, counters to report. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from schemas.dead_letters import DeadLetterCode
from schemas.decisions import Reason
from schemas.jobs import Action
from schemas.queries import QueryKind
from schemas.results import Outcome


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

    `folded` is by topic, `decisions` by action and reason, `results` by action and outcome,
    `dead_letters` by topic and code. `oldest_age_s` is the age of the oldest folded event by topic.
    `durations` has the action of each succeeded job and its seconds from issue to success.
    `offered_again` has, by site, the jobs that were published again: no executor had accepted them.
    `due_queries` is by kind.
    """

    folded: Counter[str] = field(default_factory=Counter)
    oldest_age_s: dict[str, float] = field(default_factory=dict)
    decisions: Counter[tuple[Action | None, Reason]] = field(default_factory=Counter)
    results: Counter[tuple[Action | None, Outcome]] = field(default_factory=Counter)
    durations: list[tuple[Action, float]] = field(default_factory=list)
    dead_letters: Counter[tuple[str, DeadLetterCode]] = field(default_factory=Counter)
    offered_again: Counter[str] = field(default_factory=Counter)
    due_queries: Counter[QueryKind] = field(default_factory=Counter)

    def count_folded(self, topic: str, count: int, age_s: float) -> None:
        """Count `count` folded events of a topic, the oldest of them `age_s` seconds old."""
        if count:
            self.folded[topic] += count
            self.oldest_age_s[topic] = max(age_s, self.oldest_age_s.get(topic, 0.0))


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
