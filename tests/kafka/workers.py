"""Workers as processes on a real broker: starts, kills and awaits them, and reads their topics."""

import http.client
import json
import multiprocessing
import os
import re
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
from pipeline.processors.broadcast import BROADCAST_TOPICS
from pipeline.provisioning.cluster import connected
from pipeline.provisioning.plan import differences, wanted_topics
from runtime.kafka import KafkaConnection
from schemas.dead_letters import DeadLetter
from schemas.decisions import DecisionRecord
from schemas.envelope import CloudEvent, JobIssuedEvent, decode, encode
from schemas.topics import (
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

# The forkserver imports the modules of a worker once, so that each worker starts fast.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([worker_program.__name__])
PARTITIONS = 4
SITES = ("london", "tokyo")
WAIT_LIMIT_S = 60.0


def eventually(condition: Callable[[], bool], what: str, within_s: float = WAIT_LIMIT_S) -> None:
    """Wait until the condition is True; fail with `what` after `within_s`."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


def make_topics(kafka: KafkaCluster, partitions: int = PARTITIONS, copies: int = 1) -> None:
    """Create every topic, as `drydock topics apply` does."""
    wanted = wanted_topics(SITES, partitions, copies)
    with connected(KafkaConnection(bootstrap=kafka.bootstrap), 10) as cluster:
        cluster.apply(differences(wanted, cluster.topics(), brokers=kafka.brokers), wanted)
        assert cluster.wait_until_shown(wanted)


@dataclass
class WorkerProcess:
    """A worker in a process."""

    process: BaseProcess
    data_dir: Path
    port: int
    log: Path
    is_frozen: bool = False

    def kill(self) -> None:
        """Kill the process (kill -9) and wait for its end."""
        self.process.kill()
        self.process.join()

    def stop(self) -> int:
        """Stop the process with SIGTERM and return its exit code."""
        self.process.terminate()
        self.process.join(WAIT_LIMIT_S)
        assert self.process.exitcode is not None, "does not stop"
        return self.process.exitcode

    def freeze(self) -> None:
        """Suspend the process (SIGSTOP): it does not notice, as under heavy load."""
        self._signal(signal.SIGSTOP)
        self.is_frozen = True

    def thaw(self) -> None:
        """Resume the process (SIGCONT)."""
        self._signal(signal.SIGCONT)
        self.is_frozen = False

    def _signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    @property
    def runs(self) -> bool:
        """True if the process has not ended."""
        return self.process.is_alive()

    def get(self, path: str) -> tuple[int, str]:
        """Return status and body of a page; status 0 if the worker does not respond."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    def health(self) -> dict[str, Any]:
        """Return the fields of /healthz; empty if the worker does not respond."""
        status, body = self.get("/healthz")
        return json.loads(body) if status else {}

    def metric(self, name: str) -> float:
        """Return a metric by name and labels; -1 without it, or without a response."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(found[1]) if found else -1.0


@dataclass
class Workers:
    """The workers of one group, and the topics that they read and write."""

    kafka: KafkaCluster
    folder: Path
    now: datetime
    group: str = field(default_factory=lambda: f"workers-{uuid.uuid4().hex[:8]}")
    running: list[WorkerProcess] = field(default_factory=list)
    started: int = 0
    refresh: timedelta = timedelta(0)
    stalled_after_s: float = 60.0
    stamp_key: str | None = None
    control_keys: Path | None = None

    def __post_init__(self) -> None:
        self.set_clock(self.now)
        self._connect()
        self._records: dict[str, list[Any]] = {}
        self._positions: dict[TopicPartition, int] = {}
        self._partition_counts: dict[str, int] = {}

    def close(self) -> None:
        """Kill all workers and close the clients."""
        for worker in self.running:
            if worker.runs:
                worker.kill()
        self._disconnect()

    def reconnect(self) -> None:
        """Use new clients: after an outage of some brokers, an old one can get no end offsets."""
        self._disconnect()
        self._connect()

    def _connect(self) -> None:
        connection = KafkaConnection(bootstrap=self.kafka.bootstrap)
        self.producer = KafkaProducer(**connection.producer_options())
        self.admin = KafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        self._consumer = KafkaConsumer(**connection.consumer_options())

    def _disconnect(self) -> None:
        self.producer.close()
        self.admin.close()
        self._consumer.close()

    def set_clock(self, now: datetime) -> None:
        """Set the clock of all workers."""
        self.now = now
        path = self.folder / "clock"
        new = path.with_suffix(".new")
        new.write_text(now.isoformat())
        new.replace(path)

    def start(self, data_dir: Path | None = None) -> WorkerProcess:
        """Start one more worker; `data_dir` may be the one of an earlier worker."""
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
            stamp_key=self.stamp_key,
            control_keys=self.control_keys,
        )
        process = _FORKS.Process(target=run, args=(given,), daemon=True)
        process.start()
        worker = WorkerProcess(process, data_dir, port, log)
        self.running.append(worker)
        return worker

    # --- in ---

    def send(self, events: Iterable[CloudEvent]) -> None:
        """Publish events to their topics and wait for the acknowledgements."""
        sent = [
            self.producer.send(topic_of(event), key=key_of(event).encode(), value=encode(event))
            for event in events
        ]
        self.producer.flush()
        for each in sent:
            each.get(timeout=30)

    def send_raw(self, topic: str, *values: bytes) -> None:
        """Publish bytes as they are, without a key, and wait for the acknowledgements."""
        sent = [self.producer.send(topic, value=value) for value in values]
        self.producer.flush()
        for each in sent:
            each.get(timeout=30)

    def set_topic(self, topic: str, settings: Mapping[str, str]) -> None:
        """Change settings of a topic and wait until the broker shows them."""
        resource = ConfigResource(ConfigResourceType.TOPIC, topic, configs=dict(settings))
        self.admin.alter_configs([resource], incremental=True)
        eventually(lambda: self._settings_of(topic).items() >= settings.items(), "settings")

    def _settings_of(self, topic: str) -> dict[str, str]:
        resource = ConfigResource(ConfigResourceType.TOPIC, topic)
        described = self.admin.describe_configs([resource])
        return {name: each["value"] for name, each in described["topic"][topic].items()}

    # --- out ---

    def wait_caught_up(self, within_s: float = WAIT_LIMIT_S) -> None:
        """Wait until the running workers have processed all records, at the time of the clock."""
        try:
            eventually(self._is_caught_up, "workers caught up", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    def _is_caught_up(self) -> bool:
        living = [worker for worker in self.running if worker.runs and not worker.is_frozen]
        assert living, "no worker runs"
        figures = [worker.health() for worker in living]
        ready = {name for one in figures for name in one.get("ready", ())}
        if len(ready) < len(self.partitions_of(STATE.name, DISPATCH_STATE.name)):
            return False
        if not all(one["idle"] for one in figures):
            return False
        # Read the end offsets last: they include the records that a worker published before it
        # was idle, so a worker that has yet to read those is behind its end offset.
        ends = self.ends(self.partitions_of(*(topic.name for topic in SUBSCRIBED)))
        offsets = {name: at for one in figures for name, at in one["offsets"].items()}
        broadcast = self.broadcast_ends()
        return all(one["broadcast"] == broadcast for one in figures) and all(
            offsets.get(f"{partition.topic}/{partition.partition}") == end
            for partition, end in ends.items()
        )

    def committed(self) -> dict[TopicPartition, int]:
        """Return the committed offsets of the group; empty while its coordinator moves."""
        try:
            found = self.admin.list_group_offsets({self.group: None})[self.group]
        except KafkaError:  # the coordinator of the group is not available yet
            return {}
        return {
            TopicPartition(partition.topic, partition.partition): committed.offset
            for partition, committed in found.items()
            if committed.offset >= 0
        }

    def lag(self) -> int:
        """Return the number of records that are not yet committed."""
        ends = self.ends(self.partitions_of(*(topic.name for topic in SUBSCRIBED)))
        committed = self.committed()
        return sum(end - committed.get(partition, 0) for partition, end in ends.items())

    def broadcast_ends(self) -> dict[str, int]:
        """Return the end offset of each broadcast topic."""
        ends = self.ends(self.partitions_of(*(topic.name for topic in BROADCAST_TOPICS)))
        return {partition.topic: end for partition, end in ends.items()}

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the end offsets of these partitions."""
        ends: dict[TopicPartition, int] = self._consumer.end_offsets(partitions)
        return ends

    def partitions_of(self, *topics: str) -> list[TopicPartition]:
        """Return all partitions of these topics."""
        unknown = [topic for topic in topics if topic not in self._partition_counts]
        if unknown:
            for one in self.admin.describe_topics(unknown):
                self._partition_counts[one["name"]] = len(one["partitions"])
        return [
            TopicPartition(topic, number)
            for topic in topics
            for number in range(self._partition_counts[topic])
        ]

    def read(self, topic: str) -> list[Any]:
        """Return all records of a topic, in the order of each partition."""
        records = self._records.setdefault(topic, [])
        partitions = self.partitions_of(topic)
        ends = self.ends(partitions)
        new = [
            partition
            for partition in partitions
            if self._positions.get(partition, 0) < ends[partition]
        ]
        if not new:
            return list(records)
        self._consumer.assign(new)
        for partition in new:
            self._consumer.seek(partition, self._positions.get(partition, 0))
        while any(self._consumer.position(partition) < ends[partition] for partition in new):
            for some in self._consumer.poll(timeout_ms=500).values():
                records += some
        for partition in new:
            self._positions[partition] = self._consumer.position(partition)
        return list(records)

    def forget(self, topic: str) -> None:
        """Read a topic that was deleted and created again from its beginning."""
        self._records.pop(topic, None)
        self._positions = {tp: at for tp, at in self._positions.items() if tp.topic != topic}

    def decisions(self) -> list[DecisionRecord]:
        """Return every decision, in the order of each Mac."""
        return [
            DecisionRecord.model_validate_json(record.value) for record in self.read(DECISIONS.name)
        ]

    def published(self) -> list[JobIssuedEvent]:
        """Return every job in the job topics of the sites."""
        events = [decode(one.value) for site in SITES for one in self.read(jobs_topic(site))]
        return [event for event in events if isinstance(event, JobIssuedEvent)]

    def dead_letters(self) -> list[DeadLetter]:
        """Return all dead letters."""
        return [
            DeadLetter.model_validate_json(record.value) for record in self.read(DEAD_LETTERS.name)
        ]

    def state(self) -> dict[str, Any]:
        """Return the valid row of every Mac: the last one, without rows of a fenced owner.

        A row with a lower epoch than an earlier one of its partition is void, unless it is the
        first of its Mac.
        """
        epochs: dict[int, int] = {}
        rows: dict[str, Any] = {}
        for record in self.read(STATE.name):
            if record.value is None:
                rows.pop(record.key.decode(), None)
                continue
            row = json.loads(record.value)
            newest = epochs.get(record.partition, 0)
            if row["e"] >= newest or record.key.decode() not in rows:
                rows[record.key.decode()] = row
            epochs[record.partition] = max(newest, row["e"])
        return {udid: row for udid, row in rows.items() if udid[0] != " "}

    def logs(self) -> str:
        """Return the health and the last 3000 characters of the log of each worker."""
        return "\n".join(
            f"{one.log.name}: {one.health() if one.runs and not one.is_frozen else 'ended'}\n"
            f"{one.log.read_text()[-3000:]}"
            for one in self.running
        )


@pytest.fixture
def workers(empty_kafka: KafkaCluster, tmp_path: Path) -> Iterator[Workers]:
    """A group without workers yet, on empty topics."""
    make_topics(empty_kafka)
    some = Workers(empty_kafka, tmp_path, NOW)
    yield some
    some.close()
