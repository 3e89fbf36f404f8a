"""One broker with Drydock's topics, the keys, and the measured programs of a benchmark run.

It owns their folders and processes: none of them outlives the run.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from kafka.admin import NewTopic, OffsetSpec  # type: ignore[import-untyped]
from kafka.errors import RetriableError  # type: ignore[import-untyped]

from pipeline.payload_signing import sign_record
from pipeline.provisioning.cluster import connected
from pipeline.provisioning.plan import differences, wanted_topics
from pipeline.signing_keys import KeyStore
from pipeline.trust.stamps import Stamps
from runtime.kafka import KafkaConnection
from runtime.trusted_keys import Purpose
from schemas.signed_records import CONTROL_RECORD
from schemas.topics import CONTROL, INPUT_TOPICS
from tests.kafka.brokers import ROOT, KafkaCluster, free_ports

SITE: Final = "london"
PARTITIONS: Final = 4
DRYDOCK: Final = ("-c", "from pipeline.cli import main; main()")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
# Programs are paused for a long time and must stay in their groups.
_SESSION_S: Final = "300"
_WAIT_S: Final = 120.0
STAMP_KEY: Final = "the-stamp-key-of-a-benchmark"
_STAMPS: Final = Stamps([STAMP_KEY.encode()])
_STAMPED: Final = frozenset(topic.name for topic in INPUT_TOPICS)

Record = tuple[str, bytes, bytes]
"""Topic, key, value."""


def wait_for(condition: Callable[[], bool], what: str, within_s: float = _WAIT_S) -> None:
    """Wait until the condition is true. Raises TimeoutError with `what`."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(0.05)


def cpu_of(pid: int) -> float:
    """Return the user and system time of a process in seconds; the ticks are 10 ms."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    user, system = stat.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS


@dataclass
class Program:
    """A running process and its CPU time and memory."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    port: int = 0

    def cpu_s(self) -> float:
        """Return the user and system time of all its threads in seconds; the ticks are 10 ms."""
        return cpu_of(self.process.pid)

    def resident_bytes(self) -> int:
        """Return the resident memory in bytes."""
        statm = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * _PAGE

    def check(self) -> None:
        """Raise RuntimeError with the end of the log if the process has ended."""
        if self.process.poll() is not None:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{tail}")

    def is_ready(self, path: str) -> bool:
        """Return True if this path of its HTTP server responds 200."""
        self.check()
        try:
            return self.get(path).status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str) -> httpx.Response:
        """Return the response of its HTTP server. Raises httpx.TransportError."""
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False, timeout=5)

    def pause(self) -> None:
        """Pause it (SIGSTOP); it stays in its group until its session times out."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it continue."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it with SIGTERM, and kill it if it has not ended after 30 s."""
        if self.process.poll() is None:
            self.go_on()
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


@dataclass
class World:
    """The broker, keys and programs that one run shares."""

    kafka: KafkaCluster
    folder: Path
    sites: Sequence[str] = (SITE,)
    running: list[Program] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.connection = KafkaConnection(bootstrap=self.kafka.bootstrap)
        self.keys = self.folder / "keys"
        store = KeyStore(self.keys)
        for purpose in Purpose:
            store.make(purpose)
        self._control_key = store.signer(Purpose.CONTROL)
        self.admin = KafkaAdminClient(bootstrap_servers=self.kafka.bootstrap)
        wanted = wanted_topics(self.sites, PARTITIONS, 1)
        with connected(self.connection, 30) as cluster:
            cluster.apply(differences(wanted, cluster.topics(), brokers=1), wanted)
            assert cluster.wait_until_shown(wanted)

    # --- programs ---

    def start(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> Program:
        """Start a Python program, with a free port for its server in DRYDOCK_WORKER_LISTEN."""
        log = self.folder / f"{name}-{len(self.running)}.log"
        [port] = free_ports(1)
        given = {name: one for name, one in os.environ.items() if not name.startswith("DRYDOCK_")}
        own = {
            "PYTHONPATH": str(ROOT),
            # Without this setting Faust makes folders in the working directory.
            "APP_DATADIR": str(self.folder / "faust"),
            "DRYDOCK_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "DRYDOCK_WORKER_LISTEN": f"127.0.0.1:{port}",
            "DRYDOCK_WORKER_SESSION_TIMEOUT_S": _SESSION_S,
            "DRYDOCK_STAMP_KEYS": STAMP_KEY,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=given | own | dict(env or {}),
            )
        program = Program(name, process, log, port)
        self.running.append(program)
        return program

    def worker(self, data_dir: Path, **env: str) -> Program:
        """Start the real `drydock worker`."""
        where = ("--data-dir", str(data_dir), "--keys", str(self.keys))
        return self.start("worker", *DRYDOCK, "worker", *where, env=env)

    def close(self) -> None:
        """Stop all programs."""
        for program in self.running:
            program.stop()
        self.admin.close()

    # --- topics ---

    def make_topic(self, name: str, *, compacted: bool = False) -> None:
        """Make a topic of a contender with as many partitions as Drydock's topics."""
        settings = {"cleanup.policy": "compact"} if compacted else {}
        self.admin.create_topics([NewTopic(name, PARTITIONS, 1, topic_configs=settings)])

    def publish(self, records: Iterable[Record]) -> int:
        """Publish records, wait until the broker has confirmed all, and return their number.

        Those of input topics are stamped, as a gateway does; those of the control topic are signed.
        """
        producer = KafkaProducer(
            **self.connection.producer_options(linger_ms=20), batch_size=256 * 1024
        )
        count = 0
        failed: list[BaseException] = []
        for topic, name, value in records:
            sent = producer.send(topic, key=name, value=self._proven(topic, value))
            sent.add_errback(failed.append)
            count += 1
        producer.flush(_WAIT_S)
        producer.close()
        if failed:
            raise RuntimeError(f"{len(failed)} records were not published: {failed[0]!r}")
        return count

    def _proven(self, topic: str, value: bytes) -> bytes:
        """Return the record with the stamp or signature that a worker asks for in this topic."""
        if topic == CONTROL.name:
            return sign_record(value, CONTROL_RECORD, self._control_key)
        return _STAMPS.stamp(value) if topic in _STAMPED else value

    def partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        """Return all partitions of these topics."""
        return [
            TopicPartition(one["name"], each["partition_index"])
            for one in self.admin.describe_topics(list(topics))
            for each in one["partitions"]
        ]

    def ends(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the end offset of each partition."""
        found = self.admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        return {partition: int(one.offset) for partition, one in found.items()}

    def committed(self, group: str, partitions: Sequence[TopicPartition]) -> int:
        """Return the sum of a group's committed offsets in these partitions."""
        try:
            found = self.admin.list_group_offsets({group: list(partitions)})[group]
        except RetriableError:  # a broker without any group first makes the offsets topic
            return 0
        return sum(max(int(one.offset), 0) for one in found.values())

    def read(self, topic: str) -> Iterator[Any]:
        """Yield all records that a topic has now."""
        partitions = self.partitions([topic])
        with KafkaConsumer(**self.connection.consumer_options()) as consumer:
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                for records in consumer.poll(timeout_ms=500).values():
                    yield from records


@contextmanager
def world(folder: Path, sites: Sequence[str] = (SITE,)) -> Iterator[World]:
    """Run a broker with an empty world until the end of the block."""
    # Kafka's default: members that start together get one first assignment.
    own = {"group.initial.rebalance.delay.ms": "3000"}
    kafka = KafkaCluster(1, folder / "kafka", free_ports(2), extra=own)
    kafka.start()
    try:
        found = World(kafka, folder, sites)
        try:
            yield found
        finally:
            found.close()
    finally:
        kafka.kill()
