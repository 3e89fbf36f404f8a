"""Attacks with events from one sender that is not the MDM channel (A1, A2, A5 to A12, A26, A29)."""

import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from schemas.ids import derive_job_id, event_id
from tests.security.target import Target, envelope, release, report, target


@pytest.mark.parametrize(
    ("subject", "udid"),
    [("Annas Mac", None), ("", None), ("MAC-A1\x1b]0;x\x07", None), ("Annas Mac", "MAC-A1")],
    ids=["no name", "empty", "escape", "another name"],
)
def test_a01_event_without_a_usable_identity_is_refused(
    at: Target, subject: str, udid: str | None
) -> None:
    event = report("MAC-A1", udid=udid, serial=None) | {"subject": subject}
    assert at.refusal(event) in {"no_device", "bad_identity", "bad_shape", "bad_value"}
    assert at.is_ready()
    assert at.mac("MAC-A1") is None


def test_a01_service_starts_again_after_the_attack(tmp_path: Path) -> None:
    with target(tmp_path) as at:
        at.accept(release(), "sofa")
        at.refusal(report("MAC-1", udid=None, serial=None) | {"subject": "Annas Mac"})
        at.accept(report("MAC-1"))
        assert at.service.end(signal.SIGTERM) == 0
    with target(tmp_path) as at:
        assert at.is_ready()
        assert at.status()["devices"] == 1


@pytest.mark.parametrize("source", ["other", "sofa", "admin"])
def test_a02_advisories_are_not_retracted_by_a_sender_of_reports(at: Target, source: str) -> None:
    at.accept(report("MAC-A2"))
    before = at.decision("MAC-A2")
    assert before["cves"]
    retraction = release(source=source) | {
        "type": "drydock.advisory.retracted.v1",
        "time": "9999-12-31T00:00:00Z",
    }
    assert at.refusal(retraction) == "forbidden"
    assert at.decision("MAC-A2") == before


@pytest.mark.parametrize(
    "headers",
    [{}, {"X-Forwarded-For": "203.0.113.9"}, {"Forwarded": "for=203.0.113.9"}, {"Via": "1.1 p"}],
    ids=["alone", "x-forwarded-for", "forwarded", "via"],
)
@pytest.mark.parametrize(
    "path", ["/v1/events", "/webhooks/jamf", "/webhooks/nanomdm", "/v1/feeds/sofa"]
)
def test_a04_source_without_a_secret_is_refused_once_another_has_one(
    at: Target, path: str, headers: dict[str, str]
) -> None:
    response = at.post(path, report("MAC-A4"), None, **headers)
    assert response.status_code in {401, 403}
    assert at.mac("MAC-A4") is None


def test_a05_report_from_the_future_does_not_outrank_a_later_one(at: Target) -> None:
    for year in (9999, 2040):
        at.accept(
            report("MAC-A5", os_version="26.2", build="25C56")
            | _at(datetime(year, 1, 1, tzinfo=UTC))
        )
    hours_ahead = datetime.now(UTC) + timedelta(hours=23)
    at.accept(report("MAC-A5", os_version="26.2", build="25C56") | _at(hours_ahead))
    at.accept(report("MAC-A5"))
    assert at.decision("MAC-A5")["cves"]


def test_a06_id_of_a_future_order_cannot_be_used(at: Target) -> None:
    job = derive_job_id("MAC-A6", "update", "26.2", 0)
    taken = {"source": "/drydock/decide", "id": event_id("issued", job)}
    assert at.refusal(report("MAC-OF-ATTACKER") | taken) == "forbidden"
    assert at.refusal(report("MAC-OF-ATTACKER") | taken, "nanomdm") == "forbidden"
    at.accept(report("MAC-A6"))
    found = at.mac("MAC-A6")
    assert found is not None
    assert found["jobs"][0]["job_id"] == job


def test_a06_id_of_another_senders_event_cannot_be_used(at: Target) -> None:
    honest = report("MAC-A6-B")
    at.accept(
        report("MAC-OF-ATTACKER") | {"source": honest["source"], "id": honest["id"]}, "osquery"
    )
    at.accept(honest)
    assert at.mac("MAC-A6-B") is not None


def test_a07_name_of_another_mac_is_no_enrollment_id_of_a_sender_of_reports(at: Target) -> None:
    at.accept(report("MAC-A7"))
    assert at.refusal(report("MAC-OF-ATTACKER", enrollment_id="MAC-A7")) == "forbidden"
    assert at.decision("MAC-A7")["udid"] == "MAC-A7"


def test_a08_enrollment_is_stated_by_the_mdm_channel_alone(at: Target) -> None:
    at.accept(report("MAC-A8", source="mdm", mdm_enrolled=True), "nanomdm")
    before = at.decision("MAC-A8")
    check_out = envelope("mdm.checked_out", "MAC-A8", {"udid": "MAC-A8"})
    for sender in ("events", "osquery", "sofa"):
        assert at.refusal(check_out, sender) == "forbidden"
        assert at.refusal(report("MAC-A8", mdm_enrolled=False), sender) == "forbidden"
    webhook = {
        "name": "mdm",
        "hostIdentifier": "MAC-A8",
        "unixTime": round(datetime.now(UTC).timestamp()),
        "decorations": {"host_uuid": "MAC-A8"},
        "columns": {"enrolled": "false"},
        "action": "added",
    }
    at.post("/webhooks/osquery", webhook, "osquery")
    assert at.decision("MAC-A8")["action"] == before["action"]


@pytest.mark.parametrize("sender", ["events", "osquery", "nanomdm"])
def test_a09_exploited_release_is_not_invented_by_a_sender_of_reports(
    at: Target, sender: str
) -> None:
    invented = release(os_version="26.9", builds=["25Z99"], exploited_cves=["CVE-2020-0001"]) | _at(
        datetime(2020, 1, 1, tzinfo=UTC)
    )
    assert at.refusal(invented, sender) == "forbidden"


@pytest.mark.parametrize("source", ["sofa", "gdmf", "kev", "admin", "other"])
def test_a10_major_version_is_not_invented_by_a_sender_of_reports(at: Target, source: str) -> None:
    at.accept(report("MAC-A10"))
    before = at.decision("MAC-A10")
    invented = release(os_line="99", os_version="99.9", builds=[], source=source)
    assert at.refusal(invented) == "forbidden"
    assert at.decision("MAC-A10") == before


def test_a26_subject_with_terminal_codes_is_refused(at: Target) -> None:
    event = report("MAC-A26", udid=None, serial=None) | {"subject": "x\x1b[31m\x1b]0;title\x07"}
    assert at.refusal(event) in {"no_device", "bad_identity"}
    assert "\x1b" not in "".join(at.service.log_lines)


def test_a29_loan_returned_in_the_year_1_is_unknown(at: Target) -> None:
    at.accept(report("MAC-A29", loan_returned_at="0001-01-01T00:00:00Z"))
    assert at.decision("MAC-A29")["action"] == "update"


def test_refused_events_are_dead_letters_with_their_sender(tmp_path: Path) -> None:
    with target(tmp_path) as at:
        at.refusal(report("MAC-1", mdm_enrolled=False))
        assert at.status()["dead_letters"] == {"forbidden": 1}
        (line,) = (one for one in at.service.log_lines if "dead-lettered" in one)
        assert "forbidden" in line


def _at(time: datetime) -> dict[str, str]:
    return {"time": time.isoformat()}
