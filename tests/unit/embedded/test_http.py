"""The HTTP endpoint with a real service: status codes, and durability before the response."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pydantic import SecretStr

from pipeline.config import ServerSettings
from pipeline.embedded import control_events
from pipeline.embedded.http import ServiceApi
from pipeline.embedded.log import Log
from pipeline.embedded.metrics_log import MetricsLog
from pipeline.embedded.service import Service
from pipeline.embedded.service_thread import MacSource, ServiceThread
from pipeline.gateway import payloads
from pipeline.gateway.authentication import Authenticator
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import TRANSLATORS
from pipeline.ingest.translation import Translation
from pipeline.metrics import Metrics
from schemas.decisions import Decision, Reason, Verdict
from schemas.envelope import encode
from schemas.jobs import Action
from tests.embedded_world import POLICY
from tests.factories.sites import (
    APPROVALS_KEY,
    JOBS_KEY,
    KEYS,
    STRANGER_KEY,
    critical_release,
    osquery_report,
)
from tests.factories.sofa import feed, line, release

TOKEN = {"Authorization": "Bearer admin-token"}
NOW = datetime.now(UTC)
MAC: dict[str, Any] = {"os_version": "26.1", "build": "25B78", "model": "Mac14,2"}
RELEASE = encode(critical_release("26.2", "25C56", NOW))


class RunningService:
    """The endpoint of a service on a data directory."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.data_dir = data_dir
        self.metrics = Metrics(CollectorRegistry())
        self.captured = structlog.testing.LogCapture()
        self.log = structlog.wrap_logger(
            structlog.ReturnLogger(),
            processors=[structlog.processors.add_log_level, self.captured],
            wrapper_class=structlog.make_filtering_bound_logger("info"),
        )
        chosen = ServerSettings(**settings)
        observer = MetricsLog(self.metrics, self.log)

        def open_service(now: datetime) -> tuple[Service, MacSource | None]:
            service = Service.open(
                data_dir,
                now=now,
                signer=JOBS_KEY,
                trust=KEYS,
                policy_text=POLICY,
                on_commit=observer.record_commit,
            )
            return service, None

        self.worker = ServiceThread(
            open_service,
            self.log,
            max_waiting=chosen.max_waiting,
            on_ready=lambda ready: self.metrics.set_ready(ready=ready),
        )
        self.gateway = ServiceApi(
            self.worker,
            Authenticator(chosen, is_loopback=True, admin_token="admin-token"),
            chosen,
            Redactor(b"0123456789abcdef"),
            self.metrics,
            self.log,
        )

    def logged(self) -> list[str]:
        """Return the keys of the events in the log."""
        with Log.open(self.data_dir) as log:
            return [row.key for row in log.entries(kind="event")]


@contextmanager
def listening(endpoint: RunningService) -> Iterator[str]:
    """Serve the endpoint; give its URL."""
    endpoint.worker.start()
    config = uvicorn.Config(endpoint.gateway.app(), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[httpx.Client, RunningService]]]:
    with ExitStack() as stack:

        def start(**settings: Any) -> tuple[httpx.Client, RunningService]:
            endpoint = RunningService(tmp_path / "data", **settings)
            url = stack.enter_context(listening(endpoint))
            client = httpx.Client(base_url=url, trust_env=False, timeout=30)
            return stack.enter_context(client), endpoint

        yield start


def event(udid: str, **facts: Any) -> bytes:
    return encode(osquery_report(udid, NOW, **MAC, **facts))


def test_events_are_durable_when_the_response_arrives(serve: Any) -> None:
    client, endpoint = serve()
    lines = event("MAC-1") + b"\n" + event("MAC-2") + b"\n"
    array = b"[" + event("MAC-3") + b"," + event("MAC-4") + b"]"
    for body, count in ((lines, 2), (array, 2), (event("MAC-5"), 1), (b"[]", 0)):
        response = client.post("/v1/events", content=body)
        assert (response.status_code, response.json()) == (
            200,
            {"events": count, "dead_letters": 0},
        )
    assert [key for key in endpoint.logged() if key.startswith("MAC")] == [
        f"MAC-{number}" for number in range(1, 6)
    ]


@pytest.mark.parametrize(
    ("body", "where", "code"),
    [
        (b"", "$", "not_json"),
        (b"{", "$", "not_json"),
        (b"[{]", "line 1 column 3", "not_json"),
        (b"[" + event("MAC-1") + b',{"type":"x"}]', "$[1]", "unknown_type"),
        (event("MAC-1") + b'\n{"type":"x"}', "line 2: $", "unknown_type"),
        (event("MAC-1").replace(b"26.1", b"none"), "$.data.os_version", "bad_value"),
        (encode(control_events.policy_changed(POLICY, "me", NOW)), "$.type", "unknown_type"),
    ],
    ids=["nothing", "cut off", "no array", "in an array", "in lines", "bad value", "policy"],
)
def test_bad_event_rejects_its_batch_with_its_position(
    serve: Any, body: bytes, where: str, code: str
) -> None:
    client, endpoint = serve()
    response = client.post("/v1/events", content=body)
    assert response.status_code == 400
    (found,) = response.json()["errors"]
    assert (found["where"], found["code"]) == (where, code)
    assert "MAC-1" not in endpoint.logged()


def test_unusable_webhook_is_a_durable_dead_letter(serve: Any) -> None:
    client, endpoint = serve()
    response = client.post("/webhooks/jamf", content=b'{"password":"hunter2hunter2"}')
    assert (response.status_code, response.json()) == (200, {"events": 0, "dead_letters": 1})
    with Log.open(endpoint.data_dir) as log:
        (letter,) = log.dead_letters()
    assert (letter.code, letter.source, letter.origin) == ("unknown_type", "jamf", "webhook/jamf")
    dead_letter = json.loads(letter.body)
    assert "hunter2" not in str(dead_letter)


def test_dead_letter_of_a_translator_bug_replays_once_the_bug_is_fixed(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, endpoint = serve()
    payload = {"webhook": {"webhookEvent": "ComputerInventoryCompleted"}, "event": {}}

    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("our bug")

    monkeypatch.setattr(payloads, "TRANSLATORS", {**TRANSLATORS, "jamf": broken})
    assert client.post("/webhooks/jamf", json=payload).json()["dead_letters"] == 1
    assert client.post("/v1/dead-letters/1/replay", headers=TOKEN).status_code == 409

    def fixed(raw: bytes, **_: Any) -> Any:
        assert json.loads(raw) == payload
        return Translation(events=(osquery_report("MAC-9", NOW, **MAC),))

    monkeypatch.setattr(payloads, "TRANSLATORS", {**TRANSLATORS, "jamf": fixed})
    response = client.post("/v1/dead-letters/1/replay", headers=TOKEN)
    assert response.json() == {"replayed": 1, "events": 1}
    assert "MAC-9" in endpoint.logged()
    with Log.open(endpoint.data_dir) as log:
        assert log.dead_letter_counts() == {}
    assert client.post("/v1/dead-letters/1/replay", headers=TOKEN).status_code == 409
    assert client.post("/v1/dead-letters/7/replay", headers=TOKEN).status_code == 404


def test_feed_is_compared_with_its_last_document(serve: Any) -> None:
    client, endpoint = serve()
    kev = {
        "catalogVersion": "2026.08.05",
        "dateReleased": "2026-08-05T12:00:00.0000Z",
        "count": 1,
        "vulnerabilities": [
            {
                "cveID": "CVE-2025-14174",
                "vendorProject": "Apple",
                "product": "Multiple Products",
                "vulnerabilityName": "x",
                "dateAdded": "2025-12-15",
                "dueDate": "2026-01-05",
            }
        ],
    }
    first = client.post("/v1/feeds/kev", json=kev)
    assert first.json() == {"outcome": "accepted", "events": 1, "dead_letters": 0}
    unchanged = {"outcome": "unchanged", "events": 0, "dead_letters": 0}
    assert client.post("/v1/feeds/kev", json=kev).json() == unchanged
    for letters in (1, 0):
        refused = client.post("/v1/feeds/kev", content=b"{").json()
        assert (refused["outcome"], refused["dead_letters"]) == ("unreadable", letters)
        assert "line 1 column 2" in refused["refused"]
    assert client.post("/v1/feeds/kev", json=kev).json() == unchanged
    assert len(endpoint.logged()) == 2  # the policy and the CVE


def test_feed_that_lost_entries_is_accepted_only_with_accept_losses(serve: Any) -> None:
    client, endpoint = serve()
    entry = {"cveID": "CVE-2025-14174", "vendorProject": "Google", "dateAdded": "2025-12-12"}
    kev = {"vulnerabilities": [entry] * 3}
    assert client.post("/v1/feeds/kev", json=kev).json()["events"] == 0
    releases = feed(line("Tahoe 26", release("26.2", exploited=("CVE-2025-14174",))))
    assert client.post("/v1/feeds/sofa", content=releases).json()["events"] == 1
    # SOFA lists the CVE, so it is Apple's although CISA names Google.
    assert client.post("/v1/feeds/kev", json=kev).json()["events"] == 1
    less = {"vulnerabilities": [entry]}
    assert client.post("/v1/feeds/kev", json=less).json()["outcome"] == "truncated"
    assert client.post("/v1/feeds/kev?accept=losses", json=less).json()["outcome"] == "unchanged"
    assert "CVE-2025-14174" in endpoint.logged()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/webhooks/munkireport", 404),
        ("POST", "/v1/feeds/apple", 404),
        ("GET", "/v1/events", 405),
        ("GET", "/nothing", 404),
        ("GET", "/v1/status", 401),
        ("GET", "/v1/devices/MAC-1", 401),
        ("POST", "/v1/halts", 401),
        ("DELETE", "/v1/halts/all", 401),
        ("POST", "/v1/approvals", 401),
        ("POST", "/v1/dead-letters/1/replay", 401),
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
    ],
)
def test_request_has_the_expected_status(serve: Any, method: str, path: str, status: int) -> None:
    client, _ = serve()
    assert client.request(method, path).status_code == status


def test_body_over_the_limit_is_refused_with_and_without_a_length(serve: Any) -> None:
    client, endpoint = serve(max_webhook_bytes=1024)
    assert client.post("/webhooks/jamf", content=b"x" * 1025).status_code == 413

    def endless() -> Iterator[bytes]:
        for _ in range(4):
            yield b"x" * 512

    assert client.post("/webhooks/jamf", content=endless()).status_code == 413
    packed = client.post("/webhooks/jamf", content=b"x", headers={"Content-Encoding": "gzip"})
    assert packed.status_code == 415
    with Log.open(endpoint.data_dir) as log:
        assert log.dead_letters() == []


def test_wrong_secret_is_refused_and_not_logged(serve: Any) -> None:
    client, endpoint = serve(jamf_secret=SecretStr("jamf-secret"))
    refused = client.post("/webhooks/jamf", content=b"{}", headers={"X-Drydock-Secret": "guess"})
    assert refused.status_code == 401
    accepted = client.post(
        "/webhooks/jamf", content=b"{}", headers={"X-Drydock-Secret": "jamf-secret"}
    )
    assert accepted.status_code == 200
    assert "guess" not in str(endpoint.captured.entries)


def test_halts_are_set_listed_and_cleared(serve: Any) -> None:
    client, _ = serve()
    request = {"scope": "site:london", "by": "me", "why": "a fire drill"}
    assert client.post("/v1/halts", json=request, headers=TOKEN).json() == {"halted": "site:london"}
    assert client.get("/v1/status", headers=TOKEN).json()["halts"] == ["site:london"]
    cleared = client.delete("/v1/halts/site:london?by=me", headers=TOKEN)
    assert cleared.json() == {"resumed": "site:london"}
    assert client.get("/v1/status", headers=TOKEN).json()["halts"] == []
    assert client.delete("/v1/halts/site:london", headers=TOKEN).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"scope":"all"}',
        b'{"scope":"everything","by":"me"}',
        b'{"scope":"site:NO SITE","by":"me"}',
        b'{"scope":"all","by":"me","until":"tomorrow"}',
        b'{"scope":"all","by":"me","untill":null}',
    ],
)
def test_invalid_halt_gets_400(serve: Any, body: bytes) -> None:
    client, _ = serve()
    assert client.post("/v1/halts", content=body, headers=TOKEN).status_code == 400


@pytest.mark.parametrize(("key", "status"), [(APPROVALS_KEY, 200), (STRANGER_KEY, 403)])
def test_approval_must_be_signed_by_a_trusted_key(serve: Any, key: Any, status: int) -> None:
    client, _ = serve()
    decision = Decision(
        udid="MAC-1",
        decision=Verdict.HOLD,
        action=Action.REINSTALL,
        reason=Reason.AWAITING_APPROVAL,
        job_id="job-1",
    )
    granted = control_events.approval_granted(decision, "me", NOW, timedelta(days=1), key)
    response = client.post("/v1/approvals", content=encode(granted), headers=TOKEN)
    assert response.status_code == status
    assert client.post("/v1/approvals", content=event("M"), headers=TOKEN).status_code == 400


def test_mac_is_found_by_its_serial_number_in_any_case(serve: Any) -> None:
    client, _ = serve()
    client.post("/v1/events", content=RELEASE + b"\n" + event("MAC-1"))
    found = client.get("/v1/devices/c02mac-1", headers=TOKEN).json()
    assert found["udid"] == "MAC-1"
    assert found["decision"]["udid"] == "MAC-1"
    assert len(found["jobs"]) == 1
    assert client.get("/v1/devices/MAC-2", headers=TOKEN).status_code == 404


def test_request_id_is_kept_or_made(serve: Any) -> None:
    client, _ = serve()
    given = client.get("/healthz", headers={"X-Request-Id": "abc-123"})
    assert given.headers["x-request-id"] == "abc-123"
    for bad in ("a b", "x" * 65, "a;b"):
        made = client.get("/healthz", headers={"X-Request-Id": bad})
        assert len(made.headers["x-request-id"]) == 32


def test_metrics_are_openmetrics_with_the_expected_counts(serve: Any) -> None:
    client, _ = serve()
    client.post("/v1/events", content=RELEASE + b"\n" + event("MAC-1"))
    client.post("/v1/events", content=event("MAC-1"))
    client.post("/webhooks/jamf", content=b"{")
    scraped = client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
    assert scraped.headers["content-type"].startswith("application/openmetrics-text")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(scraped.text)  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    assert samples["drydock_events_total", "drydock.inventory.v1", "folded"] == 1
    assert samples["drydock_events_total", "drydock.inventory.v1", "duplicate"] == 1
    assert samples["drydock_dead_letters_total", "not_json", "webhooks"] == 1
    assert samples["drydock_exposed_devices", "critical", "london"] == 1
    assert (
        samples["drydock_jobs_open", "london", "update"]
        + samples["drydock_job_results_total", "refused", "update"]
        == 1
    )
    assert samples["drydock_decisions_total", "security_update", "update"] >= 1
    assert samples["drydock_ready",] == 1


def test_full_queue_gets_503_with_retry_after(serve: Any) -> None:
    client, endpoint = serve(max_waiting=1)
    entered, leave = threading.Event(), threading.Event()

    def hold(*_: Any) -> None:
        entered.set()
        leave.wait(30)

    held = endpoint.worker.ask(hold)
    assert entered.wait(30)
    waiting = endpoint.worker.ask(lambda *_: "done")
    full = client.post("/v1/events", content=event("MAC-1"))
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    leave.set()
    assert (held.result(30), waiting.result(30)) == (None, "done")
    assert client.post("/v1/events", content=event("MAC-1")).status_code == 200


def test_full_disk_gets_503_and_the_service_is_opened_again(serve: Any) -> None:
    client, endpoint = serve()

    def fill(service: Service, _: datetime) -> None:
        (pages,) = service.store._db.execute("PRAGMA page_count").fetchone()
        service.store._db.execute(f"PRAGMA max_page_count={pages}")

    endpoint.worker.ask(fill).result(30)
    many = b"\n".join(event(f"MAC-{number}") for number in range(60))
    assert client.post("/v1/events", content=many).status_code == 503
    # The limit of pages ends with the connection: after reopening, writes succeed.
    responses = (client.post("/v1/events", content=many).status_code for _ in range(100_000))
    assert next(status for status in responses if status != 503) == 200
    assert endpoint.logged().count("MAC-1") == 1
    assert any(entry["log_level"] == "error" for entry in endpoint.captured.entries)
