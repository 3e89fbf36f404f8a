"""What came of some events: records to publish, then rows of state to write. Pure."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from schemas.dead_letters import DeadLetterCode
from schemas.decisions import Reason
from schemas.jobs import Action
from schemas.results import Outcome


class ConsumedRecord(Protocol):
    """A record as it was read; aiokafka's own class is one."""

    @property
    def offset(self) -> int: ...  # noqa: D102 - what Kafka calls it
    @property
    def key(self) -> bytes | None: ...  # noqa: D102
    @property
    def value(self) -> bytes | None: ...  # noqa: D102


class OutgoingRecord(NamedTuple):
    """A record to publish, to a partition that the sender knows."""

    topic: str
    partition: int
    key: bytes
    value: bytes


@dataclass(slots=True)
class Counters:
    """What is counted once the work is durable. `ages` are of each topic's oldest event, in
    seconds."""

    folded: Counter[str] = field(default_factory=Counter)
    oldest_age_s: dict[str, float] = field(default_factory=dict)
    decisions: Counter[tuple[Action | None, Reason]] = field(default_factory=Counter)
    results: Counter[tuple[Action | None, Outcome]] = field(default_factory=Counter)
    durations: list[tuple[Action, float]] = field(default_factory=list)
    dead_letters: Counter[tuple[str, DeadLetterCode]] = field(default_factory=Counter)

    def count_folded(self, topic: str, count: int, age_s: float) -> None:
        """Events were folded, the oldest of them of this age."""
        if count:
            self.folded[topic] += count
            self.oldest_age_s[topic] = max(age_s, self.oldest_age_s.get(topic, 0.0))


@dataclass(slots=True)
class ShardOutput:
    """All that follows from some events of one partition.

    `posts` must be acknowledged before any of `rows` is written, and the rows before the events'
    offsets are committed: a crash anywhere between does the same again, under the same job ids.
    In the other order a crash would keep the state and lose the job. A row None is dropped.
    """

    records: list[OutgoingRecord] = field(default_factory=list)
    rows: dict[bytes, bytes | None] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be written anywhere."""
        return not self.records and not self.rows
