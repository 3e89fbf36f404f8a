"""The need to enroll again, and what follows an installation."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.exposure import exposure
from pipeline.decide.needs.order import needs
from pipeline.decide.needs.reinstall_history import follow_up_missing
from pipeline.state.device import to_us
from pipeline.state.device_folds import apply_checked_out
from pipeline.state.fleet import Fleet
from schemas.decisions import Reason, Verdict
from schemas.events.checkin import MdmCheckedOut
from schemas.jobs import Action, Method
from schemas.results import Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    at,
    enrolled,
    entry,
    mac,
    policy,
    situation,
    with_report,
)
from tests.unit.decide.outcomes import needed


def gone(**facts: Any) -> Any:
    return apply_checked_out(mac(**facts), MdmCheckedOut(udid=UDID), to_us(NOW - HOUR / 2))


ENROLLMENT = [
    pytest.param(gone(), {}, Reason.CHECKED_OUT, id="checked-out"),
    pytest.param(
        mac(enrolled=False, mdm_enrolled=False), {}, Reason.NEVER_ENROLLED, id="never-enrolled"
    ),
    pytest.param(
        mac(mdm_enrolled=False, mdm_seen_at=NOW - 2 * DAY), {}, Reason.CHECKED_OUT, id="unenrolled"
    ),
    pytest.param(
        mac(mdm_seen_at=NOW - HOUR - 7 * DAY - HOUR), {}, Reason.MDM_SILENT, id="mdm-silent"
    ),
    pytest.param(mac(mdm_seen_at=NOW - HOUR - 7 * DAY), {}, None, id="just-not-silent"),
    pytest.param(
        mac(seen_at=NOW - 9 * DAY, mdm_seen_at=NOW - 9 * DAY), {}, None, id="off-is-not-silent"
    ),
    pytest.param(mac(user_approved=False), {}, Reason.NOT_USER_APPROVED, id="not-user-approved"),
    pytest.param(
        mac(user_approved=False), {"require_user_approved": False}, None, id="approval-not-required"
    ),
    pytest.param(mac(user_approved=None), {}, None, id="approval-unknown"),
    pytest.param(
        mac(mdm_server="https://old.example/mdm"),
        {"server": "https://mdm.example/"},
        Reason.WRONG_MDM_SERVER,
        id="wrong-server",
    ),
    pytest.param(
        mac(mdm_server="https://mdm.example:443/mdm"),
        {"server": "https://MDM.example/checkin"},
        None,
        id="same-host",
    ),
    pytest.param(
        mac(mdm_server="mdm.example"), {"server": "mdm.example"}, None, id="same-without-a-scheme"
    ),
    pytest.param(
        mac(mdm_server="old.example"),
        {"server": "mdm.example"},
        Reason.WRONG_MDM_SERVER,
        id="wrong-without-a-scheme",
    ),
    pytest.param(
        mac(identity_expires_at=NOW + 21 * DAY),
        {},
        Reason.IDENTITY_EXPIRING,
        id="identity-expiring",
    ),
    pytest.param(
        mac(identity_expires_at=NOW + 21 * DAY + HOUR), {}, None, id="identity-not-yet-expiring"
    ),
    pytest.param(mac(enrolled=False), {}, None, id="mdm-never-knew-it"),
]


@pytest.mark.parametrize(("device", "mdm", "reason"), ENROLLMENT)
def test_mac_must_enroll_again_for_each_enrollment_fault(
    device: Any, mdm: dict[str, Any], reason: Reason
) -> None:
    found = needed(situation(device, rules=policy(mdm=mdm)))
    assert [why for action, why, _ in found if action is Action.REENROLL] == (
        [] if reason is None else [reason]
    )


def test_reenrollment_is_sent_before_an_update() -> None:
    decision = decide(situation(gone()))
    assert (decision.decision, decision.action) == (Verdict.SEND, Action.REENROLL)
    assert decision.method is Method.PROFILES_RENEW


def test_update_is_sent_over_ssh_while_a_person_must_enroll_the_mac() -> None:
    decision = decide(situation(gone(ade_enrolled=False)))
    assert (decision.decision, decision.action) == (Verdict.SEND, Action.UPDATE)
    assert decision.method is Method.SOFTWAREUPDATE


def test_reenrollment_is_sent_outside_the_window() -> None:
    closed = policy(windows=[{"from": "22:00", "to": "23:00"}])
    assert decide(situation(gone(), rules=closed)).decision is Verdict.SEND


def test_reenrollment_is_needed_before_a_reinstall() -> None:
    assert [why for _, why, _ in needed(situation(gone(system_volume_sealed=False)))] == [
        Reason.CHECKED_OUT,
        Reason.SEAL_BROKEN,
    ]


ERASED = entry(
    "loan@1",
    action=Action.REINSTALL,
    method=Method.STARTOSINSTALL,
    erases=True,
    issued_at=NOW - 2 * DAY,
    outcome=Outcome.SUCCEEDED,
    outcome_at=NOW - 13 * HOUR,
)


CHAIN = policy(follow_up={"activations": ["munki", "office"], "compliant": True})


def test_erased_mac_must_enroll_again_after_twelve_hours() -> None:
    fresh_erase = entry(
        "loan@1",
        action=Action.REINSTALL,
        erases=True,
        issued_at=NOW - 2 * DAY,
        outcome=Outcome.SUCCEEDED,
        outcome_at=NOW - 11 * HOUR,
    )
    waiting = decide(situation(mac("26.2"), job_history=(fresh_erase,)))
    assert waiting.reason is Reason.AWAITING_FOLLOW_UP
    assert waiting.next_eligible_at == NOW + HOUR
    late = decide(situation(mac("26.2"), job_history=(ERASED,)))
    assert (late.decision, late.reason) == (Verdict.SEND, Reason.REENROLL_AFTER_REINSTALL)


def test_follow_up_points_are_confirmed_one_by_one() -> None:
    fleet = Fleet()
    fleet.put(mac("26.2", seen_at=NOW - 3 * DAY))
    s = situation(fleet.merged_device(UDID), rules=CHAIN, job_history=(ERASED,))
    assert follow_up_missing(s) == (
        "re-enrolled",
        "user-approved",
        "activation munki",
        "activation office",
        "compliant",
    )
    for event in enrolled(when=NOW - 10 * HOUR):
        fleet.apply(event)
    device = fleet.merged_device(UDID)
    steps: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({}, ("user-approved", "activation munki", "activation office", "compliant")),
        ({"user_approved": True}, ("activation munki", "activation office", "compliant")),
        ({"activations": ["munki"]}, ("activation office", "compliant")),
        ({"activations": ["munki", "office"]}, ("compliant",)),
        ({"compliant": False}, ("compliant",)),
        ({"compliant": True}, ()),
    ]
    for number, (facts, missing) in enumerate(steps):
        device = with_report(device, NOW - timedelta(minutes=50 - number), "munki", **facts)
        s = situation(device, rules=CHAIN, job_history=(ERASED,))
        assert follow_up_missing(s) == missing
        decision = decide(s)
        assert decision.reason is (Reason.AWAITING_FOLLOW_UP if missing else Reason.COMPLIANT)
        assert decision.decision is (Verdict.HOLD if missing else Verdict.NOTHING)


def test_bootstrap_token_is_confirmed_after_the_reinstall() -> None:
    rules = policy(follow_up={"bootstrap_token": True, "compliant": False})
    in_place = entry(
        "seal", action=Action.REINSTALL, outcome=Outcome.SUCCEEDED, outcome_at=NOW - DAY
    )
    device = mac("26.2", seen_at=NOW - 3 * DAY, user_approved=True)
    steps: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({}, ("bootstrap token",)),
        ({"bootstrap_token_escrowed": False}, ("bootstrap token",)),
        ({"bootstrap_token_escrowed": True}, ()),
    ]
    for number, (facts, missing) in enumerate(steps):
        device = with_report(device, NOW - timedelta(minutes=50 - number), "mdm", **facts)
        s = situation(device, rules=rules, job_history=(in_place,))
        assert follow_up_missing(s) == missing


def test_profiles_are_confirmed_after_the_reinstall() -> None:
    rules = policy(follow_up={"profiles": ["org.kext", "org.pppc"], "compliant": False})
    in_place = entry(
        "seal", action=Action.REINSTALL, outcome=Outcome.SUCCEEDED, outcome_at=NOW - DAY
    )
    before = with_report(mac("26.2"), NOW - 2 * DAY, "mdm", profiles=["org.kext", "org.pppc"])
    steps: list[tuple[list[str] | None, tuple[str, ...]]] = [
        (None, ("profile org.kext", "profile org.pppc")),
        ([], ("profile org.kext", "profile org.pppc")),
        (["org.pppc", "org.wifi"], ("profile org.kext",)),
        (["org.kext", "org.pppc", "org.wifi"], ()),
        (["org.kext"], ("profile org.pppc",)),
    ]
    device = with_report(before, NOW - HOUR, "mdm", user_approved=True)
    for number, (profiles, missing) in enumerate(steps):
        device = with_report(device, NOW - timedelta(minutes=50 - number), "mdm", profiles=profiles)
        s = situation(device, rules=rules, job_history=(in_place,))
        assert follow_up_missing(s) == missing
        held = [gate.detail for gate in decide(s).gates if gate.gate == "follow_up"]
        assert held == ([", ".join(missing)] if missing else [])


def test_mdm_has_a_day_after_the_first_later_day_of_inventory() -> None:
    silent = mac("26.2", mdm_seen_at=NOW - 30 * DAY, seen_at=NOW - 2 * DAY)
    [need] = needs(situation(silent), exposure(situation(silent)))
    assert need.not_before_us == to_us(NOW - DAY)
    # The 18th is the first later day with inventory; a report on the 20th does not extend the wait.
    again = with_report(silent, NOW - HOUR)
    [need] = needs(situation(again), exposure(situation(again)))
    assert need.not_before_us == to_us(at("2026-01-20"))
    decision = decide(situation(again))
    assert (decision.decision, decision.reason) == (Verdict.SEND, Reason.MDM_SILENT)


def test_enrollment_fault_other_than_silence_needs_no_waiting() -> None:
    s = situation(mac("26.2", user_approved=False))
    [need] = needs(s, exposure(s))
    assert (need.reason, need.not_before_us) == (Reason.NOT_USER_APPROVED, None)
