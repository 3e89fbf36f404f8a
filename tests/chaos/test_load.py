"""The load between the Macs and the gateway: only an input with a 200 counts as accepted."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agents.simulated.sinks import GatewaySink
from schemas.envelope import encode
from tests import factories
from tests.chaos.evidence import Input
from tests.chaos.load import Load, Mischief
from tests.chaos.programs import SECRETS
from tests.factories import NOW

WAIT_LIMIT_S = 20.0
CALM = Mischief(doubled=0, late=0, very_late=0, poison=0)


class FakeGateway(ThreadingHTTPServer):
    """Responds with `statuses` in turn, then 200; `requests` counts by status and event id.

    `secrets` has the secret of each request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses: list[int] = []
        self.requests: Counter[tuple[int, str]] = Counter()
        self.secrets: list[str | None] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    server: FakeGateway

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.server.secrets.append(self.headers["X-Drydock-Secret"])
        for line in body.splitlines():
            self.server.requests[status, json.loads(line).get("id", "webhook")] += 1
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    server = FakeGateway()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def load_with(gateway: FakeGateway) -> Iterator[Callable[[Mischief], Load]]:
    started = []

    def start(mischief: Mischief) -> Load:
        load = Load(("127.0.0.1", gateway.server_address[1]), 1, mischief)
        load.start()
        started.append(load)
        return load

    yield start
    for load in started:
        load.stop()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


REPORT = factories.full_report("26.1", "MAC-1")
CHECK_OUT = factories.checked_out("MAC-1", NOW)


def test_accepted_message_of_a_mac_is_posted_and_remembered(
    gateway: FakeGateway, load_with: Callable[[Mischief], Load]
) -> None:
    load = load_with(CALM)
    sink = GatewaySink(load.url, None)
    sink([REPORT, CHECK_OUT])
    assert sink._connection is not None
    sink._connection.close()
    eventually(lambda: not load.waiting)
    assert load.accepted == {
        Input("event", REPORT.id),
        Input("webhook", f"MAC-1 mdm.CheckOut {NOW.isoformat()}"),
    }
    assert gateway.requests == {(200, REPORT.id): 1, (200, "webhook"): 1}


def test_statement_of_an_operator_is_posted_with_the_operators_secret(
    gateway: FakeGateway, load_with: Callable[[Mischief], Load]
) -> None:
    owned = REPORT.model_copy(update={"data": REPORT.data.model_copy(update={"source": "admin"})})
    GatewaySink(f"http://127.0.0.1:{gateway.server_address[1]}", "mdm", "feed", "operators")(
        [REPORT, owned, factories.release("26.2"), REPORT]
    )
    assert gateway.secrets == ["mdm", "operators", "feed", "mdm"]
    load = load_with(CALM)
    for event, sender in ((REPORT, "nanomdm"), (owned, "admin")):
        gateway.secrets.clear()
        load.add_events("/v1/events", encode(event))
        eventually(lambda: not load.waiting)
        assert gateway.secrets == [SECRETS[sender]]


def test_message_is_posted_again_after_503_and_429(
    gateway: FakeGateway, load_with: Callable[[Mischief], Load]
) -> None:
    gateway.statuses = [503, 429]
    load = load_with(CALM)
    load.add_events("/v1/events", encode(REPORT))
    eventually(lambda: not load.waiting)
    assert load.accepted == {Input("event", REPORT.id)}
    assert gateway.requests == {(status, REPORT.id): 1 for status in (503, 429, 200)}


def test_refused_message_is_reported_and_is_no_input(
    gateway: FakeGateway, load_with: Callable[[Mischief], Load]
) -> None:
    gateway.statuses = [400]
    load = load_with(CALM)
    load.add_events("/v1/events", encode(REPORT))
    eventually(lambda: not load.waiting)
    assert load.accepted == set()
    assert len(load.refused) == 1


def test_mischief_sends_messages_twice_and_adds_poison(
    gateway: FakeGateway, load_with: Callable[[Mischief], Load]
) -> None:
    load = load_with(Mischief(doubled=1, late=0, late_s=0.1, very_late=0, poison=1))
    load.add_events("/webhooks/nanomdm", json.dumps(_hook()).encode())
    eventually(lambda: not load.waiting)
    kinds = Counter(one.kind for one in load.accepted)
    assert kinds == {"webhook": 1, "poison": 1}
    assert load.counts["posted"] == 3


def _hook() -> dict[str, object]:
    part = {"udid": "MAC-1"}
    return {"topic": "mdm.CheckOut", "created_at": NOW.isoformat(), "checkin_event": part}
