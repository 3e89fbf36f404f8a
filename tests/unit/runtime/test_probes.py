"""The pages of a program without an ASGI application."""

import http.client
import json
from collections.abc import Iterator

import pytest
from prometheus_client import Gauge

from runtime.listening import Listen
from runtime.metrics import dead_letter_counter, make_registry
from runtime.probes import ProbeServer


class Program:
    """A program with one metric, whose health the test sets."""

    def __init__(self) -> None:
        self.health: dict[str, object] = {"ok": True}
        self.readiness: dict[str, object] = {"ok": True}
        registry = make_registry()
        Gauge("drydock_ready", "Ready.", registry=registry).set(1)
        dead_letter_counter(registry, ["drydock.jobs"])
        listen = Listen("127.0.0.1", 0)
        self.server = ProbeServer(listen, registry, lambda: self.health, lambda: self.readiness)
        self.server.start()

    def get(self, path: str) -> tuple[int, str, bytes]:
        """Return status, content type and body of a page."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read()
        finally:
            connection.close()


@pytest.fixture
def program() -> Iterator[Program]:
    running = Program()
    yield running
    running.server.stop()


def test_metrics_are_in_the_text_format(program: Program) -> None:
    status, kind, body = program.get("/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b"drydock_ready 1.0" in body
    assert b"_created" not in body


def test_dead_letters_are_zero_before_the_first(program: Program) -> None:
    body = program.get("/metrics")[2]
    assert b'drydock_dead_letters_total{code="bug",topic="drydock.jobs"} 0.0' in body


@pytest.mark.parametrize(("ok", "status"), [(True, 200), (False, 503), (None, 503)])
def test_check_is_ok_only_if_true(program: Program, ok: bool | None, status: int) -> None:
    program.health = {"ok": ok, "site": "london"}
    program.readiness = {"ok": ok, "reason": "no Kafka"}
    for path, body in (("/healthz", program.health), ("/readyz", program.readiness)):
        found = program.get(path)
        assert found[:2] == (status, "application/json")
        assert json.loads(found[2]) == body


def test_other_page_does_not_exist(program: Program) -> None:
    assert program.get("/")[0] == 404


def test_address_in_use_is_refused(program: Program) -> None:
    with pytest.raises(ValueError, match="cannot listen on 127"):
        ProbeServer(Listen("127.0.0.1", program.server.port), make_registry(), dict, dict)
