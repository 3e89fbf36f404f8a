"""Upgrades to another line: their deferral, first date, deadline and methods."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.situation import Situation
from pipeline.state.device import Device, to_us
from pipeline.state.device_folds import apply_authenticated, apply_token_updated
from schemas.decisions import Decision, Reason, Verdict
from schemas.events.checkin import MdmAuthenticated, MdmTokenUpdated
from schemas.jobs import Method
from schemas.results import ErrorCode
from tests.factories import (
    DAY,
    HOUR,
    NIGHTS,
    NOW,
    UDID,
    apple,
    at,
    failed,
    mac,
    policy,
    release,
    situation,
    with_report,
)

# Line 26 began on 2025-09-15.
LATER = {"to": "26", "deferral": timedelta(days=200)}
OPENS_AT = at("2025-09-15") + timedelta(days=200)
FULL = apple(release("15.0", day="2024-09-16"))


def enrolled_again(device: Device, when: datetime) -> Device:
    device = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(when))
    device = apply_token_updated(device, MdmTokenUpdated(udid=UDID, tally=1), to_us(when))
    return with_report(device, when, "mdm", supervised=True, bootstrap_token_escrowed=True)


def upgraded(version: str, upgrades: dict[str, Any], **rest: Any) -> Decision:
    return decide(situation(mac(version), rules=policy(upgrades=upgrades), **rest))


def summary(decision: Decision) -> tuple[str, str, str]:
    assert decision.target is not None
    return decision.decision.value, decision.reason.value, str(decision.target.version)


def test_upgrade_waits_for_the_age_of_its_line() -> None:
    held = upgraded("15.7.3", LATER)
    assert summary(held) == ("hold", "deferred", "26.2")
    assert held.next_eligible_at == OPENS_AT
    fresh = mac("15.7.3", seen_at=OPENS_AT - HOUR)
    opened = situation(fresh, rules=policy(upgrades=LATER), now=OPENS_AT)
    assert summary(decide(opened)) == ("send", "policy_upgrade", "26.2")


def test_updates_go_on_while_the_upgrade_is_deferred() -> None:
    assert summary(upgraded("15.7.2", LATER)) == ("send", "security_update", "15.7.3")


def test_a_passed_deadline_of_a_fix_does_not_open_a_deferred_line() -> None:
    rules = policy(upgrades=LATER, methods={"update": []})
    decision = decide(situation(mac("15.7.2"), rules=rules))
    assert decision.deadline_at is not None
    assert decision.deadline_at < NOW
    assert summary(decision) == ("hold", "deferred", "26.2")


def test_mac_on_a_dead_line_moves_to_the_newest_line_that_is_not_deferred() -> None:
    decision = upgraded("13.7.8", {"deferral": LATER["deferral"]}, advisories=FULL)
    assert summary(decision) == ("send", "line_out_of_support", "15.7.3")


def test_a_held_upgrade_is_decided_again_when_a_newer_line_opens() -> None:
    upgrades = {"deferral": LATER["deferral"]}
    held = upgraded("13.7.8", upgrades, advisories=FULL, site_open_jobs=25)
    assert summary(held) == ("hold", "site_full", "15.7.3")
    assert held.next_eligible_at == OPENS_AT


def test_failures_of_an_update_count_while_the_upgrade_is_deferred() -> None:
    history = failed(3, ErrorCode.INSTALL_FAILED, intent="15.7.3")
    rules = policy(upgrades=LATER, methods={"update": ["ddm"]})
    decision = decide(situation(mac("15.7.2"), rules=rules, job_history=history))
    assert decision.reason is Reason.UPDATE_KEEPS_FAILING


def test_no_mac_moves_before_the_date_in_the_time_of_its_site() -> None:
    tokyo = {"london": {"time_zone": "Asia/Tokyo"}}
    rules = policy(sites=tokyo, upgrades={"to": "26", "not_before": "2026-01-21"})

    def decided(s: Situation) -> tuple[Verdict, Reason]:
        found = decide(s)
        return found.decision, found.reason

    midnight = at("2026-01-20T15:00")
    before = situation(mac("15.7.3"), rules=rules, now=midnight - timedelta(seconds=1))
    assert decided(before) == (Verdict.HOLD, Reason.DEFERRED)
    assert decide(before).next_eligible_at == midnight
    begun = situation(mac("15.7.3"), rules=rules, now=midnight)
    assert decided(begun) == (Verdict.SEND, Reason.POLICY_UPGRADE)


def test_not_before_is_for_the_policys_line_only() -> None:
    upgrades = {"to": "26", "not_before": "2026-06-01"}
    assert summary(upgraded("13.7.8", upgrades)) == ("send", "line_out_of_support", "15.7.3")


@pytest.mark.parametrize(
    ("deadline", "want"),
    [
        pytest.param(None, ("hold", "outside_window", "26.2"), id="no-deadline"),
        pytest.param(timedelta(days=30), ("hold", "outside_window", "26.2"), id="to-come"),
        pytest.param(timedelta(days=5), ("send", "policy_upgrade", "26.2"), id="passed"),
    ],
)
def test_upgrade_waits_for_a_window_until_its_deadline(
    deadline: timedelta | None, want: tuple[str, str, str]
) -> None:
    upgrades = {"to": "26", "not_before": "2026-01-10", "deadline": deadline}
    rules = policy(upgrades=upgrades, windows=NIGHTS)
    decision = decide(situation(mac("15.7.3"), rules=rules))
    assert summary(decision) == want
    due_at = None if deadline is None else at("2026-01-10") + deadline
    assert decision.deadline_at == due_at


@pytest.mark.parametrize(
    ("version", "want"),
    [
        pytest.param("13.7.8", (Verdict.SEND, Method.MDM_COMMAND), id="13"),
        pytest.param("12.7.6", (Verdict.SEND, Method.MDM_COMMAND), id="12"),
        pytest.param("11.7.10", (Verdict.HOLD, None), id="11-takes-no-version"),
    ],
)
def test_upgrade_by_command_needs_macos_12_or_13(
    version: str, want: tuple[Verdict, Method | None]
) -> None:
    laptop = mac(version, model="MacBookAir10,1", device_id="J313AP")
    rules = policy(methods={"upgrade": ["ddm", "mdm_command"]})
    decision = decide(situation(laptop, rules=rules))
    assert (decision.decision, decision.method) == want


def test_no_command_upgrades_a_mac_unless_the_policy_allows_it() -> None:
    no_ssh = {"london": {"time_zone": "Europe/London", "ssh": False}}
    decision = decide(situation(mac("13.7.8"), rules=policy(sites=no_ssh)))
    assert (decision.decision, decision.method) == (Verdict.HOLD, Method.STARTOSINSTALL)


def test_a_new_mac_has_its_grace_before_a_deadline() -> None:
    enrolled_at = NOW - HOUR
    new = enrolled_again(mac("26.1"), enrolled_at)
    at_once = decide(situation(new, rules=policy(windows=NIGHTS)))
    assert at_once.decision is Verdict.SEND
    rules = policy(windows=NIGHTS, deadlines={"after_enrollment": 3 * DAY})
    later = decide(situation(new, rules=rules))
    assert (later.reason, later.deadline_at) == (Reason.OUTSIDE_WINDOW, enrolled_at + 3 * DAY)
    old = decide(situation(mac("26.1"), rules=rules))
    assert old.decision is Verdict.SEND
