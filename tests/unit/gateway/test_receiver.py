"""Responses of the receiver, with the real producer and spool and a fake Kafka."""

import asyncio
import base64
import hashlib
import hmac
import json
import plistlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import structlog
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from pipeline.config import GatewaySettings
from pipeline.gateway import payloads
from pipeline.gateway.authentication import Authenticator
from pipeline.gateway.delivery import StoreAndForwardProducer
from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.receiver import Receiver
from pipeline.gateway.spool import Spool
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import TRANSLATORS
from schemas.dead_letters import DeadLetter
from schemas.envelope import AuthenticatedEvent, CheckedOutEvent, TokenUpdatedEvent, decode, encode
from schemas.topics import CHECKINS, DEAD_LETTERS, INVENTORY
from tests.factories.sites import critical_release, osquery_report
from tests.unit.gateway.fakes import ACK_WAIT_S, FakeKafka, until

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
UDID = "5A0C7D9E-0000-4000-8000-000000000001"
HMAC_KEY = "wh-hmac-secret"
MAGIC = "PUSH-MAGIC-THAT-IS-SECRET"


def webhook(kind: str, udid: str = UDID, **message: Any) -> bytes:
    """Return NanoMDM's webhook for a check-in."""
    payload = {"MessageType": kind, "UDID": udid, "Topic": "com.apple.mgmt.x", **message}
    raw = base64.b64encode(plistlib.dumps(payload)).decode()
    return json.dumps(
        {
            "topic": f"mdm.{kind}",
            "event_id": "7436be8b6fcc457a",
            "created_at": "2026-11-20T11:59:00.123456789Z",
            "checkin_event": {
                "ids": {"id": udid, "type": "Device"},
                "udid": udid,
                "raw_payload": raw,
                **({"token_update_tally": 1} if kind == "TokenUpdate" else {}),
            },
        }
    ).encode()


def signed(body: bytes) -> dict[str, str]:
    digest = hmac.new(HMAC_KEY.encode(), body, hashlib.sha256).digest()
    return {"X-Hmac-Signature": base64.b64encode(digest).decode()}


@dataclass
class RunningReceiver:
    """A running receiver with an HTTP client, its spool, Kafka, metrics and log."""

    client: httpx.AsyncClient
    kafka: FakeKafka
    spool: Spool
    registry: CollectorRegistry
    captured: Any

    def count(self, source: str, outcome: str) -> float | None:
        labels = {"source": source, "outcome": outcome}
        return self.registry.get_sample_value("drydock_gateway_requests_total", labels)

    async def post(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        return await self.client.post(path, content=body, headers=headers)


@asynccontextmanager
async def serving(
    folder: Path, *, kafka: FakeKafka | None = None, loopback: bool = True, **settings: Any
) -> AsyncIterator[RunningReceiver]:
    kafka = kafka or FakeKafka()
    chosen = GatewaySettings(**settings)
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    captured = structlog.testing.LogCapture()
    log = structlog.wrap_logger(structlog.ReturnLogger(), processors=[captured])
    spool = Spool(folder, max_bytes=chosen.spool_max_bytes)
    metrics.expose_spool(spool)
    producer = StoreAndForwardProducer(
        kafka.connect,
        spool,
        metrics,
        log,
        max_waiting=chosen.max_waiting,
        ack_wait_s=ACK_WAIT_S,
    )
    receiver = Receiver(
        producer,
        Authenticator(chosen, loopback),
        chosen,
        Redactor(b"0123456789abcdef"),
        metrics,
        log,
        lambda: NOW,
    )
    task = asyncio.create_task(producer.run())
    transport = httpx.ASGITransport(receiver.app(with_metrics=True))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        if not kafka.away:
            await until(lambda: not producer.spooling)
        try:
            yield RunningReceiver(client, kafka, spool, registry, captured)
        finally:
            producer.stop()
            await task


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_webhook_is_in_kafka_at_the_response(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as it:
            response = await it.post("/webhooks/nanomdm", webhook("CheckOut"))
            assert (response.status_code, response.json()) == (
                200,
                {"events": 1, "dead_letters": 0},
            )
            (record,) = it.kafka.log
            assert (record.topic, record.key) == (CHECKINS.name, UDID.encode())
            assert isinstance(decode(record.value), CheckedOutEvent)
            assert it.count("nanomdm", "accepted") == 1

    run(test)


def test_webhook_is_on_disk_at_the_response_while_kafka_is_away(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, kafka=FakeKafka(away=True)) as it:
            response = await it.post("/webhooks/nanomdm", webhook("CheckOut"))
            assert response.status_code == 200
            assert (it.spool.depth, it.kafka.log) == (1, [])
            assert (await it.client.get("/readyz")).status_code == 200
            it.kafka.come_back()
            await until(lambda: len(it.kafka.log) == 1)

    run(test)


def test_secrets_are_in_neither_kafka_nor_spool(tmp_path: Path) -> None:
    message: dict[str, Any] = {
        "PushMagic": MAGIC,
        "Token": b"push-token-bytes",
        "UnlockToken": b"unlock",
    }

    async def test() -> None:
        async with serving(tmp_path, kafka=FakeKafka(away=True)) as it:
            body = webhook("TokenUpdate", **message)
            assert (await it.post("/webhooks/nanomdm", body)).status_code == 200
            odd = webhook("Unknown", **message)
            assert (await it.post("/webhooks/nanomdm", odd)).json()["dead_letters"] == 1
            spooled = b"".join(path.read_bytes() for path in tmp_path.iterdir())
            it.kafka.come_back()
            await until(lambda: it.spool.depth == 0)
            sent = b"".join(record.value for record in it.kafka.log)
        letters = [one.value for one in it.kafka.log if one.topic == DEAD_LETTERS.name]
        assert len(letters) == 2
        for one in letters:
            kept = base64.b64decode(DeadLetter.model_validate_json(one).raw or "")
            sent += kept + base64.b64decode(json.loads(kept)["checkin_event"]["raw_payload"])
        assert b"<key>PushMagic</key>" in sent
        for found in (spooled, sent):
            for secret in (MAGIC.encode(), b"push-token-bytes", base64.b64encode(b"unlock")):
                assert secret not in found
                assert base64.b64encode(secret).strip(b"=") not in found

    run(test)


def test_replayed_body_gives_the_same_event(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, nanomdm_hmac_key=SecretStr(HMAC_KEY)) as it:
            body = webhook("Authenticate", SerialNumber="C02XK0AAJGH5", OSVersion="26.1")
            for _ in range(3):
                response = await it.post("/webhooks/nanomdm", body, **signed(body))
                assert response.status_code == 200
            values = [record.value for record in it.kafka.log if record.topic == CHECKINS.name]
            assert len(values) == 3
            assert len(set(values)) == 1
            assert isinstance(decode(values[0]), AuthenticatedEvent)

    run(test)


def test_unusable_payload_becomes_a_durable_dead_letter(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as it:
            response = await it.post("/webhooks/jamf", b"<xml?>not json")
            assert (response.status_code, response.json()) == (
                200,
                {"events": 0, "dead_letters": 1},
            )
            (record,) = it.kafka.log
            letter = DeadLetter.model_validate_json(record.value)
            assert (record.topic, record.key.decode()) == (DEAD_LETTERS.name, letter.raw_sha256)
            assert (letter.source, letter.origin) == ("jamf", "webhook/jamf")

    run(test)


def test_payload_becomes_a_dead_letter_when_its_translation_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("our bug")

    monkeypatch.setattr(payloads, "TRANSLATORS", {**TRANSLATORS, "nanomdm": broken})

    async def test() -> None:
        async with serving(tmp_path) as it:
            body = webhook("CheckOut")
            assert (await it.post("/webhooks/nanomdm", body)).json()["dead_letters"] == 1
            letter = DeadLetter.model_validate_json(it.kafka.log[0].value)
            assert (letter.code, letter.raw_size) == ("bug", len(body))
            assert json.loads(base64.b64decode(letter.raw or ""))["topic"] == "mdm.CheckOut"
            assert it.captured.entries[-1]["log_level"] == "error"

    run(test)


def test_events_go_to_their_topics_under_their_keys(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as it:
            release, mac = critical_release("26.2", "25C56", NOW), osquery_report("MAC-1", NOW)
            body = encode(release) + b"\n" + encode(mac)
            assert (await it.post("/v1/events", body)).json() == {"events": 2, "dead_letters": 0}
            assert [(one.topic, one.key) for one in it.kafka.log] == [
                ("drydock.advisories.v1", release.subject.encode()),
                (INVENTORY.name, b"MAC-1"),
            ]

    run(test)


def test_one_bad_event_rejects_its_batch(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as it:
            body = encode(osquery_report("MAC-1", NOW)) + b'\n{"type":"x"}'
            response = await it.post("/v1/events", body)
            assert response.status_code == 400
            assert response.json()["errors"][0]["where"] == "line 2: $"
            assert it.kafka.log == []
            assert it.count("events", "rejected") == 1

    run(test)


REFUSED: dict[str, tuple[str, bytes, dict[str, str], int, str]] = {
    "no signature": ("nanomdm", webhook("CheckOut"), {}, 401, "unauthorized"),
    "signature of another body": (
        "nanomdm",
        webhook("CheckOut"),
        signed(b"{}"),
        401,
        "unauthorized",
    ),
    "wrong secret": ("jamf", b"{}", {"X-Drydock-Secret": "guess"}, 401, "unauthorized"),
    "no secret configured": ("munki", b"{}", {}, 403, "unauthorized"),
    "too large": ("jamf", b"x" * 1025, {"X-Drydock-Secret": "jamf-secret"}, 413, "too_large"),
    "packed": (
        "jamf",
        b"x",
        {"X-Drydock-Secret": "jamf-secret", "Content-Encoding": "gzip"},
        415,
        "encoded",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_request_is_refused(tmp_path: Path, case: str) -> None:
    source, body, headers, status, outcome = REFUSED[case]

    async def test() -> None:
        async with serving(
            tmp_path,
            loopback=False,
            nanomdm_hmac_key=SecretStr(HMAC_KEY),
            jamf_secret=SecretStr("jamf-secret"),
            max_webhook_bytes=1024,
        ) as it:
            response = await it.post(f"/webhooks/{source}", body, **headers)
            assert response.status_code == status
            assert it.count(source, outcome) == 1
            assert it.kafka.log == []
            assert len(response.headers["x-request-id"]) == 32

    run(test)


def test_endless_body_is_refused_at_the_size_limit(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 512

    async def test() -> None:
        async with serving(tmp_path, max_webhook_bytes=1024) as it:
            response = await it.client.post("/webhooks/jamf", content=endless())
            assert response.status_code == 413

    run(test)


def test_response_is_503_and_not_ready_while_the_spool_is_full(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka(away=True)
        async with serving(tmp_path, kafka=kafka) as it:
            assert (await it.post("/webhooks/nanomdm", webhook("CheckOut"))).status_code == 200
            it.spool.max_bytes = it.spool.size
            response = await it.post("/webhooks/nanomdm", webhook("CheckOut", "MAC-2"))
            assert (response.status_code, response.headers["retry-after"]) == (503, "30")
            assert (await it.client.get("/readyz")).status_code == 503
            assert (await it.client.get("/healthz")).status_code == 200
            kafka.come_back()
            await until(lambda: it.spool.depth == 0)
            assert (await it.client.get("/readyz")).status_code == 200
            assert len(kafka.log) == 1

    run(test)


def test_response_is_429_when_too_many_requests_wait(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, max_waiting=1) as it:
            it.kafka.go_away()
            bodies = [webhook("CheckOut", f"MAC-{number}") for number in range(3)]
            responses = await asyncio.gather(*(it.post("/webhooks/nanomdm", b) for b in bodies))
            statuses = sorted(one.status_code for one in responses)
            assert statuses == [200, 429, 429]
            assert {one.headers.get("retry-after") for one in responses} == {None, "1"}

    run(test)


def test_response_is_429_when_bodies_exceed_the_memory_limit(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, max_waiting_bytes=1024 * 1024) as it:
            it.kafka.go_away()
            body = webhook("CheckOut", Padding="x" * 600_000)
            responses = await asyncio.gather(*(it.post("/webhooks/nanomdm", body) for _ in "ab"))
            assert sorted(one.status_code for one in responses) == [200, 429]

    run(test)


def test_metrics_show_the_spool(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, kafka=FakeKafka(away=True)) as it:
            await it.post("/webhooks/nanomdm", webhook("CheckOut"))
            text = (await it.client.get("/metrics")).text
            assert "drydock_gateway_spool_records 1.0" in text
            assert "drydock_gateway_spooling 1.0" in text
            value = it.registry.get_sample_value
            assert (value("drydock_gateway_spool_bytes") or 0) > 100
            labels = {"topic": CHECKINS.name, "via": "spool"}
            assert value("drydock_gateway_records_total", labels) == 1

    run(test)


def test_openapi_document_lists_every_status_of_a_webhook(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as it:
            document = (await it.client.get("/openapi.json")).json()
        assert document["openapi"] == "3.1.0"
        responses = document["paths"]["/webhooks/{source}"]["post"]["responses"]
        assert set(responses) == {"200", "401", "403", "408", "413", "415", "429", "503"}
        event = document["components"]["schemas"]["Event"]
        jsonschema.Draft202012Validator.check_schema(event)
        sample = json.loads(encode(osquery_report("MAC-1", NOW)))
        jsonschema.Draft202012Validator(event).validate(sample)

    run(test)


def test_token_update_keeps_its_tally(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as it:
            await it.post("/webhooks/nanomdm", webhook("TokenUpdate", PushMagic=MAGIC))
            event = decode(it.kafka.log[0].value)
            assert isinstance(event, TokenUpdatedEvent)

    run(test)
