"""Wait until no program of the fleet has work left at the present time.

Each program reports on /healthz its next offsets and if it is idle; the broker reports the end
offsets. An idle program stays idle until its wake-up time or a new record. The end offsets are read
after the health of all programs, so they include all records that a program published before it was
idle. Invariant: if each program is idle at these end offsets, no work and no record is left.
"""

import http.client
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaConsumer,
    TopicPartition,
)

from pipeline.processors.app import SUBSCRIBED
from pipeline.processors.broadcast import BROADCAST_TOPICS
from runtime.kafka import KafkaConnection
from schemas.topics import jobs_topic

WORKER_GROUP: Final = "drydock-worker"
_TIMEOUT_S: Final = 60.0
_MIN_PAUSE_S: Final = 0.004
_MAX_PAUSE_S: Final = 0.02

PartitionId = tuple[str, int]
Ends = Mapping[PartitionId, int]


class NotQuiescentError(Exception):
    """The fleet did not become idle in time; the message has the health of each busy program."""


class _HealthClient:
    """A client of one program's /healthz that keeps its connection."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=10)

    def __call__(self) -> dict[str, Any]:
        """Return the health as JSON values; {} if the program does not respond."""
        try:
            self._connection.request("GET", "/healthz")
            found: dict[str, Any] = json.loads(self._connection.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException):
            self._connection.close()
            return {}
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@dataclass
class WorkerPart:
    """A worker and its last health."""

    name: str
    fetch_health: _HealthClient
    committed: Callable[[PartitionId], int | None]
    health: dict[str, Any] = field(default_factory=dict)
    asked_at: datetime | None = None

    def ask(self, now: datetime) -> None:
        """Fetch its health."""
        self.health, self.asked_at = self.fetch_health(), now

    def idle_partitions(self, now: datetime, ends: Ends) -> set[PartitionId] | None:
        """Return its partitions if it is idle and has read them and all broadcast topics."""
        if self.asked_at != now or not self.health.get("idle"):
            return None
        if any(
            self.health["broadcast"][topic.name] != ends[topic.name, 0]
            for topic in BROADCAST_TOPICS
        ):
            return None
        offsets = {
            _parse_partition(name): offset for name, offset in self.health["offsets"].items()
        }
        for partition, offset in offsets.items():
            # A new owner starts at the committed offset and reports None until the first record.
            if ends[partition] and ends[partition] != (
                self.committed(partition) if offset is None else offset
            ):
                return None
        return set(offsets)


@dataclass
class AgentPart:
    """A site's agent and its last health."""

    name: str
    fetch_health: _HealthClient
    site: str
    health: dict[str, Any] = field(default_factory=dict)

    def ask(self, now: datetime) -> None:  # noqa: ARG002 - the signature of WorkerPart
        """Fetch its health; it is valid until the wake-up time in it."""
        self.health = self.fetch_health()

    def idle_partitions(self, now: datetime, ends: Ends) -> set[PartitionId] | None:
        """Return its partitions if all due work is done and all results are confirmed."""
        found = set()
        for number, rest in self.health.get("partitions", {}).items():
            partition = jobs_topic(self.site), int(number)
            if rest is None or rest["offset"] != ends[partition] or rest["unconfirmed"]:
                return None
            if rest["wake_at"] is not None and datetime.fromisoformat(rest["wake_at"]) <= now:
                return None
            found.add(partition)
        return found


class Quiescence:
    """Waits until the fleet is idle. `check` must raise if a program has ended."""

    def __init__(
        self,
        connection: KafkaConnection,
        workers: Iterable[tuple[str, str]],
        agents: Mapping[str, tuple[str, str]],
        check: Callable[[], None],
    ) -> None:
        """Take workers as (name, address), and agents as (name, address) by site."""
        self._check = check
        self._workers = [
            WorkerPart(name, _HealthClient(at), self._committed) for name, at in workers
        ]
        self._agents = [AgentPart(n, _HealthClient(at), site) for site, (n, at) in agents.items()]
        self._parts: list[WorkerPart | AgentPart] = [*self._workers, *self._agents]
        self._consumer = KafkaConsumer(**connection.consumer_options())
        self._admin = KafkaAdminClient(**connection.client_options())
        topics = [topic.name for topic in (*SUBSCRIBED, *BROADCAST_TOPICS)]
        topics += [jobs_topic(site) for site in agents]
        self._partitions = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in self._consumer.partitions_for_topic(topic)
        ]
        facts = {topic.name for topic in BROADCAST_TOPICS}
        self._expected_partitions = {
            tuple(place) for place in self._partitions if place.topic not in facts
        }

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()
        self._admin.close()
        for part in self._parts:
            part.fetch_health.close()

    def wait(self, now: datetime, timeout_s: float = _TIMEOUT_S) -> None:
        """Return when no work is left at this time. Raises NotQuiescentError at the timeout."""
        until = time.monotonic() + timeout_s
        # Agents are not asked first: their last health is valid until a wake-up time or a job.
        busy: list[WorkerPart | AgentPart] = [*self._workers]
        pause_s = _MIN_PAUSE_S
        while True:
            for part in busy:
                part.ask(now)
            ends = self.ends()
            idle = {part.name: part.idle_partitions(now, ends) for part in self._parts}
            busy = [part for part in self._parts if idle[part.name] is None]
            if not busy:
                at_rest = set().union(
                    *(partitions for partitions in idle.values() if partitions is not None)
                )
                if at_rest == self._expected_partitions and self.is_shared:
                    return
                # A program does not know all its partitions yet.
                busy = self._parts
            if time.monotonic() > until:
                details = "\n".join(f"{part.name}: {part.health}" for part in busy)
                raise NotQuiescentError(
                    f"not idle within {timeout_s:g} s at {now}; end offsets {ends}\n{details}"
                )
            self._check()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    @property
    def is_shared(self) -> bool:
        """True if every worker has partitions."""
        return all(worker.health.get("offsets") for worker in self._workers)

    def _committed(self, partition: PartitionId) -> int | None:
        found = self._admin.list_group_offsets({WORKER_GROUP: None})[WORKER_GROUP]
        committed = found.get(TopicPartition(*partition))
        return None if committed is None else committed.offset

    def ends(self) -> Ends:
        """Return the end offset of each partition."""
        found = self._consumer.end_offsets(self._partitions)
        return {(partition.topic, partition.partition): end for partition, end in found.items()}


def _parse_partition(name: str) -> PartitionId:
    topic, _, partition = name.rpartition("/")
    return topic, int(partition)
