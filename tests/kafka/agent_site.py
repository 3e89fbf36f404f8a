"""One site on a real broker: simulated Macs in a process of their own, executors in theirs."""

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
from pathlib import Path
from typing import Any, Self

from kafka import (  # type: ignore[import-untyped]
    KafkaAdminClient,
    KafkaConsumer,
    KafkaProducer,
    TopicPartition,
)
from pydantic import TypeAdapter

from agents.keys import KeyStore, Purpose
from agents.simulated.client import SimulatedFleetClient
from agents.simulated.spec import MacSpec
from agents.simulated.wire import FleetPlan
from schemas.connection import KafkaConnection
from schemas.envelope import CloudEvent, JobIssuedEvent, decode, encode
from schemas.ids import event_id
from schemas.jobs import Action, Job, Method
from schemas.results import JobResult
from schemas.signed_payloads import sign_job
from schemas.topics import RESULTS, attempts_topic, jobs_topic
from tests.factories.sites import RELEASES, START, a_job, a_spec
from tests.kafka.brokers import ROOT, KafkaCluster
from tests.kafka.topics import make_topics

# A quarter of an hour on a Mac is under four seconds here.
SPEED = 240.0
# The least that a broker allows.
SESSION_S = 6.0
WAIT_LIMIT_S = 60.0

_MAIN = (sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()")


def eventually(condition: Callable[[], bool], what: str, within_s: float = WAIT_LIMIT_S) -> None:
    """Ask until it holds; an assertion with `what` when the time is over."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.1)


@dataclass
class Agent:
    """A running `drydock agent`."""

    process: "subprocess.Popen[bytes]"
    data_dir: Path
    log_path: Path

    def log(self) -> list[dict[str, Any]]:
        """Its log so far."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def log_count(self, event: str) -> int:
        """How often it logged this."""
        return sum(line["event"] == event for line in self.log())

    def metric(self, name: str) -> float:
        """A metric, by name and labels; -1 while it does not answer."""
        try:
            text = self._get("/metrics")
        except (OSError, ValueError, http.client.HTTPException):
            return -1.0
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else -1.0

    def health(self) -> dict[str, Any]:
        """What /healthz says."""
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
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()


@dataclass
class AgentSite:
    """The site. Everything that it started ends with it."""

    name: str
    bootstrap: str
    folder: Path
    macs: SimulatedFleetClient
    agents: list[Agent] = field(default_factory=list)

    @property
    def connection(self) -> KafkaConnection:
        """The broker."""
        return KafkaConnection(bootstrap=self.bootstrap)

    @classmethod
    @contextmanager
    def at(
        cls, kafka: KafkaCluster, folder: Path, name: str, macs: Sequence[MacSpec] | int
    ) -> Iterator[Self]:
        """A site with these Macs, or with so many healthy ones: MAC-0, MAC-1 and so on."""
        specs = (
            [a_spec(f"MAC-{i}", site=name) for i in range(macs)]
            if isinstance(macs, int)
            else [*macs]
        )
        make_topics(kafka.bootstrap, name)
        store = KeyStore(folder / "keys")
        store.make(Purpose.JOBS)
        plan = FleetPlan(start=START, macs=tuple(specs), releases=RELEASES, lines={}, speed=SPEED)
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
        place = json.loads(fleet_server.stdout.readline())
        site = cls(
            name, kafka.bootstrap, folder, SimulatedFleetClient(place["host"], place["port"])
        )
        site._place = f"{place['host']}:{place['port']}"
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

    _place: str = ""
    _readers: "dict[str, _Reader]" = field(default_factory=dict)

    def start(self, name: str, *options: str) -> Agent:
        """Start an executor; the same name is the same data directory."""
        data_dir = self.folder / name
        log_path = self.folder / f"{name}.log"
        (data_dir / "agent.json").unlink(missing_ok=True)
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                [
                    *_MAIN,
                    *("agent", "--site", self.name, "--data-dir", str(data_dir)),
                    *("--name", name, "--bootstrap", self.bootstrap),
                    *("--keys", str(self.folder / "keys"), "--simulate", self._place),
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
        """Wait until the executor holds so many partitions and knows the halts."""
        eventually(
            lambda: (
                agent.metric("drydock_agent_partitions") == partitions
                and agent.metric("drydock_agent_halts_known") == 1
            ),
            f"{agent.data_dir.name} holds {partitions} partitions",
        )

    def jobs(self, count: int, **changes: Any) -> list[Job]:
        """Orders for MAC-0 and so on."""
        return [a_job(udid=f"MAC-{i}", site=self.name, **changes) for i in range(count)]

    def prompts(self, count: int) -> list[Job]:
        """Re-enrolments of MAC-0 and so on: over as soon as the Mac has asked its user."""
        return self.jobs(
            count,
            action=Action.REENROLL,
            method=Method.PROFILES_RENEW,
            target=None,
            intent="checked_out",
        )

    def order(self, *jobs: Job) -> None:
        """Publish signed orders."""
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
        """Publish bytes to the site's job topic, or another."""
        with KafkaProducer(**self.connection.producer_options()) as producer:
            sent = [
                producer.send(topic or jobs_topic(self.name), key=key.encode(), value=value)
                for key, value in messages
            ]
            for each in sent:
                each.get(timeout=30)

    def records(self, topic: str) -> list[Any]:
        """Everything in a topic up to now."""
        reader = self._readers.get(topic)
        if reader is None:
            reader = self._readers[topic] = _Reader(self.connection, topic)
        return reader.read()

    def events(self, topic: str) -> list[CloudEvent]:
        """Every event of a topic."""
        return [decode(record.value) for record in self.records(topic)]

    def results(self) -> list[JobResult]:
        """Every distinct result of this site, oldest first for each Mac."""
        found: dict[str, JobResult] = {}
        for event in self.events(RESULTS.name):
            data = getattr(event, "data", None)
            if isinstance(data, JobResult) and data.site == self.name:
                found.setdefault(event.id, data)
        return list(found.values())

    def outcomes(self, job: Job) -> list[str]:
        """What was told of a job, in order; progress left out."""
        outcomes = [each.outcome.value for each in self.results() if each.job_id == job.job_id]
        return [outcome for outcome in outcomes if outcome != "progressed"]

    def are_done(self, jobs: Sequence[Job]) -> None:
        """Wait until executors have told the end of all of these."""

        def done() -> bool:
            ended = {r.job_id for r in self.results() if r.outcome.value == "acted"}
            return ended >= {job.job_id for job in jobs}

        eventually(done, "every job is done")

    def acted(self) -> list[str]:
        """The jobs that Macs were acted on for, sorted: one that is here twice was done twice."""
        return sorted(each.job_id for each in self.macs.acted())

    def attempts(self) -> dict[str, dict[str, Any]]:
        """The journal in Kafka, by job."""
        return {
            record.key.decode(): json.loads(record.value)
            for record in self.records(attempts_topic(self.name))
            if record.value is not None
        }

    def given_up(self) -> set[str]:
        """The jobs whose orders the group has committed: nobody is given them again."""
        group = f"drydock.agent.{self.name}"
        with KafkaAdminClient(**self.connection.client_options()) as admin:
            committed = admin.list_group_offsets(group)[group]
        offsets = {place.partition: found.offset for place, found in committed.items()}
        return {
            decode(record.value).data.job.job_id  # type: ignore[union-attr]
            for record in self.records(jobs_topic(self.name))
            if record.offset < offsets.get(record.partition, 0)
        }

    def intending(self) -> set[str]:
        """The executors that are about to act on a Mac, or did and do not know it yet."""
        return {
            record["by"]
            for record in self.attempts().values()
            if record["entry"] is not None and record["entry"]["phase"] == "intended"
        }

    def phases(self) -> list[str]:
        """How far the jobs are, as the journal in Kafka says."""
        found = [record["entry"] for record in self.attempts().values()]
        return sorted(entry["phase"] for entry in found if entry is not None)


class _Reader:
    """Reads a topic on, from its first record."""

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._consumer = KafkaConsumer(**connection.consumer_options())
        partitions = self._consumer.partitions_for_topic(topic)
        self._places = [TopicPartition(topic, number) for number in partitions]
        self._consumer.assign(self._places)
        self._consumer.seek_to_beginning(*self._places)
        self._found: list[Any] = []

    def read(self) -> list[Any]:
        """All of it up to now."""
        ends = self._consumer.end_offsets(self._places, timeout_ms=10_000)
        while any(
            (self._consumer.position(place, timeout_ms=5000) or 0) < ends[place]
            for place in self._places
        ):
            for batch in self._consumer.poll(timeout_ms=200).values():
                self._found += batch
        return list(self._found)

    def close(self) -> None:
        self._consumer.close()


def drydock(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    return subprocess.run(
        [*_MAIN, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
