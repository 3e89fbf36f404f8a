"""Workers as processes of their own on a real broker: started, killed, waited for, read."""

import http.client
import json
import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from kafka.admin import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]
from kafka.errors import KafkaError  # type: ignore[import-untyped]

from pipeline.processors.app import SUBSCRIBED
from pipeline.provisioning.cluster import connected
from pipeline.provisioning.plan import differences, wanted_topics
from schemas.connection import KafkaConnection
from schemas.dead_letters import DeadLetter
from schemas.decisions import DecisionRecord
from schemas.envelope import CloudEvent, JobIssuedEvent, decode, encode
from schemas.topics import (
    ADVISORIES,
    CONTROL,
    DEAD_LETTERS,
    DECISIONS,
    DISPATCH_STATE,
    STATE,
    jobs_topic,
)
from tests.factories import NOW, key_of, topic_of
from tests.kafka import worker_program
from tests.kafka.brokers import KafkaCluster, free_ports
from tests.kafka.worker_program import Given, run

# What a worker imports is imported once: a process of its own is then there in no time.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([worker_program.__name__])
PARTITIONS = 4
SITES = ("london", "tokyo")
WAIT_LIMIT_S = 60.0


def eventually(condition: Callable[[], bool], what: str, within_s: float = WAIT_LIMIT_S) -> None:
    """Ask until it holds; an assertion with `what` when the time is over."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


def make_topics(kafka: KafkaCluster, partitions: int = PARTITIONS) -> None:
    """Every topic, as `drydock topics apply` makes them."""
    wanted = wanted_topics(SITES, partitions, 1)
    with connected(KafkaConnection(bootstrap=kafka.bootstrap), 10) as cluster:
        cluster.apply(differences(wanted, cluster.topics(), brokers=1), wanted)
        assert cluster.wait_until_shown(wanted)


@dataclass
class WorkerProcess:
    """One worker."""

    process: BaseProcess
    data_dir: Path
    port: int
    log: Path
    is_frozen: bool = False

    def kill(self) -> None:
        """End it at once (kill -9)."""
        self.process.kill()
        self.process.join()

    def stop(self) -> int:
        """End it in good order; its exit code."""
        self.process.terminate()
        self.process.join(WAIT_LIMIT_S)
        assert self.process.exitcode is not None, "does not stop"
        return self.process.exitcode

    def freeze(self) -> None:
        """Stop it where it is, as a machine under heavy load does; it does not know."""
        self._signal(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        """Have it go on."""
        self._signal(signal.SIGCONT)
        self.is_frozen = False

    def _signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.is_alive()

    def get(self, path: str) -> tuple[int, str]:
        """What its web pages answer; 0 while it does not."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def health(self) -> dict[str, Any]:
        """The figures of /healthz; nothing while it does not answer."""
        status, body = self.get("/healthz")
        return json.loads(body) if status else {}


@dataclass
class Workers:
    """Some workers of one group, and what they read and write."""

    kafka: KafkaCluster
    folder: Path
    now: datetime
    group: str = field(default_factory=lambda: f"workers-{uuid.uuid4().hex[:8]}")
    running: list[WorkerProcess] = field(default_factory=list)
    started: int = 0
    refresh: timedelta = timedelta(0)
    stalled_after_s: float = 60.0

    def __post_init__(self) -> None:
        self.set_clock(self.now)
        connection = KafkaConnection(bootstrap=self.kafka.bootstrap)
        self.producer = KafkaProducer(**connection.producer_options())
        self.admin = KafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        self._consumer = KafkaConsumer(**connection.consumer_options())
        self._records: dict[str, list[Any]] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._partitions: dict[str, int] = {}

    def close(self) -> None:
        """End all."""
        for worker in self.running:
            if worker.runs:
                worker.kill()
        self.producer.close()
        self.admin.close()
        self._consumer.close()

    def set_clock(self, now: datetime) -> None:
        """What time it is for all workers from now on."""
        self.now = now
        path = self.folder / "clock"
        new = path.with_suffix(".new")
        new.write_text(now.isoformat())
        new.replace(path)

    def start(self, data_dir: Path | None = None) -> WorkerProcess:
        """One more worker."""
        self.started += 1
        data_dir = data_dir or self.folder / f"data-{self.started}"
        log = self.folder / f"worker-{self.started}.log"
        [port] = free_ports(1)
        given = Given(
            bootstrap=self.kafka.bootstrap,
            data_dir=data_dir,
            web_port=port,
            clock=self.folder / "clock",
            group=self.group,
            log=log,
            refresh=self.refresh,
            stalled_after_s=self.stalled_after_s,
        )
        process = _FORKS.Process(target=run, args=(given,), daemon=True)
        process.start()
        worker = WorkerProcess(process, data_dir, port, log)
        self.running.append(worker)
        return worker

    # --- in ---

    def send(self, events: Iterable[CloudEvent]) -> None:
        """Publish events where they belong, and wait until the broker has them."""
        sent = [
            self.producer.send(topic_of(event), key=key_of(event).encode(), value=encode(event))
            for event in events
        ]
        self.producer.flush()
        for each in sent:
            each.get(timeout=30)

    def set_topic(self, topic: str, settings: Mapping[str, str]) -> None:
        """Change a topic's settings."""
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs=dict(settings))
        self.admin.alter_configs([resource], incremental=True)
        eventually(lambda: self._settings_of(topic).items() >= settings.items(), "settings")

    def _settings_of(self, topic: str) -> dict[str, str]:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        described = self.admin.describe_configs([resource])
        return {name: each["value"] for name, each in described["topic"][topic].items()}

    # --- out ---

    def wait_caught_up(self, within_s: float = WAIT_LIMIT_S) -> None:
        """Wait until the living workers have nothing left to do at the present time."""
        try:
            eventually(self._is_caught_up, "workers caught up", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def _is_caught_up(self) -> bool:
        living = [worker for worker in self.running if worker.runs and not worker.is_frozen]
        assert living, "no worker runs"
        figures = [worker.health() for worker in living]
        ready = {name for one in figures for name in one.get("ready", ())}
        if len(ready) < len(self._places(STATE.name, DISPATCH_STATE.name)):
            return False
        if not all(one["idle"] for one in figures):
            return False
        # The ends are asked for last. What a worker published before it was idle is in them, so
        # if another one had still to read it, that one is not there yet.
        ends = self._ends(self._places(*(topic.name for topic in SUBSCRIBED)))
        offsets = {name: at for one in figures for name, at in one["offsets"].items()}
        facts = self.broadcast_ends()
        return all(one["broadcast"] == facts for one in figures) and all(
            offsets.get(f"{place.topic}/{place.partition}") == end for place, end in ends.items()
        )

    def committed(self) -> dict[TopicPartition, int]:
        """How far the group is, as the broker has it."""
        try:
            found = self.admin.list_group_offsets({self.group: None})[self.group]
        except KafkaError:  # the group's coordinator is on its way
            return {}
        return {
            TopicPartition(partition.topic, partition.partition): committed.offset
            for partition, committed in found.items()
            if committed.offset >= 0
        }

    def lag(self) -> int:
        """Records not yet committed."""
        ends = self._ends(self._places(*(topic.name for topic in SUBSCRIBED)))
        committed = self.committed()
        return sum(end - committed.get(place, 0) for place, end in ends.items())

    def broadcast_ends(self) -> dict[str, int]:
        """How far the fact topics go."""
        ends = self._ends(self._places(ADVISORIES.name, CONTROL.name))
        return {place.topic: end for place, end in ends.items()}

    def _ends(self, places: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = self._consumer.end_offsets(places)
        return ends

    def _places(self, *topics: str) -> list[TopicPartition]:
        unknown = [topic for topic in topics if topic not in self._partitions]
        if unknown:
            for one in self.admin.describe_topics(unknown):
                self._partitions[one["name"]] = len(one["partitions"])
        return [
            TopicPartition(topic, number)
            for topic in topics
            for number in range(self._partitions[topic])
        ]

    def read(self, topic: str) -> list[Any]:
        """All records of a topic, each partition's in its order."""
        records = self._records.setdefault(topic, [])
        places = self._places(topic)
        ends = self._ends(places)
        new = [place for place in places if self._positions.get(place, 0) < ends[place]]
        if not new:
            return list(records)
        self._consumer.assign(new)
        for place in new:
            self._consumer.seek(place, self._positions.get(place, 0))
        while any(self._consumer.position(place) < ends[place] for place in new):
            for some in self._consumer.poll(timeout_ms=500).values():
                records += some
        for place in new:
            self._positions[place] = self._consumer.position(place)
        return list(records)

    def decisions(self) -> list[DecisionRecord]:
        """Every decision, each Mac's in its order."""
        return [
            DecisionRecord.model_validate_json(record.value) for record in self.read(DECISIONS.name)
        ]

    def published(self) -> list[JobIssuedEvent]:
        """Every order that reached a site's topic."""
        events = [decode(one.value) for site in SITES for one in self.read(jobs_topic(site))]
        return [event for event in events if isinstance(event, JobIssuedEvent)]

    def dead_letters(self) -> list[DeadLetter]:
        """Everything that was set aside."""
        return [
            DeadLetter.model_validate_json(record.value) for record in self.read(DEAD_LETTERS.name)
        ]

    def state(self) -> dict[str, Any]:
        """The row of every Mac, as it counts: a later one, but not of an earlier owner."""
        epochs: dict[int, int] = {}
        rows: dict[str, Any] = {}
        for record in self.read(STATE.name):
            row = json.loads(record.value)
            newest = epochs.get(record.partition, 0)
            if row["e"] >= newest or record.key.decode() not in rows:
                rows[record.key.decode()] = row
            epochs[record.partition] = max(newest, row["e"])
        return {udid: row for udid, row in rows.items() if udid[0] != " "}

    def logs(self) -> str:
        """What the workers say of themselves, and the ends of their logs."""
        return "\n".join(
            f"{one.log.name}: {one.health() if one.runs and not one.is_frozen else 'ended'}\n"
            f"{one.log.read_text()[-3000:]}"
            for one in self.running
        )


@pytest.fixture
def workers(empty_kafka: KafkaCluster, tmp_path: Path) -> Iterator[Workers]:
    """No worker yet, and empty topics."""
    make_topics(empty_kafka)
    some = Workers(empty_kafka, tmp_path, NOW)
    yield some
    some.close()
