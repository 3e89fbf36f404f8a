"""Gateways as processes of their own on a real broker: posted to, killed, read behind."""

import base64
import http.client
import json
import os
import plistlib
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

import httpx
from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from schemas.connection import KafkaConnection
from schemas.topics import CHECKINS, Topic
from tests.kafka.brokers import ROOT, KafkaCluster, wait_until

WAIT_LIMIT_S = 60.0
_MAIN = (sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()")


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

    def value(self, *name: str) -> float:
        """One of its metrics, by its name and label values."""
        text = httpx.get(f"{self.url}/metrics", trust_env=False, timeout=30).text
        samples = {
            (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return samples[name]

    def spooled(self) -> float:
        """How many records wait in its spool."""
        return self.value("drydock_gateway_spool_records")

    def settles(self) -> None:
        """Wait until it delivers directly, with nothing in its spool."""
        wait_until(
            lambda: not self.spooled() and not self.value("drydock_gateway_spooling"),
            WAIT_LIMIT_S,
            "the gateway does not deliver directly",
        )

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send this signal and wait; the exit code."""
        self.process.send_signal(how)
        return self.process.wait(WAIT_LIMIT_S)


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
            lines = [line for line in running.log() if line["event"] == "listening"]
            running.url = str(lines[0]["address"]) if lines else ""
            return bool(lines)

        wait_until(listens, WAIT_LIMIT_S, f"{command} does not listen")
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


class Response(NamedTuple):
    """What came back; `status` None where nobody answered. `at_s` is of the monotonic clock."""

    at_s: float
    took_s: float
    status: int | None


@dataclass
class Fleet:
    """Macs whose webhooks are posted, each one's in order, at so many a second together.

    `accepted` are the numbers that were answered 200, by Mac, in the order in which they were.
    """

    name: str
    macs: int
    rate: float
    accepted: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    answers: list[Response] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int | None]:
        """How often each answer came."""
        return Counter(answer.status for answer in self.answers)

    @contextmanager
    def posting(self, url: Callable[[], str]) -> Iterator[None]:
        """Post while the block runs, each Mac in a thread: the block itself may start brokers,
        which end with the thread that started them."""
        until = threading.Event()
        with ThreadPoolExecutor(self.macs) as threads:
            posting = [threads.submit(self._mac, url, until, n) for n in range(self.macs)]
            try:
                yield
            finally:
                until.set()
                for each in posting:
                    each.result()

    def _mac(self, url: Callable[[], str], until: threading.Event, number: int) -> None:
        udid = f"{self.name}-{number:04}"
        pause_s = self.macs / self.rate
        due = time.monotonic() + pause_s * number / self.macs
        connection = _Connection()
        for webhook in count():
            if until.wait(max(due - time.monotonic(), 0)):
                break
            due += pause_s
            body = command_webhook(udid, webhook)
            started = time.monotonic()
            status = connection.post(url(), "/webhooks/nanomdm", body)
            self.answers.append(Response(started, time.monotonic() - started, status))
            if status == 200:
                self.accepted[udid].append(webhook)
            elif status is None:
                until.wait(0.1)
        connection.close()


class _Connection:
    """One kept-alive connection, as a sender has it: far cheaper than a pool for all of them."""

    def __init__(self) -> None:
        self._url = ""
        self._http: http.client.HTTPConnection | None = None

    def post(self, url: str, path: str, body: bytes) -> int | None:
        """The status of the answer; None where nobody answers."""
        if self._http is None or url != self._url:
            self.close()
            self._url = url
            self._http = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
        try:
            self._http.request("POST", path, body)
            with self._http.getresponse() as answer:
                answer.read()
                return answer.status
        except (OSError, http.client.HTTPException):
            self.close()
            return None

    def close(self) -> None:
        """Let go of it."""
        if self._http is not None:
            self._http.close()
            self._http = None


@dataclass
class Found:
    """What of a fleet is in the topic: the numbers of each Mac's webhooks in the topic's order,
    repeats too, and what is wrong with them."""

    numbers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def duplicates(self) -> int:
        """How many records are there again."""
        return sum(len(found) - len(set(found)) for found in self.numbers.values())

    def missing(self, fleet: Fleet) -> list[str]:
        """What was answered 200 and is not there."""
        return [
            f"{udid}: {number}"
            for udid, numbers in fleet.accepted.items()
            for number in sorted(set(numbers) - set(self.numbers[udid]))
        ]

    def disordered(self, fleet: Fleet) -> list[str]:
        """The Macs whose webhooks came to the topic in another order than they were answered."""
        return [
            udid
            for udid, numbers in fleet.accepted.items()
            if [n for n in dict.fromkeys(self.numbers[udid]) if n in set(numbers)] != numbers
        ]


def found_of(fleet: Fleet, kafka: KafkaCluster) -> Found:
    """What of a fleet is in the topic, read by another client and parser than the gateway's."""
    found = Found()
    for key, value in _records(kafka, CHECKINS):
        if key.startswith(f"{fleet.name}-"):
            uuid = json.loads(value)["data"]["command_uuid"]
            found.numbers[key].append(int(uuid.removeprefix("C-")))
    return found


def records_of(kafka: KafkaCluster, key: str | None, *topics: Topic) -> list[bytes]:
    """What is in these topics under a key, or at all."""
    every = (record for topic in topics for record in _records(kafka, topic))
    return [value for found, value in every if key in {None, found}]


def _records(kafka: KafkaCluster, topic: Topic) -> Iterator[tuple[str, bytes]]:
    """A topic's keys and values, each key's in order."""
    options = KafkaConnection(bootstrap=kafka.bootstrap).consumer_options()
    with KafkaConsumer(**options) as consumer:
        numbers = consumer.partitions_for_topic(topic.name)
        places = [TopicPartition(topic.name, number) for number in numbers]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = consumer.end_offsets(places)
        while any(consumer.position(place) < ends[place] for place in places):
            for records in consumer.poll(timeout_ms=1000).values():
                yield from ((record.key.decode(), record.value) for record in records)
