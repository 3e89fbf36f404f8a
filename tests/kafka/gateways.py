"""Gateways as processes on a real broker, Macs that post to them, and checks of the topic."""

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

from runtime.kafka import KafkaConnection
from schemas.topics import CHECKINS, Topic
from tests.kafka.brokers import ROOT, KafkaCluster
from tests.waiting import wait_until

WAIT_LIMIT_S = 60.0
STAMP_KEY = "the-stamp-key-of-the-tests"
_MAIN = (sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()")


@dataclass
class Server:
    """A process of `drydock gateway` or `drydock feeds`; `url` is the address from its log."""

    process: "subprocess.Popen[bytes]"
    log_path: Path
    url: str = ""

    def log(self) -> list[dict[str, object]]:
        """Return the records of its log so far; an incomplete last line is left out."""
        lines = self.log_path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def value(self, *name: str) -> float:
        """Return a metric by its name and its label values, ordered by label name."""
        text = httpx.get(f"{self.url}/metrics", trust_env=False, timeout=30).text
        samples = {
            (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return samples[name]

    def spooled(self) -> float:
        """Return the number of records in its spool."""
        return self.value("drydock_gateway_spool_records")

    def settles(self) -> None:
        """Wait until it delivers directly and its spool is empty."""
        wait_until(
            lambda: not self.spooled() and not self.value("drydock_gateway_spooling"),
            WAIT_LIMIT_S,
            "the gateway does not deliver directly",
        )

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send this signal, wait for the end of the process, and return its exit code."""
        self.process.send_signal(how)
        return self.process.wait(WAIT_LIMIT_S)


@contextmanager
def server(
    command: str, folder: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Run a server within the block, which begins when the server logs its address."""
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / f"{command}-{time.monotonic_ns()}.log"
    given = {name: value for name, value in os.environ.items() if not name.startswith("DRYDOCK_")}
    with log_path.open("wb") as log:
        stamps = {"DRYDOCK_STAMP_KEYS": STAMP_KEY}
        process = subprocess.Popen(
            [*_MAIN, command, *options], cwd=ROOT, stderr=log, env=given | stamps | dict(env or {})
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
    """Run a gateway on a free port, with its spool in the folder."""
    where = ["--data-dir", str(folder / "data"), "--listen", "127.0.0.1:0", "--insecure-loopback"]
    return server("gateway", folder, *where, "--bootstrap", kafka.bootstrap, env=env)


def command_webhook(udid: str, number: int) -> bytes:
    """Return NanoMDM's webhook for a Mac's response to the command of this number."""
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
    """The response to a webhook; `status` is None without one. `at_s` is monotonic time."""

    at_s: float
    took_s: float
    status: int | None


@dataclass
class Fleet:
    """Macs whose webhooks are posted in the order of each Mac, `rate` per second in total.

    `accepted` has the numbers of the webhooks with response 200, by Mac, in order.
    """

    name: str
    macs: int
    rate: float
    accepted: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    answers: list[Response] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int | None]:
        """The number of responses of each status."""
        return Counter(answer.status for answer in self.answers)

    @contextmanager
    def posting(self, url: Callable[[], str]) -> Iterator[None]:
        """Post while the block runs, each Mac in a thread.

        The block runs in the caller's thread because it may start brokers: a broker ends with the
        thread that started it (setpriv --pdeathsig).
        """
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
    """One kept-alive connection, as a sender has. It costs less CPU than a pool of httpx."""

    def __init__(self) -> None:
        self._url = ""
        self._http: http.client.HTTPConnection | None = None

    def post(self, url: str, path: str, body: bytes) -> int | None:
        """Return the status of the response; None if the connection fails."""
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
        """Close the connection."""
        if self._http is not None:
            self._http.close()
            self._http = None


@dataclass
class Found:
    """The webhooks of a fleet in the topic: their numbers by Mac, in the topic's order.

    Repeats are included.
    """

    numbers: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def duplicates(self) -> int:
        """The number of repeated records."""
        return sum(len(found) - len(set(found)) for found in self.numbers.values())

    def missing(self, fleet: Fleet) -> list[str]:
        """Return the webhooks that had response 200 and are not in the topic."""
        return [
            f"{udid}: {number}"
            for udid, numbers in fleet.accepted.items()
            for number in sorted(set(numbers) - set(self.numbers[udid]))
        ]

    def disordered(self, fleet: Fleet) -> list[str]:
        """Return the Macs whose webhooks are in the topic in another order than the responses."""
        return [
            udid
            for udid, numbers in fleet.accepted.items()
            if [n for n in dict.fromkeys(self.numbers[udid]) if n in set(numbers)] != numbers
        ]


def found_of(fleet: Fleet, kafka: KafkaCluster) -> Found:
    """Return the webhooks of a fleet in the topic, read without the gateway's client and parser."""
    found = Found()
    for key, value in _records(kafka, CHECKINS):
        if key.startswith(f"{fleet.name}-"):
            uuid = json.loads(value)["data"]["command_uuid"]
            found.numbers[key].append(int(uuid.removeprefix("C-")))
    return found


def records_of(kafka: KafkaCluster, key: str | None, *topics: Topic) -> list[bytes]:
    """Return the values in these topics with a key, or all if `key` is None."""
    every = (record for topic in topics for record in _records(kafka, topic))
    return [value for found, value in every if key in {None, found}]


def _records(kafka: KafkaCluster, topic: Topic) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and values of a topic, in the order of each key."""
    options = KafkaConnection(bootstrap=kafka.bootstrap).consumer_options()
    with KafkaConsumer(**options) as consumer:
        numbers = consumer.partitions_for_topic(topic.name)
        partitions = [TopicPartition(topic.name, number) for number in numbers]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for records in consumer.poll(timeout_ms=1000).values():
                yield from (
                    (record.key.decode(errors="replace"), record.value) for record in records
                )
