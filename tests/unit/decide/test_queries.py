"""The queries that a Mac needs, and the time from which each counts."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline.decide.queries import EVERY, OPEN_JOB_EVERY, query_needs
from pipeline.state.device import Device, duration_us, to_us
from pipeline.state.device_folds import apply_token_updated
from schemas.events.checkin import MdmTokenUpdated
from schemas.jobs import Action
from schemas.queries import QueryKind
from schemas.results import Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    entry,
    mac,
    policy,
    situation,
    with_report,
)

PERSONAL = apply_token_updated(
    mac(), MdmTokenUpdated(udid=UDID, enrollment_type="User Enrollment (Device)"), to_us(NOW)
)
INFORMATION, SECURITY = QueryKind.DEVICE_INFORMATION, QueryKind.SECURITY_INFO
CERTIFICATES = QueryKind.CERTIFICATE_LIST
DAILY = dict.fromkeys((INFORMATION, SECURITY, CERTIFICATES), DAY)


def every(needs: Any) -> dict[QueryKind, timedelta]:
    return {need.kind: timedelta(microseconds=need.every_us) for need in needs}


def test_enrolled_mac_needs_every_query_once_a_day() -> None:
    assert every(query_needs(situation(mac()))) == DAILY


def test_open_job_makes_only_the_query_of_the_version_urgent() -> None:
    needs = query_needs(situation(mac(), job_history=(entry(),)))
    assert every(needs) == {INFORMATION: OPEN_JOB_EVERY, SECURITY: EVERY, CERTIFICATES: EVERY}
    assert [need.kind for need in needs if need.is_urgent] == [INFORMATION]


def test_enrolled_mac_is_queried_at_once_although_the_enrollment_reported_its_version() -> None:
    unknown = mac(supervised=None, user_approved=None)
    assert [need.known_us for need in query_needs(situation(unknown))] == [0, 0, 0]
    (urgent, *_) = query_needs(situation(mac(supervised=None), job_history=(entry(),)))
    assert urgent.known_us == to_us(NOW - HOUR)


def test_query_counts_from_the_report_of_its_own_fields() -> None:
    device = mac(seen_at=NOW - HOUR, user_approved=None, identity_expires_at=NOW + 90 * DAY)
    known = {need.kind: need.known_us for need in query_needs(situation(device))}
    assert known == {INFORMATION: to_us(NOW - HOUR), SECURITY: 0, CERTIFICATES: to_us(NOW - HOUR)}


@pytest.mark.parametrize(
    "device",
    [
        pytest.param(mac(enrolled=False, mdm_enrolled=False), id="not enrolled"),
        pytest.param(PERSONAL, id="personally owned"),
    ],
)
def test_mac_that_cannot_answer_is_not_queried(device: Device) -> None:
    assert query_needs(situation(device)) == ()


def test_mac_without_a_site_is_not_queried() -> None:
    no_default = policy(default_site=None)
    assert query_needs(situation(mac(site="nowhere", hostname="x"), rules=no_default)) == ()


def test_profiles_are_queried_each_hour_until_the_policy_finds_them() -> None:
    rules = policy(follow_up={"profiles": ["org.pppc"]})
    reinstall = entry(
        "seal", action=Action.REINSTALL, outcome=Outcome.SUCCEEDED, outcome_at=NOW - DAY
    )
    profiles = QueryKind.PROFILE_LIST
    assert profiles not in every(query_needs(situation(mac(), rules=rules)))
    missing = query_needs(situation(mac(), rules=rules, job_history=(reinstall,)))
    assert every(missing) == {
        INFORMATION: DAY,
        SECURITY: DAY,
        CERTIFICATES: DAY,
        profiles: HOUR,
    }
    found = with_report(mac(), NOW - HOUR, "mdm", profiles=["org.pppc"])
    assert profiles not in every(
        query_needs(situation(found, rules=rules, job_history=(reinstall,)))
    )


def test_durations_are_in_microseconds() -> None:
    assert {need.every_us for need in query_needs(situation(mac()))} == {duration_us(EVERY)}
