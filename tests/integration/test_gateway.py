"""`drydock gateway` on a real broker, when the gateway or the broker stops, hangs or is killed.

Every webhook with response 200 is in the topic, in the order of its Mac; others get an error.
"""

import base64
import hashlib
import hmac
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from pipeline.state.change import NO_CHANGE
from pipeline.state.fleet import Fleet as State
from schemas.envelope import decode
from schemas.topics import CHECKINS
from tests.bench.outage import outage
from tests.kafka.brokers import KafkaCluster
from tests.kafka.gateways import (
    WAIT_LIMIT_S,
    Fleet,
    Server,
    command_webhook,
    found_of,
    gateway,
    records_of,
)
from tests.kafka.topics import make_topics
from tests.waiting import wait_until

HMAC_KEY = "the-key-of-nanomdm"
SECRETS = {
    "DRYDOCK_NANOMDM_HMAC_KEY": HMAC_KEY,
    "DRYDOCK_JAMF_SECRET": "the-secret-of-jamf",
    "DRYDOCK_EVENTS_SECRET": "the-secret-of-events",
}


@pytest.fixture
def broker(leaky_clients: None, kafka: KafkaCluster) -> Iterator[KafkaCluster]:
    """The broker of the run, which the test may stop and freeze; it runs again afterwards."""
    make_topics(kafka.bootstrap)
    yield kafka
    thaw(kafka)
    kafka.start()


def freeze(kafka: KafkaCluster) -> None:
    """Suspend the broker: connections stay open, and it does not respond."""
    os.kill(kafka._pids[1], signal.SIGSTOP)


def thaw(kafka: KafkaCluster) -> None:
    if kafka.is_running(1):
        os.kill(kafka._pids[1], signal.SIGCONT)


def post(running: Server, path: str, body: bytes, **headers: str) -> httpx.Response:
    return httpx.post(
        f"{running.url}{path}", content=body, headers=headers, trust_env=False, timeout=60
    )


def osquery_log(macs: int) -> bytes:
    """Return a log of osquery with the version of so many Macs."""
    macos = {"name": "macOS", "version": "26.1", "build": "25B78", "platform": "darwin"}
    result = {"name": "os_version", "action": "snapshot", "unixTime": 1768910400}
    udids = [f"5A0C7D9E-0000-4000-8000-{number:012}" for number in range(macs)]
    lines = [result | {"hostIdentifier": udid, "snapshot": [macos]} for udid in udids]
    return "\n".join(map(json.dumps, lines)).encode()


def spools(running: Server, records: int) -> None:
    wait_until(lambda: running.spooled() >= records, WAIT_LIMIT_S, f"no {records} records spooled")


def test_webhooks_with_response_200_while_kafka_is_stopped_are_in_the_topic_in_order(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    fleet = Fleet("STOPPED", macs=20, rate=40)
    result = outage(broker, tmp_path, fleet, seconds=5, around_s=1)
    assert result.is_good, result
    assert (result.answered_otherwise, result.unanswered) == (0, 0)
    assert min(result.durable_by_kafka, result.durable_by_spool, result.deepest_spool) > 0


def test_webhooks_are_accepted_and_not_repeated_while_kafka_hangs(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    fleet = Fleet("FROZEN", macs=20, rate=40)
    with gateway(broker, tmp_path) as running:
        running.settles()
        with fleet.posting(lambda: running.url):
            wait_until(lambda: fleet.statuses[200] > 0, WAIT_LIMIT_S, "nothing is accepted")
            freeze(broker)
            spools(running, 40)
            thaw(broker)
            running.settles()
        running.settles()
    assert set(fleet.statuses) == {200}
    found = found_of(fleet, broker)
    assert (found.missing(fleet), found.disordered(fleet), found.duplicates) == ([], [], 0)


def test_no_webhook_is_lost_when_the_gateway_is_killed_while_it_sends_its_spool(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    fleet = Fleet("KILLED", macs=20, rate=40)
    url = "http://127.0.0.1:1"
    freeze(broker)
    with fleet.posting(lambda: url):
        for records in (20, 40):
            with gateway(broker, tmp_path) as running:
                url = running.url
                spools(running, records)
                running.end(signal.SIGKILL)
        with gateway(broker, tmp_path) as running:
            before = running.spooled()
            assert before >= 40
            thaw(broker)
            wait_until(lambda: running.spooled() < before, WAIT_LIMIT_S, "spool is not sent")
            running.end(signal.SIGKILL)
        with gateway(broker, tmp_path) as running:
            url = running.url
            running.settles()
        assert running.process.returncode is not None
    assert set(fleet.statuses) == {200, None}
    found = found_of(fleet, broker)
    assert (found.missing(fleet), found.disordered(fleet)) == ([], [])


def test_invalid_credentials_are_refused_and_a_replayed_body_changes_nothing(
    broker: KafkaCluster, tmp_path: Path
) -> None:
    def signature(body: bytes, key: str = HMAC_KEY) -> str:
        return base64.b64encode(hmac.digest(key.encode(), body, hashlib.sha256)).decode()

    body, other = command_webhook("SIGNED-1", 1), command_webhook("SIGNED-1", 2)
    too_large = b" " * 4096 + body
    jamf = base64.b64encode(b"jamf:the-secret-of-jamf").decode()
    limits = {"DRYDOCK_MAX_WEBHOOK_BYTES": "4096"}
    with gateway(broker, tmp_path, **SECRETS, **limits) as running:
        tried = {
            "no signature": post(running, "/webhooks/nanomdm", body),
            "signature of another body": post(
                running, "/webhooks/nanomdm", body, **{"X-Hmac-Signature": signature(other)}
            ),
            "signature by another key": post(
                running, "/webhooks/nanomdm", body, **{"X-Hmac-Signature": signature(body, "other")}
            ),
            "too large": post(
                running,
                "/webhooks/nanomdm",
                too_large,
                **{"X-Hmac-Signature": signature(too_large)},
            ),
            "Basic of another sender": post(
                running, "/v1/events", b"{}", Authorization=f"Basic {jamf}"
            ),
            "Basic": post(running, "/webhooks/jamf", b"{}", Authorization=f"Basic {jamf}"),
            "source without a secret": post(running, "/webhooks/munki", b"{}"),
            "header": post(
                running, "/v1/events", b"", **{"X-Drydock-Secret": "the-secret-of-events"}
            ),
        }
        assert {name: response.status_code for name, response in tried.items()} == {
            "no signature": 401,
            "signature of another body": 401,
            "signature by another key": 401,
            "too large": 413,
            "Basic of another sender": 400,
            "Basic": 200,
            "source without a secret": 403,
            "header": 400,
        }
        for _ in range(2):
            again = post(
                running, "/webhooks/nanomdm", body, **{"X-Hmac-Signature": signature(body)}
            )
            assert again.status_code == 200
        assert running.end() == 0
    assert [line["event"] for line in running.log() if line["level"] == "error"] == []
    once, twice = records_of(broker, "SIGNED-1", CHECKINS)
    state = State()
    assert state.apply(decode(once)) != NO_CHANGE
    assert state.apply(decode(twice)) == NO_CHANGE


def test_webhooks_beyond_the_limits_get_retry_after(broker: KafkaCluster, tmp_path: Path) -> None:
    limits = {"DRYDOCK_MAX_WAITING": "1", "DRYDOCK_SPOOL_MAX_BYTES": str(1024 * 1024)}
    with gateway(broker, tmp_path, **limits) as running, ThreadPoolExecutor(3) as threads:
        running.settles()
        freeze(broker)
        # The first waits for Kafka, then for the disk; no other call may wait.
        bodies = [command_webhook(f"CROWD-{number}", 1) for number in range(3)]
        crowd = [*threads.map(lambda body: post(running, "/webhooks/nanomdm", body), bodies)]
        assert sorted(response.status_code for response in crowd) == [200, 429, 429]
        assert {response.headers.get("Retry-After") for response in crowd} == {None, "1"}
        # About 50 kB in the spool.
        large = osquery_log(50)
        responses = [post(running, "/webhooks/osquery", large) for _ in range(40)]
        statuses = [response.status_code for response in responses]
        assert statuses == sorted(statuses)
        assert set(statuses) == {200, 503}
        assert responses[-1].headers["Retry-After"] == "30"
        assert httpx.get(f"{running.url}/readyz", trust_env=False).status_code == 503
        thaw(broker)
        running.settles()
        assert httpx.get(f"{running.url}/readyz", trust_env=False).status_code == 200
        assert post(running, "/webhooks/osquery", large).status_code == 200
        assert running.end() == 0


def test_missing_topics_are_reported_and_records_wait_for_them(
    empty_kafka: KafkaCluster, tmp_path: Path
) -> None:
    fleet = Fleet("EARLY", macs=1, rate=20)
    with gateway(empty_kafka, tmp_path) as running:
        with fleet.posting(lambda: running.url):
            spools(running, 3)

        def is_logged() -> bool:
            return any("drydock.inventory.v1" in str(line.get("detail")) for line in running.log())

        wait_until(is_logged, WAIT_LIMIT_S, "the missing topic is not named")
        make_topics(empty_kafka.bootstrap)
        running.settles()
        assert running.end() == 0
    found = found_of(fleet, empty_kafka)
    assert (found.missing(fleet), found.disordered(fleet)) == ([], [])
