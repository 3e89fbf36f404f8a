"""A reinstall for a broken seal or old firmware needs more than inventory reports."""

from datetime import timedelta
from typing import Any

import pytest

from pipeline.decide.decision import decide
from pipeline.policy.model import Policy
from pipeline.state.device import Device
from schemas.decisions import Reason, Verdict
from schemas.jobs import Action
from tests.factories import HOUR, NOW, mac, policy, situation, with_report

RULES: dict[str, Any] = {
    "blast_radius": {},
    "firmware": [{"models": ["*"], "version": "26.2", "firmware": "2.0"}],
}
BROKEN: dict[str, Any] = {"system_volume_sealed": False}
OLD: dict[str, Any] = {"firmware": "1.0"}


def rules() -> Policy:
    return policy(**RULES)


def reason(device: Device) -> tuple[Verdict, Reason, Action | None]:
    found = decide(situation(device, rules=rules()))
    return found.decision, found.reason, found.action


@pytest.mark.parametrize("fault", [BROKEN, OLD], ids=["seal", "firmware"])
@pytest.mark.parametrize("source", ["osquery", "munki", "other"])
def test_reinstall_is_held_if_only_inventory_reports_the_fault(
    fault: dict[str, Any], source: str
) -> None:
    device = with_report(mac("26.2"), NOW, source, **fault)
    assert reason(device) == (Verdict.HOLD, Reason.UNCORROBORATED, Action.REINSTALL)


@pytest.mark.parametrize("fault", [BROKEN, OLD], ids=["seal", "firmware"])
@pytest.mark.parametrize("source", ["mdm", "jamf", "executor", "admin"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_reinstall_is_sent_if_another_source_reports_the_fault_too(
    fault: dict[str, Any], source: str, *, first: bool
) -> None:
    at = NOW - HOUR / 2
    device = with_report(mac("26.2"), at, "osquery", **fault)
    device = with_report(device, at + timedelta(minutes=-9 if first else 9), source, **fault)
    assert reason(device)[0] is Verdict.SEND


def test_newest_statement_of_mdm_counts() -> None:
    device = with_report(mac("26.2"), NOW - HOUR, "mdm", **BROKEN)
    device = with_report(device, NOW - HOUR / 2, "mdm", system_volume_sealed=True)
    device = with_report(device, NOW - HOUR / 4, "osquery", **BROKEN)
    assert reason(device)[1] is Reason.UNCORROBORATED


def test_other_firmware_corroborates_nothing() -> None:
    device = with_report(mac("26.2"), NOW - HOUR, "mdm", firmware="2.0")
    assert reason(with_report(device, NOW, "osquery", **OLD))[1] is Reason.UNCORROBORATED


def test_false_claim_keeps_no_update_from_the_mac() -> None:
    device = with_report(mac("26.1"), NOW, "osquery", **BROKEN)
    assert reason(device) == (Verdict.SEND, Reason.SECURITY_UPDATE, Action.UPDATE)
