"""Needs of a Mac: update, upgrade, reinstall, reimage, reenroll, and the follow-up."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.exposure import exposure
from pipeline.decide.needs.order import needs
from pipeline.decide.needs.reinstall import reimage_eligibility
from pipeline.decide.needs.reinstall_history import follow_up_missing
from pipeline.decide.situation import Situation
from pipeline.state.device import to_us
from pipeline.state.device_folds import apply_checked_out
from pipeline.state.fleet import Fleet
from schemas.decisions import Decision, Reason, Verdict
from schemas.events.checkin import MdmCheckedOut
from schemas.findings import FindingCode
from schemas.jobs import Action, Method
from schemas.results import ErrorCode, Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    apple,
    at,
    catalogue,
    cve_of,
    enrolled,
    entry,
    failed,
    mac,
    narrowed,
    policy,
    raised,
    release,
    retracted,
    situation,
    with_report,
)

NEO: dict[str, Any] = {"model": "Mac17,5", "device_id": "J700AP"}
T2: dict[str, Any] = {"model": "MacBookPro16,1", "device_id": "J152FAP", "apple_silicon": False}
INTEL_2017: dict[str, Any] = {"model": "iMac18,3", "device_id": "Mac-BE088AF8C5EB4FA2"}
FIFTY_SEVEN = ("J700AP", "J604AP", *(f"J{number}AP" for number in range(100, 155)))


def needed(s: Situation) -> list[tuple[Action, Reason, str | None]]:
    return [
        (need.action, need.reason, None if need.target is None else str(need.target.version))
        for need in needs(s, exposure(s))
    ]


def summary(decision: Decision) -> tuple[str, str, str | None]:
    target = None if decision.target is None else str(decision.target.version)
    return decision.decision.value, decision.reason.value, target


# --- update within the line ---

UPDATES = [
    pytest.param("26.1", {}, ("send", "security_update", "26.2"), id="one-behind"),
    pytest.param("26.0", {}, ("send", "security_update", "26.2"), id="straight-to-the-newest"),
    pytest.param("26.2", {}, ("nothing", "compliant", None), id="at-the-newest"),
    pytest.param("26.3", {}, ("nothing", "uncertain", None), id="ahead-within-the-line"),
    pytest.param("27.0", {}, ("nothing", "no_advisory", None), id="ahead-of-the-newest-line"),
    pytest.param("15.7.2", {}, ("send", "security_update", "15.7.3"), id="older-supported-line"),
    pytest.param("14.8.3", {}, ("nothing", "compliant", None), id="oldest-supported-line"),
    pytest.param(None, {}, ("nothing", "os_unknown", None), id="version-unknown"),
    pytest.param(
        "26.2", {"build": "25C5048a"}, ("send", "security_update", "26.2"), id="beta-of-the-newest"
    ),
    pytest.param("26.3", {"build": "25D5087f"}, ("nothing", "uncertain", None), id="beta-of-next"),
    pytest.param("26.2", {"build": "25C2056"}, ("nothing", "compliant", None), id="other-branch"),
    pytest.param("26.2", {"build": "25C50"}, ("send", "security_update", "26.2"), id="early-build"),
    pytest.param("26.2", {"build": None}, ("nothing", "compliant", None), id="build-unknown"),
]


@pytest.mark.parametrize(("version", "facts", "want"), UPDATES)
def test_update_target_is_the_newest_release_of_the_line(
    version: str, facts: dict[str, Any], want: tuple[str, ...]
) -> None:
    assert summary(decide(situation(mac(version, **facts)))) == want


def test_release_without_cves_is_a_routine_update() -> None:
    s = situation(
        advisories=apple(release("26.1.1", cves=[], day="2025-12-01")), device=mac("26.2")
    )
    assert decide(s).reason is Reason.COMPLIANT
    bare = catalogue(release("26.1", cves=[]), release("26.2", cves=[], severity=None))
    assert decide(situation(advisories=bare)).reason is Reason.ROUTINE_UPDATE


def test_reason_is_no_advisory_without_any_advisory() -> None:
    assert decide(situation(advisories=catalogue())).reason is Reason.NO_ADVISORY


# --- lines, upgrades, hardware ---

UPGRADES = [
    pytest.param("13.7.8", {}, ("send", "line_out_of_support", "26.2"), id="dead-to-the-newest"),
    pytest.param(
        "13.7.8",
        {"model": "MacBookPro15,2", "device_id": "J132AP"},
        ("send", "line_out_of_support", "15.7.3"),
        id="as-far-as-the-model-goes",
    ),
    pytest.param(
        "13.7.8",
        INTEL_2017,
        ("nothing", "unfixable_hardware", None),
        id="hardware-runs-nothing-newer",
    ),
    pytest.param(
        "13.7.7",
        INTEL_2017 | {"build": "22H700"},
        ("send", "security_update", "13.7.8"),
        id="such-hardware-gets-its-last-update",
    ),
    pytest.param(
        "13.7.8", {"model": "Foo99,1"}, ("nothing", "model_unknown", None), id="model-unknown"
    ),
    pytest.param(
        "13.7.8", {"model": None}, ("nothing", "model_unknown", None), id="model-not-reported"
    ),
]


@pytest.mark.parametrize(("version", "facts", "want"), UPGRADES)
def test_mac_on_a_dead_line_is_upgraded_as_far_as_its_model_allows(
    version: str, facts: dict[str, Any], want: tuple[str, ...]
) -> None:
    decision = decide(situation(mac(version, **facts)))
    assert summary(decision) == want


def test_unfixable_hardware_is_a_finding_with_its_holes() -> None:
    decision = decide(situation(mac("13.7.8", **INTEL_2017)))
    assert decision.findings == (FindingCode.HARDWARE_ENDED,)
    assert decision.finding_details == ("hardware_ended: macOS 13",)
    assert decision.cves
    assert decision.action is None


SUPPORTED = [
    pytest.param("26", ["26", "15", "14"], id="26-is-newest"),
    pytest.param("27", ["27", "26", "15"], id="27-is-newest"),
    pytest.param("15", ["15", "14", "13"], id="15-is-newest"),
    pytest.param("28", ["28", "27", "26"], id="28-is-newest"),
]


@pytest.mark.parametrize(("newest", "lines"), SUPPORTED)
def test_three_lines_are_supported(newest: str, lines: list[str]) -> None:
    known = catalogue(release(f"{newest}.0", build=""), release("13.7.8"))
    assert list(known.supported_lines) == lines


def test_a_supplement_makes_no_line_the_newest() -> None:
    assert apple(release("27.0 (a)", build="")).supported_lines == ("26", "15", "14")


POLICY_UPGRADES = [
    pytest.param({"to": "26"}, "15.7.3", ("send", "policy_upgrade", "26.2"), id="wanted"),
    pytest.param({"to": "15"}, "26.1", ("send", "security_update", "26.2"), id="no-downgrade"),
    pytest.param({"to": "26"}, "26.2", ("nothing", "compliant", None), id="there-already"),
    pytest.param({}, "15.7.3", ("nothing", "compliant", None), id="not-wanted"),
    pytest.param(
        {"to": "15"},
        "13.7.8",
        ("send", "line_out_of_support", "15.7.3"),
        id="not-beyond-the-policys-line",
    ),
    pytest.param(
        {"out_of_support": False},
        "13.7.8",
        ("nothing", "exempt", None),
        id="policy-keeps-dead-lines",
    ),
    pytest.param(
        {"out_of_support": False, "to": "26"},
        "13.7.8",
        ("send", "policy_upgrade", "26.2"),
        id="wanted-although-dead-lines-are-kept",
    ),
    pytest.param({"to": "13"}, "13.7.8", ("nothing", "no_advisory", None), id="to-a-dead-line"),
    pytest.param(
        {"supported_lines": ["26"]},
        "15.7.3",
        ("send", "line_out_of_support", "26.2"),
        id="listed-in-the-policy",
    ),
    pytest.param(
        {"supported_lines": ["15"]},
        "26.1",
        ("send", "security_update", "26.2"),
        id="newer-than-the-policys-list",
    ),
]


@pytest.mark.parametrize(("upgrades", "version", "want"), POLICY_UPGRADES)
def test_upgrade_follows_the_policy(
    upgrades: dict[str, Any], version: str, want: tuple[str, ...]
) -> None:
    s = situation(mac(version), rules=policy(upgrades=upgrades))
    assert summary(decide(s)) == want


def test_policy_upgrade_is_not_needed_if_the_model_cannot_run_it() -> None:
    air = mac("15.7.3", model="MacBookAir9,1", device_id="J230KAP")
    assert decide(situation(air, rules=policy(upgrades={"to": "26"}))).reason is Reason.COMPLIANT


def test_mac_on_a_dead_line_without_an_offered_release_is_not_compliant() -> None:
    only_others = catalogue(
        *(release(v, device_ids=["J1AP", "J2AP"]) for v in ("26.2", "15.7.3", "14.8.3")),
        release("13.7.8"),
    )
    decision = decide(situation(mac("13.7.8"), advisories=only_others))
    assert decision.reason is Reason.NO_ADVISORY
    assert FindingCode.LINE_ENDED in decision.findings
    assert "no release to move to" in decision.finding_details[0]


# --- devices that a release is offered to ---


def test_release_narrowed_to_one_device_id_is_offered_to_that_device_only() -> None:
    wide = release("26.3.2", device_ids=FIFTY_SEVEN, day="2026-01-10")
    base = [release(v, device_ids=FIFTY_SEVEN) for v in ("26.1", "26.2")]
    small = narrowed("26.3.2", device_ids=["J700AP"], day="2026-01-10", first_seen_at=NOW - HOUR)
    for device, first, then in (
        (mac("26.2"), "26.3.2", None),
        (mac("26.2", **NEO), "26.3.2", "26.3.2"),
        (mac("26.2", device_id=None), "26.3.2", None),
    ):
        before = decide(situation(device, advisories=catalogue(*base, wide)))
        after = decide(situation(device, advisories=catalogue(*base, wide, small)))
        assert summary(before)[2] == first
        assert summary(after)[2] == then


DEVICE_IDS = [
    pytest.param("J604AP", True, id="listed"),
    pytest.param("j604ap", True, id="listed-in-other-case"),
    pytest.param("J999AP", False, id="other-hardware"),
    pytest.param(None, True, id="not-reported-and-the-list-is-wide"),
]


@pytest.mark.parametrize(("device_id", "offered"), DEVICE_IDS)
def test_wide_release_is_offered_to_listed_and_unknown_device_ids(
    device_id: str | None, offered: bool
) -> None:
    known = apple(release("26.3", day="2026-01-10", device_ids=FIFTY_SEVEN))
    assert (summary(decide(situation(mac("26.2", device_id=device_id), advisories=known)))[2]) == (
        "26.3" if offered else None
    )


def test_release_is_offered_only_to_devices_that_every_source_lists() -> None:
    known = apple(
        release("26.3", device_ids=["J604AP", "J700AP"], severity=None),
        release("26.3", device_ids=["J700AP"], source="gdmf", cves=[]),
    )
    assert decide(situation(mac("26.2"), advisories=known)).reason is Reason.COMPLIANT


def test_mac_that_lacks_only_a_supplement_gets_supplement_pending() -> None:
    known = apple(release("26.2 (a)", build="25C771280a", day="2026-01-10"))
    decision = decide(situation(mac("26.2"), advisories=known))
    assert (decision.decision, decision.reason) == (Verdict.NOTHING, Reason.SUPPLEMENT_PENDING)
    assert decision.cves
    for done in (mac("26.2 (a)", build=None), mac("26.2", build="25C771280a")):
        assert decide(situation(done, advisories=known)).reason is Reason.COMPLIANT


def test_a_retracted_release_is_no_target_and_can_come_back() -> None:
    gone = retracted("26.2", first_seen_at=NOW - 2 * DAY)
    back = release("26.2", first_seen_at=NOW - DAY)
    assert decide(situation(advisories=apple(gone))).reason is Reason.COMPLIANT
    assert decide(situation(advisories=apple(gone, back))).reason is Reason.SECURITY_UPDATE


# --- exposure ---


def test_mac_is_exposed_to_the_cves_of_all_newer_releases_of_its_line() -> None:
    empty_last = apple(release("26.3", cves=[], severity=None, day="2026-01-10"))
    decision = decide(situation(mac("26.0"), advisories=empty_last))
    assert decision.target is not None
    assert str(decision.target.version) == "26.3"
    assert set(decision.cves) == {cve_of("26.1"), cve_of("26.2")}
    assert decision.advisory_ids == ("macOS-26.3", "macOS-26.2", "macOS-26.1")


def test_exploited_cve_of_an_intermediate_release_sets_the_deadline() -> None:
    known = [release(v, day="2026-01-10", severity="low") for v in ("26.1", "26.2")]
    bad = raised(
        "26.1",
        day="2026-01-10",
        severity="low",
        exploited=["CVE-2025-43529"],
        first_seen_at=at("2026-01-13"),
    )
    before = decide(situation(mac("26.0"), advisories=catalogue(*known)))
    after = decide(situation(mac("26.0"), advisories=catalogue(*known, bad)))
    assert (before.exploited_cves, before.deadline_at) == ((), at("2026-01-10") + 30 * DAY)
    assert after.exploited_cves == ("CVE-2025-43529",)
    assert after.deadline_at == at("2026-01-13") + 3 * DAY
    assert summary(after)[2] == "26.2"


# --- reinstall ---


def test_each_free_method_is_tried_before_a_reinstall() -> None:
    thrice = decide(situation(job_history=failed(3)))
    assert (thrice.action, thrice.method) == (Action.UPDATE, Method.SOFTWAREUPDATE)


def test_reinstall_is_needed_after_the_only_method_failed_three_times() -> None:
    only_ddm = policy(methods={"update": ["ddm"], "restart": []})
    twice = decide(situation(job_history=failed(2), rules=only_ddm))
    thrice = decide(situation(job_history=failed(3), rules=only_ddm))
    assert (twice.action, thrice.action) == (Action.UPDATE, Action.REINSTALL)
    assert thrice.reason is Reason.UPDATE_KEEPS_FAILING
    assert thrice.method is Method.STARTOSINSTALL
    assert not thrice.erases
    assert thrice.evidence == ("ddm failed: install_failed",) * 3


@pytest.mark.parametrize(
    "code",
    [ErrorCode.NO_DISK_SPACE, ErrorCode.UNREACHABLE, ErrorCode.LOW_POWER, ErrorCode.USER_DECLINED],
)
def test_failures_that_a_reinstall_cannot_repair_lead_to_an_update(code: ErrorCode) -> None:
    assert decide(situation(job_history=failed(4, code))).action is Action.UPDATE


def test_failures_before_a_success_do_not_count() -> None:
    done = entry(generation=3, issued_at=NOW - 12 * DAY, outcome=Outcome.SUCCEEDED)
    assert decide(situation(job_history=(*failed(3), done))).action is Action.UPDATE


def test_a_newer_release_is_tried_by_update_first() -> None:
    known = apple(release("26.3", day="2026-01-01"))
    assert decide(situation(advisories=known, job_history=failed(3))).action is Action.UPDATE


def test_broken_seal_is_reinstalled_in_place() -> None:
    decision = decide(situation(mac("26.2", system_volume_sealed=False)))
    assert (decision.action, decision.reason) == (Action.REINSTALL, Reason.SEAL_BROKEN)
    assert decision.method is Method.STARTOSINSTALL
    assert not decision.erases
    assert summary(decision)[2] == "26.2"


def test_broken_seal_is_repaired_with_the_newest_release() -> None:
    assert summary(decide(situation(mac("26.0", system_volume_sealed=False))))[2] == "26.2"


def test_an_ineffective_reinstall_is_not_repeated_and_updates_go_on() -> None:
    done = entry(
        action=Action.REINSTALL,
        method=Method.STARTOSINSTALL,
        intent="seal",
        issued_at=NOW - 5 * DAY,
        outcome=Outcome.SUCCEEDED,
    )
    current = decide(situation(mac("26.2", system_volume_sealed=False), job_history=(done,)))
    behind = decide(situation(mac("26.0", system_volume_sealed=False), job_history=(done,)))
    assert (current.decision, current.reason) == (Verdict.HOLD, Reason.NEEDS_PERSON)
    assert (behind.decision, behind.action) == (Verdict.SEND, Action.UPDATE)


FIRMWARE = [{"models": ["Mac16,*"], "version": "26.2", "firmware": "13822.61.10"}]
FIRMWARE_CASES = [
    pytest.param("26.2", "13822.0.1", Reason.FIRMWARE_MISMATCH, id="differs"),
    pytest.param("26.2", "13822.61.10", Reason.COMPLIANT, id="matches"),
    pytest.param("26.2", None, Reason.COMPLIANT, id="not-reported"),
    pytest.param("26.1", "13822.0.1", Reason.SECURITY_UPDATE, id="no-rule-for-the-version"),
]


@pytest.mark.parametrize(("version", "firmware", "reason"), FIRMWARE_CASES)
def test_firmware_other_than_the_policys_needs_a_reinstall(
    version: str, firmware: str | None, reason: Reason
) -> None:
    s = situation(mac(version, firmware=firmware), rules=policy(firmware=FIRMWARE))
    assert decide(s).reason is reason


# --- loan units ---

IMAGE = {
    "name": "loan-2026",
    "models": ["MacBookPro14,1", "MacBookPro16,1", "Mac16,1"],
    "version": "13.7.8",
    "build": "22H730",
    "firmware": "529.0",
}
LOAN: dict[str, Any] = {
    "model": "MacBookPro14,1",
    "device_id": "Mac-B4831CEBD52A0C4C",
    "firmware": "529.0",
    "loan_returned_at": NOW - 2 * HOUR,
}


def test_a_returned_loan_unit_that_equals_the_image_is_reimaged() -> None:
    s = situation(mac("13.7.8", **LOAN), rules=policy(images=[IMAGE]))
    decision = decide(s)
    assert (decision.action, decision.reason) == (Action.REIMAGE, Reason.AWAITING_APPROVAL)
    assert decision.method is Method.ASR
    assert decision.erases
    assert all(point.endswith(": yes") for point in decision.evidence)
    assert len(decision.evidence) == 6


REFUSED = [
    pytest.param(T2, "hardware t2", id="t2"),
    pytest.param({"model": "Mac16,1", "device_id": "J604AP"}, "hardware apple_silicon", id="m4"),
    pytest.param({"model": "Foo1,1", "device_id": None}, "hardware unknown", id="unknown-hardware"),
    pytest.param({"build": "22H720"}, "build 22H720", id="other-build"),
    pytest.param({"firmware": "520.0"}, "firmware 520.0", id="other-firmware"),
    pytest.param({"firmware": None}, "firmware None", id="firmware-unknown"),
    pytest.param({"model": "iMac18,1", "device_id": None}, "model iMac18,1", id="not-its-model"),
    pytest.param({"os_version": "13.7.7"}, "version 13.7.7", id="other-version"),
]


@pytest.mark.parametrize(("facts", "why"), REFUSED)
def test_an_image_is_refused_with_the_reason(facts: dict[str, Any], why: str) -> None:
    s = situation(mac("13.7.8", **(LOAN | facts)), rules=policy(images=[IMAGE]))
    image, evidence = reimage_eligibility(s)
    assert image is None
    assert next(point for point in evidence if point.endswith(": no")).startswith(
        f"loan-2026: {why}"
    )
    assert Action.REIMAGE not in {action for action, _, _ in needed(s)}


def test_a_loan_unit_without_an_image_is_erased_and_reinstalled() -> None:
    decision = decide(situation(mac("26.2", loan_returned_at=NOW - HOUR)))
    assert (decision.action, decision.erases) == (Action.REINSTALL, True)
    assert decision.reason is Reason.AWAITING_APPROVAL
    assert decision.evidence == ("no image in the policy",)


def test_erase_device_leaves_the_system_that_runs() -> None:
    rules = policy(methods={"reinstall": ["erase_device"]})
    decision = decide(situation(mac("26.1", loan_returned_at=NOW - HOUR), rules=rules))
    assert (decision.method, summary(decision)[2]) == (Method.ERASE_DEVICE, "26.1")


def test_erase_device_cannot_repair_a_broken_seal() -> None:
    rules = policy(methods={"reinstall": ["erase_device"]})
    decision = decide(situation(mac("26.2", system_volume_sealed=False), rules=rules))
    assert (decision.method, decision.reason) == (None, Reason.NO_METHOD)


def test_returned_loan_unit_is_reinstalled_once_per_return() -> None:
    back = NOW - 5 * DAY
    done = entry(
        f"loan@{to_us(back)}",
        action=Action.REINSTALL,
        method=Method.STARTOSINSTALL,
        outcome=Outcome.SUCCEEDED,
        issued_at=back + HOUR,
    )
    device = mac("26.2", loan_returned_at=back)
    assert decide(situation(device, job_history=(done,))).reason is Reason.COMPLIANT
    again = mac("26.2", loan_returned_at=NOW - HOUR)
    assert decide(situation(again, job_history=(done,))).action is Action.REINSTALL


# --- enrollment ---


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


# --- the chain after a reinstall ---

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


# --- contact after a long absence ---


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


# --- the release of a reinstall ---


def reinstalled(*more: Any, version: str = "26.2", **facts: Any) -> str | None:
    broken = mac(version, system_volume_sealed=False, **facts)
    return summary(decide(situation(broken, advisories=apple(*more))))[2]


def test_a_reinstall_takes_no_release_of_other_hardware() -> None:
    others = release("26.3", device_ids=["J1AP", "J2AP"], day="2026-01-01")
    assert reinstalled(others) == "26.2"


def test_a_reinstall_takes_no_supplement() -> None:
    assert reinstalled(release("26.2 (a)", build="25C771280a", day="2026-01-10")) == "26.2"


def test_mac_ahead_of_all_releases_has_no_release_for_a_reinstall() -> None:
    assert reinstalled(version="26.3", build="25D5087f") is None


def test_finding_on_a_dead_line_names_the_policys_limit() -> None:
    stuck = catalogue(
        *(release(v, device_ids=["J1AP", "J2AP"]) for v in ("26.2", "15.7.3", "14.8.3")),
        release("13.7.8"),
    )
    for upgrades, ends in (({}, "to it"), ({"to": "15"}, "up to macOS 15")):
        s = situation(mac("13.7.8"), advisories=stuck, rules=policy(upgrades=upgrades))
        finding = decide(s).finding_details[0]
        assert finding.endswith(ends)
