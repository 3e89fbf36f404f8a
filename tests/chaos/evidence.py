"""Evidence of a run: topics, committed offsets, journals, and the acts on the Macs.

It is read with Kafka's client and the wire schemas alone.
"""

import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition  # type: ignore[import-untyped]

from agents.simulated.wire import Acted
from runtime.kafka import KafkaConnection
from schemas.jobs import Job
from schemas.signed_payloads import PublicKeys
from schemas.topics import INTERNAL_TOPICS, TOPICS, attempts_topic, jobs_topic

_TIMEOUT_MS: Final = 30_000


class Input(NamedTuple):
    """One input that the gateway, or a topic, accepted.

    `name` depends on `kind`: `event` has its id, `webhook` has `UDID topic created_at`, `poison`
    has the SHA-256 of its body, and `record` (an unusable record put into a topic) has
    `topic/partition/offset`.
    """

    kind: str
    name: str


class Record(NamedTuple):
    """A record of a topic."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None

    @property
    def location(self) -> str:
        """`topic/partition/offset`, as dead letters name it."""
        return f"{self.topic}/{self.partition}/{self.offset}"


class PartitionId(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class MacState(NamedTuple):
    """The true state of a simulated Mac at the end of the run."""

    udid: str
    os_version: str
    enrolled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that `judge` checks.

    - `committed`: the committed offset of each partition.
    - `journals`: the job ids in the executors' files, with True if an attempt may have begun;
      None while executors run.
    - `trusted`: the keys that sign jobs.
    - `newest`: the newest release of each line.
    - `may_repeat`: the number of jobs that a Mac itself fails, by UDID. One intent may be carried
      out once more for each of them.
    - `forgotten`: jobs of which a planted fault deleted records, by id. They need no journal and no
      results, and no history if they are not in the topics; their acts count.
    - `ended_early`: requests to a user that ended early by a clock that was days wrong; the user
      is asked again.
    """

    inputs: Collection[Input]
    records: dict[str, Sequence[Record]]
    committed: dict[PartitionId, int]
    acted: Sequence[Acted]
    macs: Sequence[MacState]
    journals: dict[str, bool] | None = None
    trusted: PublicKeys = field(default_factory=dict)
    newest: dict[str, str] = field(default_factory=dict)
    may_repeat: dict[str, int] = field(default_factory=dict)
    forgotten: Mapping[str, Job] = field(default_factory=dict)
    ended_early: Collection[str] = ()


def topic_names(sites: Iterable[str]) -> list[str]:
    """Return the name of every topic of a fleet with these sites."""
    names = [topic.name for topic in (*TOPICS, *INTERNAL_TOPICS) if "{site}" not in topic.name]
    return [*names, *(of(site) for site in sites for of in (jobs_topic, attempts_topic))]


def read_topics(connection: KafkaConnection, names: Iterable[str]) -> dict[str, Sequence[Record]]:
    """Return every committed record by topic, in the order of its partition."""
    records: dict[str, list[Record]] = {name: [] for name in names}
    with KafkaConsumer(**connection.consumer_options()) as consumer:
        partitions = [
            TopicPartition(name, number)
            for name in records
            for number in consumer.partitions_for_topic(name)
        ]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions, timeout_ms=_TIMEOUT_MS)
        left = set(partitions)
        while left:
            for partition, some in consumer.poll(timeout_ms=500, max_records=5000).items():
                records[partition.topic] += [
                    Record(partition.topic, partition.partition, one.offset, one.key, one.value)
                    for one in some
                ]
            left = {
                partition
                for partition in left
                if (consumer.position(partition, timeout_ms=_TIMEOUT_MS) or 0) < ends[partition]
            }
            consumer.pause(*(set(partitions) - left))
    return dict(records)


def read_commits(connection: KafkaConnection, groups: Iterable[str]) -> dict[PartitionId, int]:
    """Return the offsets that these consumer groups have committed."""
    with KafkaAdminClient(**connection.client_options()) as admin:
        group_offsets: dict[str, dict[Any, Any]] = admin.list_group_offsets(dict.fromkeys(groups))
    return {
        PartitionId(partition.topic, partition.partition): int(getattr(offset, "offset", offset))
        for offsets in group_offsets.values()
        for partition, offset in offsets.items()
    }


def read_journals(files: Iterable[Path]) -> dict[str, bool]:
    """Return the jobs in executors' journal files, with True if an attempt may have begun."""
    found: dict[str, bool] = {}
    for path in files:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            rows = db.execute("SELECT job_id, json_extract(entry, '$.sends') FROM jobs").fetchall()
        db.close()
        for job_id, sends in rows:
            found[job_id] = found.get(job_id, False) or bool(sends)
    return found
