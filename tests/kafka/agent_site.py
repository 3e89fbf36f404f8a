"""One site on a real broker: its agents and its simulated Macs, as separate processes."""

import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from pydantic import TypeAdapter

from agents.simulated.client import SimulatedFleetClient
from agents.simulated.spec import MacSpec
from agents.simulated.wire import FleetPlan
from pipeline.payload_signing import sign_job
from pipeline.signing_keys import KeyStore
from runtime.kafka import KafkaConnection
from runtime.trusted_keys import Purpose, public_key_path
from schemas.envelope import CloudEvent, JobIssuedEvent, decode, encode
from schemas.ids import event_id
from schemas.jobs import Action, Job, Method
from schemas.results import JobResult
from schemas.signing import key_id
from schemas.topics import RESULTS, attempts_topic, jobs_topic
from tests.factories.sites import RELEASES, START, a_job, a_spec
from tests.kafka.brokers import ROOT, KafkaCluster
from tests.kafka.topics import make_topics

# Speed of the simulated clock: 15 minutes of a Mac pass in under 4 s.
SPEED = 240.0
# The minimum that a broker allows (group.min.session.timeout.ms).
SESSION_S = 6.0
WAIT_LIMIT_S = 60.0

_DRYDOCK = (sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()")
_AGENT = (sys.executable, "-W", "ignore", "-c", "from agents.cli import main; main()")


def eventually(condition: Callable[[], bool], what: str, within_s: float = WAIT_LIMIT_S) -> None:
    """Wait until the condition is True; fail with `what` after `within_s`."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.1)


@dataclass
class Agent:
    """A `drydock agent` process."""

    process: "subprocess.Popen[bytes]"
    data_dir: Path
    log_path: Path

    def log(self) -> list[dict[str, Any]]:
        """Return the records of its log so far."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def log_count(self, event: str) -> int:
        """Return the number of log records with this message."""
        return sum(line["event"] == event for line in self.log())

    def metric(self, name: str) -> float:
        """Return a metric by name and labels; -1 if it is missing or the agent does not respond."""
        try:
            text = self._get("/metrics")
        except (OSError, ValueError, http.client.HTTPException):
            return -1.0
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else -1.0

    def health(self) -> dict[str, Any]:
        """Return the body of /healthz."""
        health: dict[str, Any] = json.loads(self._get("/healthz"))
        return health

    def _get(self, path: str) -> str:
        url = json.loads((self.data_dir / "agent.json").read_text())["url"]
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Kill the process (kill -9) and wait for its end."""
        self.process.kill()
        self.process.wait()


@dataclass
class AgentSite:
    """A site with its agents and Macs; `at` ends the processes that it started."""

    name: str
    bootstrap: str
    folder: Path
    macs: SimulatedFleetClient
    agents: list[Agent] = field(default_factory=list)

    @property
    def connection(self) -> KafkaConnection:
        """The connection to the broker."""
        return KafkaConnection(bootstrap=self.bootstrap)

    @classmethod
    @contextmanager
    def at(
        cls,
        kafka: KafkaCluster,
        folder: Path,
        name: str,
        macs: Sequence[MacSpec] | int,
        *,
        start: datetime = START,
    ) -> Iterator[Self]:
        """Run a site with these Macs, or with a number of healthy ones: MAC-0, MAC-1 and so on.

        The clock of the Macs and agents begins at `start`.
        """
        specs = (
            [a_spec(f"MAC-{i}", site=name) for i in range(macs)]
            if isinstance(macs, int)
            else [*macs]
        )
        make_topics(kafka.bootstrap, name)
        store = KeyStore(folder / "keys")
        store.make(Purpose.JOBS)
        store.make(Purpose.CONTROL)
        plan = FleetPlan(start=start, macs=tuple(specs), releases=RELEASES, lines={}, speed=SPEED)
        (folder / "fleet.json").write_bytes(TypeAdapter(FleetPlan).dump_json(plan))
        fleet_server = subprocess.Popen(
            [
                *(sys.executable, "-W", "ignore", "-m", "agents.simulated"),
                *("--fleet", str(folder / "fleet.json"), "--data-dir", str(folder / "macs")),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert fleet_server.stdout is not None
        address = json.loads(fleet_server.stdout.readline())
        site = cls(
            name, kafka.bootstrap, folder, SimulatedFleetClient(address["host"], address["port"])
        )
        site._fleet_address = f"{address['host']}:{address['port']}"
        try:
            yield site
        finally:
            site.macs.close()
            for reader in site._readers.values():
                reader.close()
            for agent in site.agents:
                agent.kill()
            fleet_server.kill()
            fleet_server.wait()
            fleet_server.stdout.close()

    _fleet_address: str = ""
    _readers: "dict[str, _Reader]" = field(default_factory=dict)

    def trust(self, key: Ed25519PublicKey) -> None:
        """Let the agents that start later accept jobs that are signed with this key."""
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        public_key_path(self.folder / "keys", Purpose.JOBS, key_id(key)).write_bytes(pem)

    def start(self, name: str, *options: str, dry_run: bool = False) -> Agent:
        """Start an agent. The same name uses the same data directory."""
        macs = () if dry_run else ("--simulate", self._fleet_address)
        data_dir = self.folder / name
        log_path = self.folder / f"{name}.log"
        (data_dir / "agent.json").unlink(missing_ok=True)
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [
                    *_AGENT,
                    *("--site", self.name, "--data-dir", str(data_dir)),
                    *("--name", name, "--bootstrap", self.bootstrap),
                    *("--keys", str(self.folder / "keys"), *macs),
                    *("--listen", "127.0.0.1:0", "--session-s", str(SESSION_S), *options),
                ],
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        agent = Agent(process, data_dir, log_path)
        self.agents.append(agent)
        return agent

    def is_assigned(self, agent: Agent, partitions: int) -> None:
        """Wait until the agent has this number of partitions and knows the halts."""
        eventually(
            lambda: (
                agent.metric("drydock_agent_partitions") == partitions
                and agent.metric("drydock_agent_halts_known") == 1
            ),
            f"{agent.data_dir.name} has {partitions} partitions",
        )

    def jobs(self, count: int, **changes: Any) -> list[Job]:
        """Return jobs for MAC-0, MAC-1 and so on."""
        return [a_job(udid=f"MAC-{i}", site=self.name, **changes) for i in range(count)]

    def prompts(self, count: int) -> list[Job]:
        """Return reenroll jobs for MAC-0 and so on; each ends when its Mac prompts the user."""
        return self.jobs(
            count,
            action=Action.REENROLL,
            method=Method.PROFILES_RENEW,
            target=None,
            intent="checked_out",
        )

    def order(self, *jobs: Job) -> None:
        """Publish signed jobs."""
        key = KeyStore(self.folder / "keys").signer(Purpose.JOBS)
        events = [
            JobIssuedEvent(
                id=event_id("issued", job.job_id),
                source="/test",
                subject=job.udid,
                time=job.issued_at,
                data=sign_job(job, key),
            )
            for job in jobs
        ]
        self.publish(*[(event.subject, encode(event)) for event in events])

    def publish(self, *messages: tuple[str, bytes], topic: str | None = None) -> None:
        """Publish bytes to the job topic of the site, or to `topic`."""
        with KafkaProducer(**self.connection.producer_options()) as producer:
            sent = [
                producer.send(topic or jobs_topic(self.name), key=key.encode(), value=value)
                for key, value in messages
            ]
            for each in sent:
                each.get(timeout=30)

    def records(self, topic: str) -> list[Any]:
        """Return all records of a topic until now."""
        reader = self._readers.get(topic)
        if reader is None:
            reader = self._readers[topic] = _Reader(self.connection, topic)
        return reader.read()

    def events(self, topic: str) -> list[CloudEvent]:
        """Return all events of a topic until now."""
        return [decode(record.value) for record in self.records(topic)]

    def results(self) -> list[JobResult]:
        """Return the results of this site without repeats, oldest first for each Mac."""
        found: dict[str, JobResult] = {}
        for event in self.events(RESULTS.name):
            data = getattr(event, "data", None)
            if isinstance(data, JobResult) and data.site == self.name:
                found.setdefault(event.id, data)
        return list(found.values())

    def outcomes(self, job: Job) -> list[str]:
        """Return the outcomes reported for a job, in order, without `progressed`."""
        outcomes = [each.outcome.value for each in self.results() if each.job_id == job.job_id]
        return [outcome for outcome in outcomes if outcome != "progressed"]

    def are_done(self, jobs: Sequence[Job]) -> None:
        """Wait until every job has the result `acted`."""

        def done() -> bool:
            ended = {r.job_id for r in self.results() if r.outcome.value == "acted"}
            return ended >= {job.job_id for job in jobs}

        eventually(done, "every job is done")

    def acted(self) -> list[str]:
        """Return the job id of each action on a Mac, sorted; a repeated action is in it twice."""
        return sorted(each.job_id for each in self.macs.acted())

    def attempts(self) -> dict[str, dict[str, Any]]:
        """Return the latest record of each job in the journal in Kafka."""
        return {
            record.key.decode(): json.loads(record.value)
            for record in self.records(attempts_topic(self.name))
            if record.value is not None
        }

    def given_up(self) -> set[str]:
        """Return the jobs below the committed offsets of the group: no agent gets them again."""
        group = f"drydock.agent.{self.name}"
        with KafkaAdminClient(**self.connection.client_options()) as admin:
            committed = admin.list_group_offsets(group)[group]
        offsets = {partition.partition: found.offset for partition, found in committed.items()}
        return {
            decode(record.value).data.job.job_id  # type: ignore[union-attr]
            for record in self.records(jobs_topic(self.name))
            if record.offset < offsets.get(record.partition, 0)
        }

    def intending(self) -> set[str]:
        """Return the agents that have recorded an intent and not yet its result."""
        return {
            record["by"]
            for record in self.attempts().values()
            if record["entry"] is not None and record["entry"]["phase"] == "intended"
        }

    def phases(self) -> list[str]:
        """Return the phases of all jobs in the journal in Kafka, sorted."""
        found = [record["entry"] for record in self.attempts().values()]
        return sorted(entry["phase"] for entry in found if entry is not None)


class _Reader:
    """Reads a topic from its first record; each `read` continues."""

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._consumer = KafkaConsumer(**connection.consumer_options())
        partitions = self._consumer.partitions_for_topic(topic)
        self._partitions = [TopicPartition(topic, number) for number in partitions]
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning(*self._partitions)
        self._found: list[Any] = []

    def read(self) -> list[Any]:
        """Return all records until now, those of earlier calls included."""
        ends = self._consumer.end_offsets(self._partitions, timeout_ms=10_000)
        while any(
            (self._consumer.position(partition, timeout_ms=5000) or 0) < ends[partition]
            for partition in self._partitions
        ):
            for batch in self._consumer.poll(timeout_ms=200).values():
                self._found += batch
        return list(self._found)

    def close(self) -> None:
        self._consumer.close()


def drydock(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a `drydock` command to its end and return its result."""
    return subprocess.run(
        [*_DRYDOCK, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
