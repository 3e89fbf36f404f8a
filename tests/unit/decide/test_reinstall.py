"""The need to reinstall or reimage, and its release."""

from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.decide.exposure import exposure
from pipeline.decide.methods import MethodRow
from pipeline.decide.needs.order import needs
from pipeline.decide.needs.reinstall import other_method_rows, reimage_eligibility
from pipeline.state.device import Device, to_us
from schemas.decisions import Reason, Verdict
from schemas.jobs import Action, Method
from schemas.results import ErrorCode, Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    apple,
    entry,
    failed,
    mac,
    policy,
    release,
    situation,
)
from tests.unit.decide.outcomes import needed, summary

T2: dict[str, Any] = {"model": "MacBookPro16,1", "device_id": "J152FAP", "apple_silicon": False}


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


LATE = {"deadlines": {"high": "1d"}}


@pytest.mark.parametrize("count", [3, 5, 7])
def test_no_reinstall_replaces_a_supplement_that_fails(count: int) -> None:
    known = apple(release("26.2 (a)", build="25C771280a", day="2026-01-02"))
    history = failed(count, intent="26.2 (a)", version="26.2 (a)", first_at=NOW - 12 * DAY)
    rules = policy(methods={"restart": []}, **LATE)
    found = decide(situation(mac("26.2"), advisories=known, job_history=history, rules=rules))
    assert (found.action, found.method) == (Action.UPDATE, Method.DDM)
    stuck = Reason.RETRIES_EXHAUSTED if count >= 5 else Reason.SECURITY_UPDATE
    assert found.reason is stuck


def test_a_command_cannot_name_a_supplement() -> None:
    known = apple(
        release("13.7.8", cves=[]), release("13.7.8 (a)", build="22H771280a", day="2026-01-02")
    )
    rules = policy(upgrades={"out_of_support": False}, **LATE)
    found = decide(situation(mac("13.7.8", source="mdm"), advisories=known, rules=rules))
    assert (found.decision, found.reason) == (Verdict.HOLD, Reason.NO_METHOD)


def rows_of(device: Device, **settings: Any) -> list[MethodRow]:
    s = situation(device, rules=policy(**settings))
    need = next(needs(s, exposure(s)))
    return list(other_method_rows(s, need))


def test_each_method_of_the_other_way_to_renew_a_loan_unit_is_named_with_its_reason() -> None:
    modern = mac("26.2", loan_returned_at=NOW - HOUR)
    ((method, state, detail),) = rows_of(modern, images=[IMAGE])
    assert (method, state) == (Method.ASR, "impossible")
    assert "hardware apple_silicon can be restored by asr" in detail
    assert "version 26.2 equals the image's 13.7.8" in detail
    assert "returned loan unit" not in detail
    assert rows_of(modern) == [(Method.ASR, "impossible", "no image in the policy")]
    fits = "an image of the policy fits"
    assert rows_of(mac("13.7.8", **LOAN), images=[IMAGE]) == [
        (Method.STARTOSINSTALL, "passed over", fits),
        (Method.ERASE_DEVICE, "passed over", fits),
    ]
    assert rows_of(mac("26.1")) == []
