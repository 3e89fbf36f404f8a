"""A version that only Jamf's record reports does not undo the installation that a job confirmed."""

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
            with_report(updated_mac(), NOW, "jamf", **UPDATED), "compliant", (), id="same-version"
        ),
    ],
)
def test_reported_version_after_a_confirmed_job(
    device: Device, reason: str, findings: tuple[str, ...]
) -> None:
    found = decide(situation(device, job_history=(DONE,)))
    assert (found.reason.value, found.findings) == (reason, findings)


def test_contact_by_another_source_is_decided_again() -> None:
    device = with_report(updated_mac(), NOW, "jamf", **OLD)
    assert evaluate(situation(device, job_history=(DONE,))).recheck_on_telemetry


def test_version_without_a_job_is_the_reported_one() -> None:
    device = with_report(updated_mac(), NOW, "jamf", **OLD)
    assert decide(situation(device)).reason.value == "security_update"
    failed = entry("26.2", outcome=Outcome.FAILED, outcome_at=NOW - 9 * DAY)
    assert decide(situation(device, job_history=(failed,))).reason.value == "security_update"
