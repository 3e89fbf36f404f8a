"""The version that runs: that of a later build, else that of a job which only Jamf denies."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide, evaluate
from pipeline.state.device import Device, to_us
from pipeline.state.device_folds import apply_authenticated, apply_token_updated
from schemas.events.checkin import MdmAuthenticated, MdmTokenUpdated
from schemas.results import Outcome
from tests.factories import DAY, HOUR, NOW, UDID, entry, mac, situation, with_report

DONE = entry(
    "26.2",
    issued_at=NOW - 9 * HOUR,
    outcome=Outcome.SUCCEEDED,
    outcome_at=NOW - 5 * HOUR,
)
UPDATED: dict[str, Any] = {"os_version": "26.2", "build": "25C56"}
OLD: dict[str, Any] = {"os_version": "26.1", "build": "25B78"}


def updated_mac() -> Device:
    return with_report(mac(seen_at=NOW - 10 * HOUR), NOW - 5 * HOUR, "mdm", **UPDATED)


def reenrolled(device: Device) -> Device:
    device = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(NOW - 4 * HOUR))
    return apply_token_updated(
        device, MdmTokenUpdated(udid=UDID, tally=1), to_us(NOW - 4 * HOUR) + 1
    )


def jamf_contact_after_its_record() -> Device:
    return with_report(with_report(updated_mac(), NOW - 2 * HOUR, "jamf", **OLD), NOW, "jamf")


@pytest.mark.parametrize(
    ("device", "reason", "findings"),
    [
        pytest.param(
            with_report(updated_mac(), NOW, "jamf", **OLD),
            "compliant",
            ("version_contradicted",),
            id="jamf-alone",
        ),
        pytest.param(
            with_report(with_report(updated_mac(), NOW - HOUR, "jamf", **OLD), NOW, "mdm"),
            "compliant",
            ("version_contradicted",),
            id="jamf-alone-and-a-later-contact-by-mdm",
        ),
        pytest.param(
            with_report(jamf_contact_after_its_record(), NOW, "mdm"),
            "security_update",
            (),
            id="either-may-have-sent-it",
        ),
        pytest.param(
            with_report(updated_mac(), NOW, "osquery", **OLD),
            "security_update",
            (),
            id="the-mac-itself",
        ),
        pytest.param(
            with_report(reenrolled(updated_mac()), NOW, "jamf", **OLD),
            "security_update",
            (),
            id="erased-since",
        ),
        pytest.param(
            with_report(updated_mac(), NOW + 43 * HOUR, "jamf", **OLD),
            "compliant",
            ("version_contradicted",),
            id="two-days-after-the-job",
        ),
        pytest.param(
            with_report(updated_mac(), NOW + 43 * HOUR + timedelta(seconds=1), "jamf", **OLD),
            "security_update",
            (),
            id="erased-with-jamf-alone",
        ),
        pytest.param(
            with_report(updated_mac(), NOW, "jamf", **UPDATED), "compliant", (), id="same-version"
        ),
    ],
)
def test_reported_version_after_a_confirmed_job(
    device: Device, reason: str, findings: tuple[str, ...]
) -> None:
    found = decide(situation(device, job_history=(DONE,), now=NOW + 2 * DAY))
    assert (found.reason.value, found.findings) == (reason, findings)


def test_contact_by_another_source_is_decided_again() -> None:
    device = with_report(updated_mac(), NOW, "jamf", **OLD)
    assert evaluate(situation(device, job_history=(DONE,))).recheck_on_telemetry


def test_version_without_a_job_is_the_reported_one() -> None:
    device = with_report(updated_mac(), NOW, "jamf", **OLD)
    assert decide(situation(device)).reason.value == "security_update"
    failed = entry("26.2", outcome=Outcome.FAILED, outcome_at=NOW - 9 * DAY)
    assert decide(situation(device, job_history=(failed,))).reason.value == "security_update"


def known_by_builds(*reports: tuple[str | None, str | None]) -> Device:
    """Return a Mac after these reports of version and build, an hour apart."""
    device = mac(None, build=None, seen_at=NOW - 10 * HOUR)
    for hours, (version, build) in enumerate(reports):
        fields = {"os_version": version, "build": build}
        known = {name: text for name, text in fields.items() if text is not None}
        device = with_report(device, NOW - 9 * HOUR + hours * HOUR, **known)
    return device


@pytest.mark.parametrize(
    ("reports", "reason"),
    [
        pytest.param([("16.2", "25C56")], "compliant", id="26-in-an-older-sdk"),
        pytest.param([("16.1", "25B78")], "security_update", id="older-26-in-an-older-sdk"),
        pytest.param([("25.2.0", "25C56")], "compliant", id="kernel's-version"),
        pytest.param([("15.7.3", "25C56")], "compliant", id="build-of-another-line"),
        pytest.param([("26.1", "25B78"), (None, "25C56")], "compliant", id="later-build"),
        pytest.param([("26.2", "25C56"), (None, "25B78")], "security_update", id="older-build"),
        pytest.param([(None, "25C56"), ("26.1", None)], "security_update", id="later-version"),
        pytest.param([("26.2", "25C56"), (None, "25C99")], "compliant", id="unknown-of-the-train"),
        pytest.param([("26.2", "25C56"), (None, "24G99")], "os_unknown", id="of-another-train"),
        pytest.param([("10.16", "20C69")], "os_unknown", id="build-of-no-known-release"),
        pytest.param([("16.2", None)], "os_unknown", id="no-such-macOS"),
        pytest.param([("26.2", "25B78")], "security_update", id="build-of-an-older-release"),
        pytest.param([("26.1", "25C56")], "compliant", id="build-of-a-newer-release"),
        pytest.param([("26.2 (a)", "25C56")], "compliant", id="supplement-beside-its-release"),
    ],
)
def test_a_later_build_shows_the_version(
    reports: list[tuple[str | None, str | None]], reason: str
) -> None:
    assert decide(situation(known_by_builds(*reports))).reason == reason
