"""Retired, personal and doubtful Macs: what they get, and what is withdrawn from them."""

from typing import Any

import pytest

from pipeline.decide.decision import decide, evaluate
from pipeline.state.device import Device
from pipeline.state.identity import Identity
from schemas.decisions import Verdict
from schemas.findings import FindingCode
from schemas.jobs import Action, Method
from schemas.results import Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    apple,
    approval,
    entry,
    mac,
    policy,
    release,
    situation,
    with_report,
)

CONFLICT = Identity(conflicts=((FindingCode.SERIAL_SHARED, "OTHER"),))
RETURNED: dict[str, Any] = {"loan_returned_at": NOW - HOUR}
BROKEN: dict[str, Any] = {"system_volume_sealed": False}
SHOWN = ("owner", "identity")


def result(device: Device, **rest: Any) -> tuple[str, str, tuple[str, ...]]:
    found = decide(situation(device, **rest))
    return found.decision.value, found.reason.value, found.findings


@pytest.mark.parametrize(
    ("device", "rest", "expected"),
    [
        pytest.param(mac(retired=True), {}, ("nothing", "retired", ()), id="retired"),
        pytest.param(
            with_report(mac(retired=True, seen_at=NOW - DAY), NOW),
            {},
            ("nothing", "retired", ("retired_but_seen",)),
            id="retired-and-seen-since",
        ),
        pytest.param(
            with_report(mac(retired=True, seen_at=NOW - DAY), NOW, "admin", retired=False),
            {},
            ("send", "security_update", ()),
            id="in-use-again",
        ),
        pytest.param(
            mac(),
            {"identity": Identity("OTHER")},
            ("nothing", "retired", ("replaced",)),
            id="replaced",
        ),
        pytest.param(
            mac(ownership="personal", **RETURNED, **BROKEN),
            {},
            ("nothing", "personal", ("personal",)),
            id="personal-Mac-is-left-alone",
        ),
        pytest.param(
            mac(ownership="loan", **RETURNED),
            {},
            ("hold", "awaiting_approval", ()),
            id="loan-is-erased-after-its-return",
        ),
        pytest.param(
            mac(ownership="company", **RETURNED),
            {},
            ("hold", "not_a_loan", ("not_a_loan",)),
            id="ordinary-mac-is-no-loan",
        ),
        pytest.param(
            mac(never_erase=True, **RETURNED), {}, ("hold", "never_erase", ()), id="never-erase"
        ),
        pytest.param(
            mac(never_erase=True, **BROKEN),
            {},
            ("send", "seal_broken", ()),
            id="reinstall-in-place-erases-nothing",
        ),
        pytest.param(
            mac(),
            {"identity": CONFLICT},
            ("send", "security_update", ("serial_shared",)),
            id="conflict-holds-no-update",
        ),
        pytest.param(
            mac(),
            {"identity": CONFLICT, "rules": policy(methods={"update": ["softwareupdate"]})},
            ("hold", "identity_conflict", ("serial_shared",)),
            id="conflict-holds-an-update-over-ssh",
        ),
        pytest.param(
            mac(**RETURNED),
            {"identity": CONFLICT},
            ("hold", "identity_conflict", ("serial_shared",)),
            id="conflict-holds-an-erase",
        ),
        pytest.param(
            mac(**BROKEN),
            {"identity": CONFLICT},
            ("hold", "identity_conflict", ("serial_shared",)),
            id="conflict-holds-a-reinstall",
        ),
        pytest.param(
            mac("26.2"),
            {"identity": Identity(conflicts=((FindingCode.SERIAL_CHANGED, "C02OLD"),))},
            ("nothing", "uncertain", ("serial_changed",)),
            id="two-serial-numbers-are-never-compliant",
        ),
    ],
)
def test_what_a_protected_mac_gets(
    device: Device, rest: dict[str, Any], expected: tuple[str, str, tuple[str, ...]]
) -> None:
    assert result(device, **rest) == expected


def unmanaged(**facts: Any) -> Device:
    """Return an enrolled Mac that no MDM server reports and that nothing shows as the company's."""
    unknown = {"supervised": None, "ade_enrolled": None}
    return mac(enrolled=False, mdm_enrolled=True, **unknown | facts)


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        pytest.param(unmanaged(), "owner_unknown", id="unknown"),
        pytest.param(unmanaged(supervised=True), "security_update", id="supervised"),
        pytest.param(unmanaged(ade_enrolled=True), "security_update", id="enrolled-by-ADE"),
        pytest.param(unmanaged(ownership="company"), "security_update", id="stated"),
        pytest.param(with_report(unmanaged(), NOW, "mdm"), "security_update", id="known-to-MDM"),
    ],
)
def test_enrolled_mac_without_a_known_owner_is_held(device: Device, reason: str) -> None:
    assert result(device)[1] == reason


def test_owner_is_known_where_the_policy_excludes_personal_macs() -> None:
    any_mac = {"confirmed_only": False}
    rules = policy(mdm={"user_enrollment": False}, blast_radius=any_mac)
    assert result(unmanaged(), rules=rules)[1] == "security_update"


def test_contact_through_mdm_shows_the_owner_without_another_report() -> None:
    assert evaluate(situation(unmanaged())).recheck_on_telemetry


@pytest.mark.parametrize("source", ["osquery", "mdm", "jamf", "other"])
def test_only_people_state_owner_and_retirement(source: str) -> None:
    stated = {"ownership": "personal", "never_erase": True, "retired": True}
    device = with_report(mac(), NOW, source, **stated)
    assert (device.ownership, device.never_erase, device.retired) == (None, None, None)


@pytest.mark.parametrize("identity", [CONFLICT, Identity("OTHER")], ids=["conflict", "replaced"])
def test_approved_erase_is_withdrawn_once_the_identity_is_in_conflict(identity: Identity) -> None:
    device = mac(**RETURNED)
    wanted = decide(situation(device))
    assert wanted.job_id is not None
    assert wanted.action is not None
    granted = approval(wanted.job_id, action=wanted.action, expires_at=NOW + DAY)
    sent = decide(situation(device, approvals=(granted,)))
    assert (sent.decision, sent.erases) == (Verdict.SEND, True)
    order = entry(
        sent.intent or "",
        action=Action.REINSTALL,
        method=Method.ERASE_DEVICE,
        erases=True,
        version=None,
    )
    held = decide(situation(device, approvals=(granted,), job_history=(order,), identity=identity))
    assert held.decision is not Verdict.SEND
    assert held.supersedes == order.job_id


def test_job_of_a_retired_mac_is_withdrawn_and_nothing_is_overdue() -> None:
    found = decide(situation(mac(retired=True), job_history=(entry(),)))
    assert found.supersedes == entry().job_id
    assert (found.severity, found.cves, found.deadline_at) == (None, (), None)
    declared = entry(outcome=Outcome.STARTED)
    found = decide(situation(mac(retired=True), job_history=(declared,)))
    assert found.supersedes == declared.job_id
    begun = entry(outcome=Outcome.STARTED, method=Method.SOFTWAREUPDATE)
    assert decide(situation(mac(retired=True), job_history=(begun,))).supersedes is None


def test_retired_mac_has_no_time_at_which_it_changes() -> None:
    device = mac(retired=True, identity_expires_at=NOW + 90 * DAY, loan_returned_at=NOW + DAY)
    assert decide(situation(device)).next_eligible_at is None


def test_conflict_names_the_other_mac_in_its_gate() -> None:
    found = decide(situation(mac(**RETURNED), identity=CONFLICT))
    (gate,) = [one for one in found.gates if one.gate == "identity"]
    assert (gate.passed, gate.detail) == (False, "serial_shared: OTHER")
    assert [one.gate for one in found.gates if one.gate in SHOWN] == [*SHOWN]


def test_upgrade_of_a_mac_in_conflict_is_sent() -> None:
    rules = policy(upgrades={"to": "26"})
    device = mac("15.7.3", udid=UDID)
    known = apple(release("26.3", day="2026-01-10"))
    found = decide(situation(device, advisories=known, rules=rules, identity=CONFLICT))
    assert (found.decision, found.action) == (Verdict.SEND, Action.UPGRADE)
