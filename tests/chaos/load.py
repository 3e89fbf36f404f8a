"""A sender between the Macs and the gateway that doubles, delays and reorders their messages.

It adds poison too. It repeats each request until the gateway responds 200, and remembers the
inputs of these requests.
"""

import hashlib
import heapq
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Final, Self

from tests.chaos import poison
from tests.chaos.evidence import Input
from tests.chaos.programs import SECRETS

_EVENTS: Final = "/v1/events"
_WEBHOOK: Final = "/webhooks/nanomdm"
_SENDERS: Final = 4
_MOST_IN_A_BODY: Final = 20
_TIMEOUT_S: Final = 20.0
_AGAIN_S: Final = 0.5
_OK: Final = 200
_NOT_NOW: Final = 503
# Responses after which the sender must repeat the request: too many requests, spool full.
_LATER: Final = frozenset({429, _NOT_NOW})


@dataclass(frozen=True)
class Mischief:
    """Shares of the messages that are changed.

    `doubled` is sent twice, `late` is delayed up to `late_s`, `very_late` is sent again after up
    to `very_late_s`. `poison` is the number of unusable messages for each message.
    """

    doubled: float = 0.05
    late: float = 0.2
    late_s: float = 6.0
    very_late: float = 0.02
    very_late_s: float = 45.0
    poison: float = 0.01

    @classmethod
    def within(cls, lasts_s: float) -> Self:
        """Return the usual shares, with delays that fit into a run of this length."""
        return cls(
            late_s=min(cls.late_s, lasts_s / 10), very_late_s=min(cls.very_late_s, lasts_s / 4)
        )

    def copies(self, random: Random) -> Iterator[tuple[str, float]]:
        """Yield the change and the delay in seconds of each copy of one message to send."""
        if random.random() < self.late:
            yield "late", random.uniform(0, self.late_s)
        else:
            yield "in time", 0.0
        if random.random() < self.doubled:
            yield "doubled", random.uniform(0, self.late_s)
        if random.random() < self.very_late:
            yield "again much later", random.uniform(0, self.very_late_s)


@dataclass(order=True, slots=True)
class _Due:
    at_s: float
    number: int
    item: Input = field(compare=False)
    path: str = field(compare=False)
    body: bytes = field(compare=False)
    sender: str = field(compare=False)


class Load:
    """Accepts the Macs' messages at `url` and posts them to a gateway, in threads.

    `accepted` has the inputs with a 200. `refused` has the bodies of responses other than 200,
    429 and 503: a sound gateway gives none. `stop` ends the threads.
    """

    def __init__(self, gateway: tuple[str, int], seed: int, mischief: Mischief) -> None:
        self.accepted: set[Input] = set()
        self.refused: list[str] = []
        self.counts: Counter[str] = Counter()
        self._gateway = gateway
        self._mischief = mischief
        self._random = Random(seed)
        self._heap: list[_Due] = []
        self._number = 0
        self._busy = 0
        self._wake = threading.Condition()
        self._ending = self._is_quiet = False
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._threads = [
            threading.Thread(target=self._server.serve_forever, daemon=True),
            *(threading.Thread(target=self._send_on, daemon=True) for _ in range(_SENDERS)),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads; messages that wait are dropped."""
        self._server.shutdown()
        self._server.server_close()
        with self._wake:
            self._ending = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def quiet(self) -> None:
        """Refuse new messages with 503, so that the Macs' side keeps them."""
        self._is_quiet = True

    @property
    def waiting(self) -> int:
        """Number of messages that have no final response yet."""
        with self._wake:
            return len(self._heap) + self._busy

    @property
    def is_quiet(self) -> bool:
        """True if new messages are refused."""
        return self._is_quiet

    # --- in ---

    def add_events(self, path: str, body: bytes, sender: str = "nanomdm") -> None:
        """Plan the messages of one request: one webhook, or one event per line.

        `sender` is the name of the sender in SECRETS whose secret they are posted with; a statement
        of an operator is posted with that of the operators.
        """
        with self._wake:
            if path == _WEBHOOK:
                self._plan(_webhook(body), path, body, sender)
            else:
                for line in body.splitlines():
                    event = json.loads(line)
                    is_operators = event["data"].get("source") == "admin"
                    by = "admin" if is_operators else sender
                    self._plan(Input("event", event["id"]), path, line, by)
            self._wake.notify_all()

    def _plan(self, item: Input, path: str, body: bytes, sender: str) -> None:
        random, mischief, now = self._random, self._mischief, time.monotonic()
        self.counts["received"] += 1
        for change, delay_s in mischief.copies(random):
            self.counts[change] += 1
            self._put(now + delay_s, item, path, body, sender)
        if random.random() < mischief.poison:
            self.counts["poison"] += 1
            unusable = poison.body(random, self.counts["poison"])
            digest = hashlib.sha256(unusable).hexdigest()
            self._put(now, Input("poison", digest), _WEBHOOK, unusable, "nanomdm")

    def _put(self, at_s: float, item: Input, path: str, body: bytes, sender: str) -> None:
        self._number += 1
        heapq.heappush(self._heap, _Due(at_s, self._number, item, path, body, sender))

    # --- out ---

    def _send_on(self) -> None:
        connection = http.client.HTTPConnection(*self._gateway, timeout=_TIMEOUT_S)
        try:
            while batch := self._next():
                while not self._post(connection, batch) and not self._ending:
                    time.sleep(_AGAIN_S)
                with self._wake:
                    self._busy -= len(batch)
        finally:
            connection.close()

    def _next(self) -> list[_Due]:
        """Wait and return what is due: one webhook, or a batch of events; [] once `stop` ran."""
        with self._wake:
            while not self._ending:
                wait_s = self._heap[0].at_s - time.monotonic() if self._heap else None
                if wait_s is not None and wait_s <= 0:
                    break
                self._wake.wait(wait_s)
            if self._ending:
                return []
            batch = [heapq.heappop(self._heap)]
            now = time.monotonic()
            while (
                batch[0].path == _EVENTS
                and len(batch) < _MOST_IN_A_BODY
                and self._heap
                and self._heap[0].at_s <= now
                and self._heap[0].path == _EVENTS
                and self._heap[0].sender == batch[0].sender
            ):
                batch.append(heapq.heappop(self._heap))
            self._busy += len(batch)
        return batch

    def _post(self, connection: http.client.HTTPConnection, batch: list[_Due]) -> bool:
        """Post a batch. Return True if the response is final, False to post it again."""
        body = b"\n".join(due.body for due in batch)
        kind = "application/x-ndjson" if batch[0].path == _EVENTS else "application/json"
        try:
            headers = {"Content-Type": kind, "X-Drydock-Secret": SECRETS[batch[0].sender]}
            connection.request("POST", batch[0].path, body, headers)
            answer = connection.getresponse()
            body_read = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            self._count("without response")
            return False
        if answer.status != _OK:
            self._count(f"with status {answer.status}")
            if answer.status in _LATER:
                return False
            with self._wake:
                self.refused.append(body_read.decode(errors="replace"))
            return True
        with self._wake:
            self.counts["posted"] += len(batch)
            self.accepted.update(due.item for due in batch)
        return True

    def _count(self, what: str) -> None:
        with self._wake:
            self.counts[what] += 1


def _webhook(body: bytes) -> Input:
    fields = json.loads(body)
    part = fields.get("checkin_event") or fields["acknowledge_event"]
    return Input("webhook", f"{part['udid']} {fields['topic']} {fields['created_at']}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, load: Load) -> None:
        self.load = load
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        """Accept the request with 200, or refuse it with 503 while the load is quiet."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        load = self.server.load
        if not load.is_quiet:
            load.add_events(self.path, body)
        self.send_response(_NOT_NOW if load.is_quiet else _OK)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""
