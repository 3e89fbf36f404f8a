"""Gateways as processes of their own on a real broker: posted to, killed, read behind."""

import asyncio
import base64
import json
import os
import plistlib
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from pipeline.provisioning.cluster import connected
from pipeline.provisioning.plan import differences, wanted_topics
from schemas.connection import KafkaConnection
from schemas.envelope import CommandReportedEvent, decode
from schemas.topics import CHECKINS
from tests.integration.brokers import ROOT, KafkaCluster, wait_until

PATIENCE_S = 60.0
PARTITIONS = 4
_MAIN = (sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()")


def make_topics(kafka: KafkaCluster) -> None:
    """Every topic, as `drydock topics apply` makes them."""
    wanted = wanted_topics([], PARTITIONS, min(kafka.brokers, 3))
    with connected(KafkaConnection(bootstrap=kafka.bootstrap), PATIENCE_S) as cluster:
        found = differences(wanted, cluster.topics(), brokers=cluster.brokers(), grow=False)
        assert cluster.apply(found, wanted) == {}
        assert cluster.settles(wanted)


@dataclass
class Server:
    """A running `drydock gateway` or `drydock feeds`, for one that says where it listens."""

    process: "subprocess.Popen[bytes]"
    log_path: Path
    url: str = ""

    def log(self) -> list[dict[str, object]]:
        """What it said so far, whole lines only."""
        lines = self.log_path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def samples(self) -> dict[tuple[str, ...], float]:
        """Its metrics: name and label values -> value."""
        text = httpx.get(f"{self.url}/metrics", trust_env=False, timeout=30).text
        return {
            (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, *name: str) -> float:
        """One of its metrics."""
        return self.samples()[name]

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send this signal and wait; the exit code."""
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_S)


@contextmanager
def server(
    command: str, folder: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server that does not outlive the block; ready when it says that it listens."""
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / f"{command}-{time.monotonic_ns()}.log"
    given = {name: value for name, value in os.environ.items() if not name.startswith("DRYDOCK_")}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*_MAIN, command, *options], cwd=ROOT, stderr=log, env=given | dict(env or {})
        )
    running = Server(process, log_path)
    try:

        def listens() -> bool:
            assert process.poll() is None, log_path.read_text()
            said = [line for line in running.log() if line["event"] == "listening"]
            running.url = str(said[0]["address"]) if said else ""
            return bool(said)

        wait_until(listens, PATIENCE_S, f"{command} does not listen")
        yield running
    finally:
        if process.poll() is None:
            running.end(signal.SIGKILL)


def gateway(kafka: KafkaCluster, folder: Path, **env: str) -> AbstractContextManager[Server]:
    """A gateway on a free port, with its spool in the folder."""
    where = ["--data-dir", str(folder / "data"), "--listen", "127.0.0.1:0"]
    return server("gateway", folder, *where, "--bootstrap", kafka.bootstrap, env=env)


def command_webhook(udid: str, number: int) -> bytes:
    """NanoMDM's webhook for a Mac's answer to its command of this number."""
    uuid = f"C-{number:06}"
    message = {"Status": "Acknowledged", "UDID": udid, "CommandUUID": uuid}
    event = {
        "ids": {"id": udid, "type": "Device"},
        "udid": udid,
        "status": "Acknowledged",
        "command_uuid": uuid,
        "raw_payload": base64.b64encode(plistlib.dumps(message)).decode(),
    }
    hook = {
        "topic": "mdm.Connect",
        "event_id": f"{number:016x}",
        "created_at": "2026-11-20T10:00:00.123456789Z",
        "acknowledge_event": event,
    }
    return json.dumps(hook).encode()


@dataclass
class Fleet:
    """Macs whose webhooks are posted, each one's in order, at so many a second together.
    `accepted` are the numbers answered 200, `statuses` all answers; none where nobody answered."""

    macs: int
    rate: float
    accepted: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    statuses: dict[int | None, int] = field(default_factory=lambda: defaultdict(int))
    durations_s: list[float] = field(default_factory=list)
    _next: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def answered(self) -> int:
        """How many were answered 200."""
        return sum(map(len, self.accepted.values()))

    async def post(self, url: Callable[[], str], until: asyncio.Event) -> None:
        """Post until told to stop."""
        limits = httpx.Limits(max_connections=self.macs)
        async with httpx.AsyncClient(trust_env=False, timeout=60, limits=limits) as client:
            await asyncio.gather(
                *(self._mac(client, url, until, f"MAC-{n:04}") for n in range(self.macs))
            )

    async def _mac(
        self, client: httpx.AsyncClient, url: Callable[[], str], until: asyncio.Event, udid: str
    ) -> None:
        pause_s = self.macs / self.rate
        due = time.monotonic() + pause_s * (int(udid[-4:]) / self.macs)
        while not until.is_set():
            await asyncio.sleep(max(due - time.monotonic(), 0))
            due += pause_s
            number = self._next[udid]
            self._next[udid] += 1
            started = time.monotonic()
            try:
                answer = await client.post(
                    f"{url()}/webhooks/nanomdm", content=command_webhook(udid, number)
                )
            except httpx.TransportError:
                self.statuses[None] += 1
                await asyncio.sleep(0.1)
                continue
            self.durations_s.append(time.monotonic() - started)
            self.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                self.accepted[udid].append(number)


def commands_in(kafka: KafkaCluster) -> dict[str, list[int]]:
    """The numbers of each Mac's commands in the topic, in the order of the topic, repeats too."""
    found: dict[str, list[int]] = defaultdict(list)
    options = KafkaConnection(bootstrap=kafka.bootstrap).consumer_options()
    with KafkaConsumer(**options) as consumer:
        parts = [TopicPartition(CHECKINS.name, n) for n in range(PARTITIONS)]
        consumer.assign(parts)
        consumer.seek_to_beginning(*parts)
        ends = consumer.end_offsets(parts)
        while any(consumer.position(part) < ends[part] for part in parts):
            for records in consumer.poll(timeout_ms=1000).values():
                for record in records:
                    event = decode(record.value)
                    assert isinstance(event, CommandReportedEvent)
                    uuid = event.data.command_uuid
                    assert uuid is not None
                    found[record.key.decode()].append(int(uuid.removeprefix("C-")))
    return found


def wrong(fleet: Fleet, found: Mapping[str, list[int]]) -> list[str]:
    """What was answered 200 and is not in the topic, or not in the Mac's order."""
    complaints = []
    for udid, numbers in fleet.accepted.items():
        first = list(dict.fromkeys(found.get(udid, [])))
        if missing := sorted(set(numbers) - set(first)):
            complaints.append(f"{udid}: {missing} missing")
        asked = set(numbers)
        if [n for n in first if n in asked] != numbers:
            complaints.append(f"{udid}: out of order")
    return complaints
