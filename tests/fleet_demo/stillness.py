"""When nothing is left to be done at the present time, anywhere in the fleet.

Each program says how far it has come and that it is at rest there; the broker says where the
topics end. A program at rest stays so until its time comes or a record does. So when the ends,
asked for after all the programs were, are where each of them rests, then nobody has anything left
to do and nothing is on its way: whatever a program published before it rested is in those ends.
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
from pipeline.processors.facts import FACT_TOPICS
from schemas.connection import KafkaConnection
from schemas.topics import jobs_topic

WORKER_GROUP: Final = "drydock-worker"
_PATIENCE_S: Final = 60.0
_AGAIN_S: Final = 0.004
_LONGEST_PAUSE_S: Final = 0.02

Place = tuple[str, int]
Ends = Mapping[Place, int]


class RestlessError(Exception):
    """The fleet did not come to rest in time, or a part of it ended; with what each part says."""


class _Asked:
    """A program's /healthz, over one connection as long as that lives."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=10)

    def __call__(self) -> dict[str, Any]:
        """What it says; nothing while it does not answer."""
        try:
            self._connection.request("GET", "/healthz")
            found: dict[str, Any] = json.loads(self._connection.getresponse().read())
        except (OSError, ValueError, http.client.HTTPException):
            self._connection.close()
            return {}
        return found

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@dataclass
class WorkerPart:
    """A worker."""

    name: str
    asked: _Asked
    committed: Callable[[Place], int | None]
    told: dict[str, Any] = field(default_factory=dict)
    told_at: datetime | None = None

    def ask(self, now: datetime) -> None:
        """Ask it how it stands."""
        self.told, self.told_at = self.asked(), now

    def rests(self, now: datetime, ends: Ends) -> set[Place] | None:
        """Its partitions, if it is idle at this time and has read them and all facts."""
        if self.told_at != now or not self.told.get("idle"):
            return None
        if any(self.told["facts"][topic.name] != ends[topic.name, 0] for topic in FACT_TOPICS):
            return None
        reached = {_place(name): offset for name, offset in self.told["reached"].items()}
        for place, offset in reached.items():
            # After a change of hands it goes on from what is committed, and does not say so.
            if ends[place] and ends[place] != (self.committed(place) if offset is None else offset):
                return None
        return set(reached)


@dataclass
class AgentPart:
    """A site's executor."""

    name: str
    asked: _Asked
    site: str
    told: dict[str, Any] = field(default_factory=dict)

    def ask(self, now: datetime) -> None:  # noqa: ARG002 - what it says holds until its time comes
        """Ask it how it stands."""
        self.told = self.asked()

    def rests(self, now: datetime, ends: Ends) -> set[Place] | None:
        """Its partitions, if everything is carried out and told that was ordered and is due."""
        found = set()
        for number, rest in self.told.get("partitions", {}).items():
            place = jobs_topic(self.site), int(number)
            if rest is None or rest["offset"] != ends[place] or rest["unconfirmed"]:
                return None
            if rest["wake_at"] is not None and datetime.fromisoformat(rest["wake_at"]) <= now:
                return None
            found.add(place)
        return found


class Stillness:
    """Waits for it. `check` raises where the fleet is past waiting for."""

    def __init__(
        self,
        connection: KafkaConnection,
        workers: Iterable[tuple[str, str]],
        agents: Mapping[str, tuple[str, str]],
        check: Callable[[], None],
    ) -> None:
        """Programs are name and address, executors by site."""
        self._check = check
        self._workers = [WorkerPart(name, _Asked(at), self._committed) for name, at in workers]
        self._agents = [AgentPart(n, _Asked(at), site) for site, (n, at) in agents.items()]
        self._parts: list[WorkerPart | AgentPart] = [*self._workers, *self._agents]
        self._consumer = KafkaConsumer(**connection.consumer_options())
        self._admin = KafkaAdminClient(**connection.client_options())
        topics = [topic.name for topic in (*SUBSCRIBED, *FACT_TOPICS)]
        topics += [jobs_topic(site) for site in agents]
        self._places = [
            TopicPartition(topic, partition)
            for topic in topics
            for partition in self._consumer.partitions_for_topic(topic)
        ]
        facts = {topic.name for topic in FACT_TOPICS}
        self._to_rest = {tuple(place) for place in self._places if place.topic not in facts}

    def close(self) -> None:
        """Hang up."""
        self._consumer.close()
        self._admin.close()
        for part in self._parts:
            part.asked.close()

    def wait(self, now: datetime, patience_s: float = _PATIENCE_S) -> None:
        """Return once nothing is left to be done at this time. Raises RestlessError."""
        until = time.monotonic() + patience_s
        # What executors said holds until their time comes, or an order.
        restless: list[WorkerPart | AgentPart] = [*self._workers]
        pause_s = _AGAIN_S
        while True:
            for part in restless:
                part.ask(now)
            ends = self.ends()
            rests = {part.name: part.rests(now, ends) for part in self._parts}
            restless = [part for part in self._parts if rests[part.name] is None]
            if not restless:
                at_rest = set().union(*(rest for rest in rests.values() if rest is not None))
                if at_rest == self._to_rest and self.is_shared:
                    return
                # Somebody does not know yet what is its.
                restless = self._parts
            if time.monotonic() > until:
                told = "\n".join(f"{part.name}: {part.told}" for part in restless)
                raise RestlessError(
                    f"no rest within {patience_s:g} s at {now}; ends {ends}\n{told}"
                )
            self._check()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    @property
    def is_shared(self) -> bool:
        """Whether every worker has a share of the partitions."""
        return all(worker.told.get("reached") for worker in self._workers)

    def _committed(self, place: Place) -> int | None:
        found = self._admin.list_group_offsets({WORKER_GROUP: None})[WORKER_GROUP]
        told = found.get(TopicPartition(*place))
        return None if told is None else told.offset

    def ends(self) -> Ends:
        """Where the topics end."""
        found = self._consumer.end_offsets(self._places)
        return {(place.topic, place.partition): end for place, end in found.items()}


def _place(name: str) -> Place:
    topic, _, partition = name.rpartition("/")
    return topic, int(partition)
