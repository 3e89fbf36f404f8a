"""The HTTP application over both sinks: authentication, limits, errors, and durable inputs."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import SecretStr

from pipeline.embedded import control_events
from pipeline.gateway import payloads, records
from pipeline.ingest.sources import TRANSLATORS
from schemas.envelope import TokenUpdatedEvent, encode
from schemas.signed_records import SIGNATURE_BYTES, STAMP_BYTES
from tests.embedded_world import POLICY
from tests.factories.sites import osquery_report
from tests.unit.gateway.apps import FORMS, HMAC_KEY, NOW, RunningApp, signed
from tests.unit.gateway.fakes import until
from tests.unit.gateway.nanomdm_bodies import webhook

SECRET = {"X-Drydock-Secret": "jamf-secret"}
Run = Callable[..., None]


@pytest.fixture(params=FORMS)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Return a function that runs a test with the application over one of the sinks."""

    def run_test(test: Callable[[RunningApp], Coroutine[Any, Any, None]], **settings: Any) -> None:
        async def inside() -> None:
            async with FORMS[request.param](tmp_path, **settings) as it:
                await test(it)

        asyncio.run(inside())

    return run_test


def event(udid: str, **fields: Any) -> bytes:
    return encode(osquery_report(udid, NOW, os_version="26.1", **fields))


def test_events_are_durable_at_the_response(run: Run) -> None:
    lines = event("MAC-1") + b"\n" + event("MAC-2") + b"\n"
    array = b"[" + event("MAC-3") + b"," + event("MAC-5") + b"]"

    async def test(it: RunningApp) -> None:
        for body, count in ((lines, 2), (array, 2), (event("MAC-4"), 1), (b"[]", 0)):
            response = await it.post("/v1/events", body)
            assert response.status_code == 200
            assert response.json() == {"events": count, "dead_letters": 0}
        subjects = [one.subject for one in it.events()]
        assert [one for one in subjects if one.startswith("MAC")] == [
            f"MAC-{number}" for number in (1, 2, 3, 5, 4)
        ]
        assert len(subjects) == 5

    run(test)


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
    run: Run, body: bytes, where: str, code: str
) -> None:
    async def test(it: RunningApp) -> None:
        response = await it.post("/v1/events", body)
        assert response.status_code == 400
        (found,) = response.json()["errors"]
        assert (found["where"], found["code"]) == (where, code)
        assert it.events() == []

    run(test)


def test_webhook_is_durable_at_the_response(run: Run) -> None:
    async def test(it: RunningApp) -> None:
        response = await it.post("/webhooks/nanomdm", webhook("TokenUpdate", PushMagic="magic"))
        assert (response.status_code, response.json()) == (200, {"events": 1, "dead_letters": 0})
        (found,) = it.events()
        assert isinstance(found, TokenUpdatedEvent)

    run(test)


def test_unusable_payload_becomes_a_durable_dead_letter(run: Run) -> None:
    async def test(it: RunningApp) -> None:
        response = await it.post("/webhooks/jamf", b'{"password":"hunter2hunter2"}')
        assert (response.status_code, response.json()) == (200, {"events": 0, "dead_letters": 1})
        (letter,) = it.dead_letters()
        assert (letter.code, letter.source, letter.origin) == (
            "unknown_type",
            "jamf",
            "webhook/jamf",
        )
        assert "hunter2" not in base64.b64decode(letter.raw or "").decode()
        (logged,) = (one for one in it.captured.entries if one["event"] == "input dead-lettered")
        assert (logged["log_level"], logged["source"]) == ("warning", "jamf")
        labels = {"topic": "webhooks", "code": "unknown_type"}
        assert it.registry.get_sample_value("drydock_dead_letters_total", labels) == 1

    run(test)


def test_payload_becomes_a_dead_letter_when_its_translation_raises(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("our bug")

    monkeypatch.setattr(payloads, "TRANSLATORS", {**TRANSLATORS, "nanomdm": broken})

    async def test(it: RunningApp) -> None:
        body = webhook("CheckOut")
        assert (await it.post("/webhooks/nanomdm", body)).json()["dead_letters"] == 1
        (letter,) = it.dead_letters()
        assert (letter.code, letter.raw_size) == ("bug", len(body))
        assert json.loads(base64.b64decode(letter.raw or ""))["topic"] == "mdm.CheckOut"
        assert it.captured.entries[-1]["log_level"] == "error"

    run(test)


def test_oversize_event_is_refused_or_becomes_a_dead_letter(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = SIGNATURE_BYTES + STAMP_BYTES
    monkeypatch.setattr(records, "MAX_EVENT_BYTES", 100 + beside)

    async def test(it: RunningApp) -> None:
        response = await it.post("/v1/events", event("MAC-1"))
        assert (response.status_code, response.json()["error"][-8:]) == (413, "over 100")
        assert (it.events(), it.dead_letters()) == ([], [])
        body = webhook("CheckOut")
        response = await it.post("/webhooks/nanomdm", body)
        assert (response.status_code, response.json()) == (200, {"events": 0, "dead_letters": 1})
        (letter,) = it.dead_letters()
        assert (letter.code, letter.raw_size) == ("too_large", len(body))
        assert it.events() == []

    run(test)


REFUSED: dict[str, tuple[str, bytes, dict[str, str], int]] = {
    "no signature": ("/webhooks/nanomdm", webhook("CheckOut"), {}, 401),
    "signature of another body": ("/webhooks/nanomdm", webhook("CheckOut"), signed(b"{}"), 401),
    "wrong secret": ("/webhooks/jamf", b"{}", {"X-Drydock-Secret": "guess"}, 401),
    "wrong secret of events": ("/v1/events", b"[]", {"X-Drydock-Secret": "guess"}, 401),
    "no secret configured": ("/webhooks/munki", b"{}", {}, 403),
    "unknown source": ("/webhooks/munkireport", b"{}", {}, 404),
    "too large": ("/webhooks/jamf", b"x" * 1025, SECRET, 413),
    "compressed": ("/webhooks/jamf", b"x", {**SECRET, "Content-Encoding": "gzip"}, 415),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_request_is_refused(run: Run, case: str) -> None:
    path, body, headers, status = REFUSED[case]

    async def test(it: RunningApp) -> None:
        response = await it.post(path, body, **headers)
        assert response.status_code == status
        assert set(response.json()) == {"error"}
        assert len(response.headers["x-request-id"]) == 32
        assert (it.events(), it.dead_letters()) == ([], [])
        assert "guess" not in str(it.captured.entries)
        refusals = [one for one in it.captured.entries if one["event"] == "request refused"]
        assert len(refusals) == (status in (401, 403))

    run(
        test,
        loopback=False,
        nanomdm_hmac_key=SecretStr(HMAC_KEY),
        jamf_secret=SecretStr("jamf-secret"),
        events_secret=SecretStr("events-secret"),
        max_webhook_bytes=1024,
    )


def test_responses_over_both_sinks_are_equal(tmp_path: Path) -> None:
    """Same status, body and headers, except for the header X-Request-Id."""
    posts = {
        **{name: (path, body, headers) for name, (path, body, headers, _) in REFUSED.items()},
        "events": ("/v1/events", event("MAC-1"), {"X-Drydock-Secret": "events-secret"}),
        "event twice": ("/v1/events", event("MAC-1"), {"X-Drydock-Secret": "events-secret"}),
        "invalid events": ("/v1/events", b"[{}]", {"Authorization": "Bearer events-secret"}),
        "unusable payload": ("/webhooks/jamf", b"{}", SECRET),
        "webhook": ("/webhooks/nanomdm", webhook("CheckOut"), signed(webhook("CheckOut"))),
        "no route": ("/webhooks", b"{}", {}),
        "wrong method": ("/readyz", b"{}", {}),
        "redirect": ("/v1/events/", b"{}", {}),
    }
    settings: dict[str, Any] = {
        "loopback": False,
        "nanomdm_hmac_key": SecretStr(HMAC_KEY),
        "jamf_secret": SecretStr("jamf-secret"),
        "events_secret": SecretStr("events-secret"),
        "max_webhook_bytes": 1024,
    }

    async def responses(form: str) -> dict[str, tuple[int, str, dict[str, str]]]:
        found = {}
        async with FORMS[form](tmp_path / form, **settings) as it:
            for name, (path, body, headers) in posts.items():
                one = await it.post(path, body, **headers)
                kept = {key: text for key, text in one.headers.items() if key != "x-request-id"}
                found[name] = (one.status_code, one.text, kept)
        return found

    for form in FORMS:
        (tmp_path / form).mkdir()
    kafka, sqlite = (asyncio.run(responses(form)) for form in FORMS)
    assert kafka == sqlite
    assert {status for status, _, _ in kafka.values()} == {
        *(200, 307, 400, 401, 403, 404, 405, 413, 415)
    }


def test_body_of_an_unknown_sender_is_not_read(run: Run) -> None:
    parts: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        parts.append(b"x")
        yield b"x"

    async def test(it: RunningApp) -> None:
        for path in ("/webhooks/nanomdm", "/webhooks/jamf", "/v1/events"):
            assert (await it.client.post(path, content=body())).status_code == 401
        assert parts == []

    secrets = {
        name: SecretStr(HMAC_KEY) for name in ("nanomdm_hmac_key", "jamf_secret", "events_secret")
    }
    run(test, **secrets)


def test_endless_body_is_refused_at_the_size_limit(run: Run) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 512

    async def test(it: RunningApp) -> None:
        response = await it.client.post("/webhooks/jamf", content=endless())
        assert response.status_code == 413

    run(test, max_webhook_bytes=1024)


def test_slow_body_is_refused_after_its_time_limit(run: Run) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(30)

    async def test(it: RunningApp) -> None:
        it.app.bodies.timeout_s = 0.05
        response = await it.client.post("/webhooks/jamf", content=slow())
        assert response.status_code == 408

    run(test)


async def held_responses(it: RunningApp, count: int, done: int, **message: str) -> list[Any]:
    """Post webhooks while nothing becomes durable, until `done` have a response; return all."""
    it.hold()
    posts = [
        asyncio.create_task(
            it.post("/webhooks/nanomdm", webhook("CheckOut", f"MAC-{number}", **message))
        )
        for number in range(count)
    ]
    await until(lambda: sum(one.done() for one in posts) == done)
    it.release()
    return await asyncio.gather(*posts)


def assert_busy(responses: list[Any], statuses: list[int]) -> None:
    """Assert the sorted statuses, and the one text and the headers of a response with 429."""
    assert sorted(one.status_code for one in responses) == statuses
    for one in responses:
        if one.status_code == 429:
            assert one.json() == {"error": "too many requests are waiting: try again"}
            assert one.headers["retry-after"] == "1"
        assert len(one.headers["x-request-id"]) == 32


def test_response_is_429_when_too_many_requests_wait(run: Run) -> None:
    async def test(it: RunningApp) -> None:
        responses = await held_responses(it, 3, done=2)
        assert_busy(responses, [200, 429, 429])

    run(test, max_waiting=1)


def test_response_is_429_when_bodies_exceed_the_memory_limit(run: Run) -> None:
    async def test(it: RunningApp) -> None:
        responses = await held_responses(it, 2, done=1, Padding="x" * 600_000)
        assert_busy(responses, [200, 429])

    run(test, max_waiting_bytes=1024 * 1024)


def test_response_is_503_when_an_input_is_not_durable_in_time(run: Run) -> None:
    async def test(it: RunningApp) -> None:
        it.app.durable_timeout_s = 0.1
        (response,) = await held_responses(it, 1, done=1)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json() == {"error": "not durable in time; retry"}

    run(test)


def test_response_is_503_while_the_program_stops(run: Run) -> None:
    async def test(it: RunningApp) -> None:
        await it.stop()
        response = await it.post("/v1/events", event("MAC-1"))
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json()["error"].endswith("stopping: try again")

    run(test)


def test_unhandled_exception_gets_500_and_is_logged(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(it: RunningApp) -> None:
        monkeypatch.setattr(it.app, "clock", lambda: 1 / 0)
        response = await it.post("/webhooks/jamf", b"{}", **{"X-Request-Id": "abc"})
        assert response.status_code == 500
        assert response.json() == {"error": "internal error; see the log"}
        (logged,) = (one for one in it.captured.entries if one["event"] == "unhandled exception")
        assert (logged["request_id"], type(logged["exc_info"])) == ("abc", ZeroDivisionError)

    run(test)


def test_probes_and_metrics_respond(run: Run) -> None:
    async def test(it: RunningApp) -> None:
        assert (await it.client.get("/healthz")).json() == {"status": "ok"}
        assert (await it.client.get("/readyz")).json() == {"ready": True}
        assert "drydock_ready 1.0" in (await it.client.get("/metrics")).text

    run(test)


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/nothing", 404, None),
        ("POST", "/webhooks", 404, None),
        ("GET", "/v1/events", 405, "POST"),
        ("DELETE", "/healthz", 405, "GET, HEAD"),
    ],
)
def test_request_without_a_route_gets_a_json_error(
    run: Run, method: str, path: str, status: int, allow: str | None
) -> None:
    async def test(it: RunningApp) -> None:
        response = await it.client.request(method, path, headers={"X-Request-Id": "abc-123"})
        assert response.status_code == status
        assert response.json() == {"error": f"no route for {method} {path}"}
        assert response.headers["x-request-id"] == "abc-123"
        allowed = response.headers.get("allow")
        assert (allowed and ", ".join(sorted(allowed.split(", ")))) == allow
        labels = {"route": "none", "status": str(status)}
        assert it.registry.get_sample_value("drydock_http_requests_total", labels) == 1
        name = "drydock_http_request_duration_seconds_count"
        assert it.registry.get_sample_value(name, {"route": "none"}) == 1

    run(test)


def test_first_refusal_of_a_sender_is_an_increase(run: Run) -> None:
    async def test(it: RunningApp) -> None:
        value = it.registry.get_sample_value
        labels = {"route": "/webhooks/{source}", "status": "401"}
        inputs = {"source": "jamf", "outcome": "unauthorized"}
        assert value("drydock_http_requests_total", labels) == 0
        assert value("drydock_gateway_requests_total", inputs) == 0
        assert (await it.client.post("/webhooks/jamf", content=b"{}")).status_code == 401
        assert value("drydock_http_requests_total", labels) == 1
        assert value("drydock_gateway_requests_total", inputs) == 1
        assert value("drydock_newest_input_timestamp_seconds", {"source": "jamf"}) == 0

    run(test, jamf_secret=SecretStr("jamf-secret"))


def test_request_id_is_kept_or_made(run: Run) -> None:
    async def test(it: RunningApp) -> None:
        given = await it.client.get("/healthz", headers={"X-Request-Id": "abc-123"})
        assert given.headers["x-request-id"] == "abc-123"
        for bad in ("a b", "x" * 65, "a;b"):
            made = await it.client.get("/healthz", headers={"X-Request-Id": bad})
            assert len(made.headers["x-request-id"]) == 32

    run(test)


def test_openapi_document_lists_every_status_of_each_input(run: Run) -> None:
    async def test(it: RunningApp) -> None:
        document = (await it.client.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        inputs = {path: one["post"] for path, one in document["paths"].items() if "post" in one}
        feeds = set() if it.app.feeds is None else {"/v1/feeds/{source}"}
        assert set(inputs) == {"/webhooks/{source}", "/v1/events"} | feeds
        for path, operation in inputs.items():
            statuses = set(operation["responses"]) - ({"400"} if path == "/v1/events" else set())
            assert statuses == {"200", "401", "403", "408", "413", "415", "429", "503"}
        schema = document["components"]["schemas"]["Event"]
        jsonschema.Draft202012Validator.check_schema(schema)
        sample = json.loads(encode(osquery_report("MAC-1", NOW)))
        jsonschema.Draft202012Validator(schema).validate(sample)

    run(test)
