"""Inputs over HTTP in Kafka or in the spool, with the real producer and spool and a fake Kafka."""

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from schemas.dead_letters import DeadLetter
from schemas.envelope import AuthenticatedEvent, CheckedOutEvent, decode, encode
from schemas.topics import CHECKINS, DEAD_LETTERS, INVENTORY
from tests.factories.sites import critical_release, osquery_report
from tests.unit.gateway.apps import HMAC_KEY, NOW, SECRETS, kafka_app, login, signed
from tests.unit.gateway.fakes import FakeKafka, until
from tests.unit.gateway.nanomdm_bodies import UDID, webhook

MAGIC = "PUSH-MAGIC-THAT-IS-SECRET"


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_webhook_is_in_kafka_at_the_response(tmp_path: Path) -> None:
    async def test() -> None:
        async with kafka_app(tmp_path) as it:
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
        async with kafka_app(tmp_path, kafka=FakeKafka(away=True)) as it:
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
        async with kafka_app(tmp_path, kafka=FakeKafka(away=True)) as it:
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
        async with kafka_app(tmp_path, nanomdm_hmac_key=SecretStr(HMAC_KEY)) as it:
            body = webhook("Authenticate", SerialNumber="C02XK0AAJGH5", OSVersion="26.1")
            for _ in range(3):
                response = await it.post("/webhooks/nanomdm", body, **signed(body))
                assert response.status_code == 200
            values = [record.value for record in it.kafka.log if record.topic == CHECKINS.name]
            assert len(values) == 3
            assert len(set(values)) == 1
            assert isinstance(decode(values[0]), AuthenticatedEvent)

    run(test)


def test_events_go_to_their_topics_under_their_keys(tmp_path: Path) -> None:
    async def test() -> None:
        async with kafka_app(tmp_path, **SECRETS) as it:
            release, mac = critical_release("26.2", "25C56", NOW), osquery_report("MAC-1", NOW)
            for one, kind in ((release, "sofa"), (mac, "events")):
                posted = await it.post("/v1/events", encode(one), **login(kind))
                assert posted.json() == {"events": 1, "dead_letters": 0}
            assert [(one.topic, one.key) for one in it.kafka.log] == [
                ("drydock.advisories.v1", release.subject.encode()),
                (INVENTORY.name, b"MAC-1"),
            ]

    run(test)


def test_response_is_503_and_not_ready_while_the_spool_is_full(tmp_path: Path) -> None:
    async def test() -> None:
        kafka = FakeKafka(away=True)
        async with kafka_app(tmp_path, kafka=kafka) as it:
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


def test_metrics_show_the_spool(tmp_path: Path) -> None:
    async def test() -> None:
        async with kafka_app(tmp_path, kafka=FakeKafka(away=True)) as it:
            await it.post("/webhooks/nanomdm", webhook("CheckOut"))
            text = (await it.client.get("/metrics")).text
            assert "drydock_gateway_spool_records 1.0" in text
            assert "drydock_gateway_spooling 1.0" in text
            value = it.registry.get_sample_value
            assert (value("drydock_gateway_spool_bytes") or 0) > 100
            labels = {"topic": CHECKINS.name, "via": "spool"}
            assert value("drydock_gateway_records_total", labels) == 1

    run(test)


@pytest.mark.parametrize(
    ("source", "body", "headers", "outcome"),
    [
        ("jamf", b"{}", {"X-Drydock-Secret": "jamf-secret"}, "accepted"),
        ("jamf", b"{}", {"X-Drydock-Secret": "guess"}, "unauthorized"),
        ("munki", b"{}", {}, "unauthorized"),
        ("jamf", b"x" * 1025, {"X-Drydock-Secret": "jamf-secret"}, "too_large"),
    ],
    ids=["accepted", "wrong secret", "no secret configured", "too large"],
)
def test_request_is_counted_by_its_source_and_outcome(
    tmp_path: Path, source: str, body: bytes, headers: dict[str, str], outcome: str
) -> None:
    async def test() -> None:
        async with kafka_app(
            tmp_path, loopback=False, jamf_secret=SecretStr("jamf-secret"), max_webhook_bytes=1024
        ) as it:
            await it.post(f"/webhooks/{source}", body, **headers)
            assert it.count(source, outcome) == 1

    run(test)


def test_batch_with_an_invalid_event_is_counted_as_rejected(tmp_path: Path) -> None:
    async def test() -> None:
        async with kafka_app(tmp_path) as it:
            await it.post("/v1/events", b"{}")
            assert it.count("events", "rejected") == 1

    run(test)
