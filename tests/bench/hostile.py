"""`make bench-hostile`: honest webhooks beside hostile senders, at one embedded service.

Beside 200 webhooks a second of an MDM server: heads that never end, a flood of wrong secrets,
invented Macs, and the documents of the attacks A13 and A14 (tests/security). Prints the latency of
the honest webhooks, measured from the time at which each was due, with and without the attacks, and
the memory of the service. Exit 1 if an accepted webhook is not in the log.
"""

import argparse
import contextlib
import http.client
import json
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import Final
from urllib.parse import urlsplit

from pipeline.embedded.log import Log
from schemas.envelope import CommandReportedEvent, decode
from tests.kafka.gateways import command_webhook
from tests.security.target import SECRETS, release, report, target

_SENDERS: Final = 10
_SLOW_HEADS: Final = 100
_INVENTED_PER_REQUEST: Final = 500
_TIMEOUT_S: Final = 30.0
_FIRST_HOSTILE: Final = 500_000
_ZEROS: Final = b"[" + b"0," * 500_000 + b"0]"
_EMPTY_LINES: Final = b"{}\n" * 300_000


@dataclass
class Load:
    """The honest webhooks: latencies in s, the numbers of the accepted ones, and all statuses."""

    took_s: list[float] = field(default_factory=list)
    accepted: set[int] = field(default_factory=set)
    statuses: Counter[int | None] = field(default_factory=Counter)

    @property
    def row(self) -> str:
        """The number of webhooks and their latencies in ms."""
        cuts = quantiles(self.took_s, n=1000)
        p50, p99, worst = cuts[499], cuts[989], max(self.took_s)
        figures = " ".join(f"{seconds * 1000:8.0f}" for seconds in (p50, p99, worst))
        return f"{len(self.took_s):8} {len(self.accepted):8} {figures}"


class Http:
    """One kept-alive connection."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(
            parts.hostname or "", parts.port, timeout=_TIMEOUT_S
        )

    def post(self, path: str, body: bytes, secret: str) -> int | None:
        """Return the status of the response; None if the connection fails."""
        try:
            self._connection.request("POST", path, body, {"X-Drydock-Secret": secret})
            response = self._connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return None
        return response.status


def send_honest(url: str, rate: float, first: int, load: Load, until: float) -> None:
    """Send the webhooks `first`, `first` + 10 and so on, each when it is due."""
    http_, due = Http(url), time.monotonic() + first % _SENDERS / rate
    for number in count(first, _SENDERS):
        time.sleep(max(due - time.monotonic(), 0))
        if due > until:
            return
        body = command_webhook(f"HONEST-{number % 500:03}", number)
        status = http_.post("/webhooks/nanomdm", body, SECRETS["nanomdm"])
        load.took_s.append(time.monotonic() - due)
        load.statuses[status] += 1
        if status == 200:
            load.accepted.add(number)
        due += _SENDERS / rate


def slow_heads(url: str, ended: threading.Event) -> Counter[int | None]:
    """Keep connections open whose heads come one byte a second; return the closed ones as None."""
    parts, found = urlsplit(url), Counter[int | None]()
    connections: list[socket.socket] = []
    while not ended.is_set():
        while len(connections) < _SLOW_HEADS:
            connections.append(socket.create_connection((parts.hostname or "", parts.port or 0)))
            connections[-1].sendall(b"POST /v1/events HTTP/1.1\r\nX: ")
        for connection in [*connections]:
            try:
                connection.sendall(b"x")
            except OSError:
                connection.close()
                connections.remove(connection)
                found[None] += 1
        ended.wait(1)
    for connection in connections:
        connection.close()
    return found


def repeated(
    path: str, secret: str, pause_s: float, bodies: Iterator[bytes]
) -> Callable[[str, threading.Event], Counter[int | None]]:
    """Return an attack that posts these bodies, with a pause after each response."""

    def attack(url: str, ended: threading.Event) -> Counter[int | None]:
        http_, found = Http(url), Counter[int | None]()
        while not ended.wait(pause_s):
            found[http_.post(path, next(bodies), secret)] += 1
        return found

    return attack


def invented_macs() -> Iterator[bytes]:
    """Yield requests with reports of Macs that do not exist."""
    for start in count(0, _INVENTED_PER_REQUEST):
        names = (f"INVENTED-{number}" for number in range(start, start + _INVENTED_PER_REQUEST))
        yield json.dumps([report(name) for name in names]).encode()


def invented_advisories() -> Iterator[bytes]:
    """Yield requests with 150 releases that do not exist (A14)."""
    for start in count(3, 150):
        releases = (
            release(os_version=f"26.{n}", source="other") for n in range(start, start + 150)
        )
        yield json.dumps([*releases]).encode()


def documents() -> Iterator[bytes]:
    """Yield the documents of A13."""
    while True:
        yield from (_ZEROS, _EMPTY_LINES)


ATTACKS: Final = {
    "slow heads": slow_heads,
    "wrong secrets": repeated(
        "/webhooks/nanomdm", "wrong-secret", 0.005, iter(lambda: b"x" * 10_000, b"")
    ),
    "invented Macs": repeated("/v1/events", SECRETS["events"], 0.5, invented_macs()),
    "documents (A13)": repeated("/v1/events", SECRETS["events"], 2.0, documents()),
    "advisories (A14)": repeated("/v1/events", SECRETS["events"], 2.0, invented_advisories()),
}


def memory_mib(process_id: int, name: str) -> float:
    """Return a memory figure of a process, such as VmRSS, in MiB."""
    lines = Path(f"/proc/{process_id}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) / 1024


def honest_load(url: str, rate: float, seconds: float, first: int) -> Load:
    """Send honest webhooks for this time; return their latencies and statuses."""
    load, until = Load(), time.monotonic() + seconds
    with ThreadPoolExecutor(_SENDERS) as threads:
        sending = [
            threads.submit(send_honest, url, rate, first + number, load, until)
            for number in range(_SENDERS)
        ]
        for each in sending:
            each.result()
    return load


def hostile_load(url: str, rate: float, seconds: float, first: int, names: list[str]) -> Load:
    """Send honest webhooks beside these attacks; print what the attacks met."""
    ended = threading.Event()
    with ThreadPoolExecutor(len(ATTACKS)) as threads:
        attacking = {name: threads.submit(ATTACKS[name], url, ended) for name in names}
        try:
            load = honest_load(url, rate, seconds, first)
        finally:
            ended.set()
        for name, attack in attacking.items():
            met = ", ".join(f"{status or 'closed'}: {n}" for status, n in attack.result().items())
            sys.stdout.write(f"  {name}: {met or 'nothing closed'}\n")
    return load


def stored(data_dir: Path) -> set[int]:
    """Return the numbers of the honest webhooks in the log."""
    found = set()
    with Log.open(data_dir) as log:
        for entry in log.entries(kind="event"):
            if entry.type == CommandReportedEvent.model_fields["type"].default:
                event = decode(entry.body)
                assert isinstance(event, CommandReportedEvent)
                found.add(int((event.data.command_uuid or "").removeprefix("C-")))
    return found


def main() -> int:
    """Run the bench; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--only", nargs="*", default=[*ATTACKS], choices=[*ATTACKS])
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        at = stack.enter_context(target(folder))
        at.accept(release(), "sofa")
        url, process_id = at.service.url, at.service.process.pid
        quiet = honest_load(url, given.rate, given.seconds / 2, 0)
        before = memory_mib(process_id, "VmHWM")
        sys.stdout.write("attacks:\n")
        hostile = hostile_load(url, given.rate, given.seconds, _FIRST_HOSTILE, given.only)
        after = memory_mib(process_id, "VmHWM")
        lost = (quiet.accepted | hostile.accepted) - stored(at.data_dir)
        sys.stdout.write("              sent accepted   p50 ms   p99 ms   max ms\n")
        sys.stdout.write(f"quiet    {quiet.row}\nhostile  {hostile.row}\n")
        refused = {status: n for status, n in hostile.statuses.items() if status != 200}
        sys.stdout.write(f"honest webhooks without 200: {refused or 'none'}; lost: {len(lost)}\n")
        sys.stdout.write(f"peak memory: {before:.0f} MiB quiet, {after:.0f} MiB with attacks\n")
        sys.stdout.write(f"Macs known: {at.status()['devices']:,}\n")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
