"""A partition that a worker owns: its state, its changelog and its inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]
from faust.types import TP

from pipeline.processors import rows
from pipeline.processors.broadcast import BROADCAST_TOPICS
from pipeline.processors.device_shard import DEVICE_TOPICS
from pipeline.processors.shard_output import ConsumedRecord, ShardOutput
from schemas.dead_letters import Problem
from schemas.topics import DISPATCH, DISPATCH_STATE, STATE

BROADCAST_PARTITIONS: Final = tuple(TP(topic.name, 0) for topic in BROADCAST_TOPICS)
_DEVICE_NAMES: Final = frozenset(topic.name for topic in DEVICE_TOPICS)


class Shard(Protocol):
    """The state and decisions of one partition, as the worker uses them."""

    epoch: int
    # By topic, the offset after the last broadcast record by which all Macs are decided.
    broadcast_offsets: dict[str, int]

    def load(self, key: bytes, raw: bytes, /) -> None:
        """Put one row of the changelog in memory. Raises InvalidRow if it cannot be decoded."""

    def begin(self, now: datetime, /) -> None:
        """Complete the loaded state: counts, queues and timers. Called once, after the last row."""

    def replace_row(
        self, key: bytes, raw: bytes, reason: Problem, origin: str, now: datetime, /
    ) -> None:
        """Write what is in memory under this key, or delete the row; add a dead letter of `raw`.

        `origin` is the record's `topic/partition/offset`.
        """

    def finish_catch_up(self) -> None:
        """Let `tick` do work that depends on the backlog, now that all of the backlog is folded."""

    def process_records(self, topic: str, records: list[ConsumedRecord], now: datetime, /) -> int:
        """Fold records of one topic; return the number of dead letters that this made."""

    def pop_unusable(self) -> Mapping[str, int]:
        """Return the dead letters of stamped records since the last call, by sender."""

    def tick(self, now: datetime, /) -> bool:
        """Do a limited piece of due work; return True if more of it is due now."""

    def is_behind(self, now: datetime, /) -> bool:
        """Return True if work is due now; sweeps do not count."""

    def collect(self) -> ShardOutput:
        """Return the output since the last call; the caller makes it durable."""


@dataclass(slots=True)
class OwnedPartition:
    """A partition that this worker owns.

    `epoch_row` is the last one that this worker made, and `input_offsets` has, by topic, the offset
    after the last folded record. `changelog_end` is the end of its changelog after this worker's
    last write; None if another worker may have written since, so that the state in memory may be
    incomplete. `backlog` has the end offset of each input that is not folded up to its end at the
    time of the recovery. `unsaved` rows are confirmed by Kafka and not yet in the local store.
    """

    changelog: TopicPartition
    shard: Shard
    epoch_row: rows.EpochRow
    input_offsets: dict[str, int]
    changelog_end: int | None
    backlog: dict[TP, int]
    is_ready: bool = False
    unsaved: dict[bytes, bytes | None] = field(default_factory=dict)
    saved_at: float = 0.0


def inputs_of(changelog: TopicPartition) -> list[TP]:
    """Return the input partitions whose state is in this changelog partition.

    The numbers of the partitions are equal.
    """
    topics = DEVICE_TOPICS if changelog.topic == STATE.name else (DISPATCH,)
    return [TP(topic.name, changelog.partition) for topic in topics]


def changelog_of(topic: str, partition: int) -> TopicPartition:
    """Return the changelog partition with the state of an input partition, of equal number."""
    name = STATE.name if topic in _DEVICE_NAMES else DISPATCH_STATE.name
    return TopicPartition(name, partition)


def sources_of(changelog: TopicPartition) -> list[TopicPartition]:
    """Return the partitions whose records make the state in this changelog partition."""
    return [TopicPartition(*tp) for tp in (*inputs_of(changelog), *BROADCAST_PARTITIONS)]
