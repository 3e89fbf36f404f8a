"""Routes of the embedded form only, with a real service: feeds, operators, and a failing disk."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from pipeline.embedded import control_events, operator_requests
from pipeline.embedded.log import Log
from pipeline.embedded.service import Service
from pipeline.gateway import payloads
from pipeline.ingest.sources import TRANSLATORS
from pipeline.ingest.translation import Translation
from schemas.decisions import Decision, Reason, Verdict
from schemas.envelope import encode
from schemas.jobs import Action
from tests.embedded_world import POLICY
from tests.factories.sites import (
    APPROVALS_KEY,
    STRANGER_KEY,
    critical_release,
    osquery_report,
)
from tests.factories.sofa import feed, line, release
from tests.unit.gateway.apps import ADMIN_TOKEN, SECRETS, SqliteApp, login, sqlite_app
from tests.unit.gateway.fakes import until

TOKEN = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
NOW = datetime.now(UTC)
MAC: dict[str, Any] = {"os_version": "26.1", "build": "25B78", "model": "Mac14,2"}
RELEASE = encode(critical_release("26.2", "25C56", NOW))


def run(
    folder: Path, test: Callable[[SqliteApp], Coroutine[Any, Any, None]], **settings: Any
) -> None:
    """Run a test with the application of a service whose policy is POLICY."""

    async def inside() -> None:
        async with sqlite_app(
            folder, policy=POLICY, clock=lambda: datetime.now(UTC), **settings
        ) as it:
            await test(it)

    asyncio.run(inside())


def event(udid: str, **fields: Any) -> bytes:
    return encode(osquery_report(udid, NOW, **MAC, **fields))


def test_dead_letter_of_a_translator_bug_replays_once_the_bug_is_fixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(it: SqliteApp) -> None:
        client = it.client
        payload = {"webhook": {"webhookEvent": "ComputerInventoryCompleted"}, "event": {}}

        def broken(*_: Any, **__: Any) -> Any:
            raise LookupError("our bug")

        monkeypatch.setattr(payloads, "TRANSLATORS", {**TRANSLATORS, "jamf": broken})
        assert (await client.post("/webhooks/jamf", json=payload)).json()["dead_letters"] == 1
        assert (await client.post("/v1/dead-letters/1/replay", headers=TOKEN)).status_code == 409

        def fixed(raw: bytes, **_: Any) -> Any:
            assert json.loads(raw) == payload
            return Translation(events=(osquery_report("MAC-9", NOW, **MAC),))

        monkeypatch.setattr(payloads, "TRANSLATORS", {**TRANSLATORS, "jamf": fixed})
        response = await client.post("/v1/dead-letters/1/replay", headers=TOKEN)
        assert response.json() == {"replayed": 1, "events": 1}
        assert "MAC-9" in it.logged()
        with Log.open(it.data_dir) as log:
            assert log.dead_letter_counts() == {}
        assert (await client.post("/v1/dead-letters/1/replay", headers=TOKEN)).status_code == 409
        assert (await client.post("/v1/dead-letters/7/replay", headers=TOKEN)).status_code == 404

    run(tmp_path, test)


def test_feed_is_compared_with_its_last_document(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        client = it.client
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
        first = await client.post("/v1/feeds/kev", json=kev)
        dated = {"document_at": "2026-08-05T12:00:00+00:00"}
        assert first.json() == dated | {"outcome": "accepted", "events": 1, "dead_letters": 0}
        unchanged = dated | {"outcome": "unchanged", "events": 0, "dead_letters": 0}
        assert (await client.post("/v1/feeds/kev", json=kev)).json() == unchanged
        for letters in (1, 0):
            refused = (await client.post("/v1/feeds/kev", content=b"{")).json()
            assert (refused["outcome"], refused["dead_letters"]) == ("unreadable", letters)
            assert "line 1 column 2" in refused["refused"]
        assert (await client.post("/v1/feeds/kev", json=kev)).json() == unchanged
        assert len(it.logged()) == 2  # the policy and the CVE

    run(tmp_path, test)


def test_feed_that_lost_entries_is_accepted_only_with_accept_losses(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        client = it.client
        entry = {"cveID": "CVE-2025-14174", "vendorProject": "Google", "dateAdded": "2025-12-12"}
        kev = {"vulnerabilities": [entry] * 3}
        assert (await client.post("/v1/feeds/kev", json=kev)).json()["events"] == 0
        releases = feed(line("Tahoe 26", release("26.2", exploited=("CVE-2025-14174",))))
        assert (await client.post("/v1/feeds/sofa", content=releases)).json()["events"] == 1
        # SOFA lists the CVE, so it is Apple's although CISA names Google.
        assert (await client.post("/v1/feeds/kev", json=kev)).json()["events"] == 1
        less = {"vulnerabilities": [entry]}
        assert (await client.post("/v1/feeds/kev", json=less)).json()["outcome"] == "truncated"
        accepted = await client.post("/v1/feeds/kev?accept=losses", json=less)
        assert accepted.json()["outcome"] == "unchanged"
        assert "CVE-2025-14174" in it.logged()

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/feeds/apple", 404),
        ("GET", "/v1/status", 401),
        ("GET", "/v1/devices/MAC-1", 401),
        ("POST", "/v1/halts", 401),
        ("DELETE", "/v1/halts/all", 401),
        ("POST", "/v1/approvals", 401),
        ("POST", "/v1/attempts/resets", 401),
        ("POST", "/v1/dead-letters/1/replay", 401),
    ],
)
def test_request_has_the_expected_status(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async def test(it: SqliteApp) -> None:
        assert (await it.client.request(method, path)).status_code == status

    run(tmp_path, test)


def test_halts_are_set_listed_and_cleared(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        client = it.client
        request = {"scope": "site:london", "by": "me", "why": "a fire drill"}
        assert (await client.post("/v1/halts", json=request, headers=TOKEN)).json() == {
            "halted": "site:london"
        }
        assert (await client.get("/v1/status", headers=TOKEN)).json()["halts"] == ["site:london"]
        cleared = await client.delete("/v1/halts/site:london?by=me", headers=TOKEN)
        assert cleared.json() == {"resumed": "site:london"}
        assert (await client.get("/v1/status", headers=TOKEN)).json()["halts"] == []
        assert (await client.delete("/v1/halts/site:london", headers=TOKEN)).status_code == 404

    run(tmp_path, test)


def test_halt_of_an_unknown_site_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        request = {"scope": "site:lodnon", "by": "me"}
        refused = await it.client.post("/v1/halts", json=request, headers=TOKEN)
        assert refused.status_code == 404
        assert "did you mean 'london'? the sites are " in refused.text
        assert (await it.client.get("/v1/status", headers=TOKEN)).json()["halts"] == []

    run(tmp_path, test)


def test_halt_of_an_unknown_advisory_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        request = {"scope": "advisory:macos-26.3", "by": "me"}
        # Before the first release is known, every name is taken.
        assert (await it.client.post("/v1/halts", json=request, headers=TOKEN)).status_code == 200
        posted = await it.client.post("/v1/events", content=RELEASE, headers=login("sofa"))
        assert posted.is_success
        refused = await it.client.post("/v1/halts", json=request, headers=TOKEN)
        assert refused.status_code == 404
        assert "did you mean 'macOS-26.2'?" in refused.text
        known = {"scope": "advisory:macOS-26.2", "by": "me"}
        assert (await it.client.post("/v1/halts", json=known, headers=TOKEN)).status_code == 200

    run(tmp_path, test, **SECRETS)


def test_halt_that_is_over_is_refused(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        request = {"scope": "all", "by": "me", "until": "2020-01-01T00:00:00Z"}
        refused = await it.client.post("/v1/halts", json=request, headers=TOKEN)
        assert refused.status_code == 400
        assert "until: 2020-01-01T00:00:00+00:00 is not in the future" in refused.text
        assert (await it.client.get("/v1/status", headers=TOKEN)).json()["halts"] == []

    run(tmp_path, test)


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
def test_invalid_halt_gets_400(tmp_path: Path, body: bytes) -> None:
    async def test(it: SqliteApp) -> None:
        client = it.client
        assert (await client.post("/v1/halts", content=body, headers=TOKEN)).status_code == 400

    run(tmp_path, test)


RESETS = [
    ({"scope": "all"}, 200, "all"),
    ({"scope": "site:london", "cause": "unreachable"}, 200, "site:london"),
    ({"scope": "c02mac-1"}, 200, "device:MAC-1"),
    ({"scope": "site:berln"}, 404, "no site 'berln'; the sites are london"),
    ({"scope": "C02UNKNOWN"}, 404, "no Mac is known as 'C02UNKNOWN'"),
    ({"scope": "site:NO SITE"}, 400, "'site:NO SITE' is not a scope"),
    ({"scope": "all", "cause": "rain"}, 400, "cause: "),
    ({"scope": "all", "why": ""}, 400, "why: "),
]


@pytest.mark.parametrize(("fields", "status", "text"), RESETS)
def test_reset_of_attempts_names_a_known_scope_and_cause(
    tmp_path: Path, fields: dict[str, str], status: int, text: str
) -> None:
    async def test(it: SqliteApp) -> None:
        body = event("MAC-1")
        assert (await it.client.post("/v1/events", content=body)).status_code == 200
        request = {"by": "me", "why": "the cable is replaced"} | fields
        response = await it.client.post("/v1/attempts/resets", json=request, headers=TOKEN)
        assert response.status_code == status
        assert text in response.text
        assert len(it.logged()) == (3 if status == 200 else 2)

    run(tmp_path, test)


@pytest.mark.parametrize(("key", "status"), [(APPROVALS_KEY, 409), (STRANGER_KEY, 403)])
def test_approval_of_an_unknown_mac_is_refused_with_any_key(
    tmp_path: Path, key: Any, status: int
) -> None:
    async def test(it: SqliteApp) -> None:
        client = it.client
        decision = Decision(
            udid="MAC-1",
            decision=Verdict.HOLD,
            action=Action.REINSTALL,
            reason=Reason.AWAITING_APPROVAL,
            job_id="job-1",
        )
        granted = control_events.approval_granted(decision, "me", NOW, timedelta(days=1), key)
        response = await client.post("/v1/approvals", content=encode(granted), headers=TOKEN)
        assert response.status_code == status
        assert (
            await client.post("/v1/approvals", content=event("M"), headers=TOKEN)
        ).status_code == 400

    run(tmp_path, test)


def test_mac_is_found_by_its_serial_number_in_any_case(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        client = it.client
        await client.post("/v1/events", content=RELEASE, headers=login("sofa"))
        await client.post("/v1/events", content=event("MAC-1"), headers=login("events"))
        found = (await client.get("/v1/devices/c02mac-1", headers=TOKEN)).json()
        assert found["udid"] == "MAC-1"
        assert found["decision"]["udid"] == "MAC-1"
        assert len(found["jobs"]) == 1
        assert (await client.get("/v1/devices/MAC-2", headers=TOKEN)).status_code == 404

    run(tmp_path, test, **SECRETS)


def test_metrics_are_openmetrics_with_the_expected_counts(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        client = it.client
        await client.post("/v1/events", content=RELEASE, headers=login("sofa"))
        await client.post("/v1/events", content=event("MAC-1"), headers=login("events"))
        await client.post("/v1/events", content=event("MAC-1"), headers=login("events"))
        await client.post("/webhooks/nanomdm", content=b"{", headers=login("nanomdm"))
        scraped = await client.get("/metrics", headers={"Accept": "application/openmetrics-text"})
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
        assert samples["drydock_decision_latency_seconds_count",] >= 1
        assert samples["drydock_job_latency_seconds_count",] == 1
        assert samples["drydock_newest_input_timestamp_seconds", "events"] > 0
        assert samples["drydock_gateway_requests_total", "accepted", "events"] == 3
        assert samples["drydock_halts", "all"] == 0
        assert samples["drydock_ready",] == 1

    run(tmp_path, test, **SECRETS)


def test_operator_gets_429_when_too_many_requests_wait(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        it.hold()
        waiting = it.service_thread.ask(lambda *_: "done")
        full = await it.client.get("/v1/status", headers=TOKEN)
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")
        it.release()
        assert waiting.result(30) == "done"
        assert (await it.client.get("/v1/status", headers=TOKEN)).status_code == 200

    run(tmp_path, test, max_waiting=1)


def test_operator_gets_503_when_the_service_does_not_respond_in_time(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        it.app.durable_timeout_s = 0.1
        it.hold()
        late = await it.client.get("/v1/status", headers=TOKEN)
        assert (late.status_code, late.json()["error"]) == (503, "no response in time; retry")
        late = await it.client.delete("/v1/halts/all", headers=TOKEN)
        assert (late.status_code, late.json()["error"]) == (503, "not durable in time; retry")
        it.release()

    run(tmp_path, test)


def test_body_of_an_operator_over_the_limit_is_refused(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        body = b"x" * (operator_requests.MAX_BYTES + 1)
        assert (await it.post("/v1/halts", body, **TOKEN)).status_code == 413

    run(tmp_path, test)


def test_full_disk_gets_503_and_the_service_is_opened_again(tmp_path: Path) -> None:
    async def test(it: SqliteApp) -> None:
        def fill(service: Service, _: datetime) -> None:
            (pages,) = service.store._db.execute("PRAGMA page_count").fetchone()
            service.store._db.execute(f"PRAGMA max_page_count={pages}")

        it.service_thread.ask(fill).result(30)
        many = b"\n".join(event(f"MAC-{number}") for number in range(60))
        full = await it.post("/v1/events", many)
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        await until(lambda: not it.service_thread.ready)
        assert (await it.client.get("/readyz")).status_code == 503
        # The limit of pages ends with the connection: after reopening, writes succeed.
        await until(lambda: it.service_thread.ready)
        assert (await it.post("/v1/events", many)).status_code == 200
        assert it.logged().count("MAC-1") == 1
        assert any(entry["log_level"] == "error" for entry in it.captured.entries)

    run(tmp_path, test)
