"""Erases and reinstalls by the policy of a site: canaries, a share of the others, permits."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.decide.decision import decide
from pipeline.decide.job import build_job
from pipeline.decide.situation import Situation
from pipeline.policy.destructive import DestructiveWork
from pipeline.state.device import to_us
from schemas.decisions import Reason, Verdict
from schemas.jobs import Action, Method, Permit
from schemas.results import Outcome
from tests.factories import HOUR, NOW, approval, entry, mac, policy, situation

BROKEN: dict[str, Any] = {"system_volume_sealed": False}
BY_SSH = {"update": ["softwareupdate"], "upgrade": ["startosinstall"]}
SERIAL = mac().serial


def under(destructive: dict[str, Any] | None, facts: dict[str, Any], **rest: Any) -> Situation:
    site = {"time_zone": "Europe/London", "destructive": destructive}
    return situation(mac(**facts), rules=policy(sites={"london": site}), **rest)


@pytest.mark.parametrize("destructive", [{}, {"canaries": ["C02OTHER"]}, {"percent": 0}])
def test_reinstall_of_a_mac_that_the_policy_excludes_is_held(destructive: dict[str, Any]) -> None:
    decision = decide(under(destructive, BROKEN))
    assert (decision.decision, decision.reason) == (Verdict.HOLD, Reason.LOCKED)
    assert decision.next_eligible_at is None


@pytest.mark.parametrize(
    ("destructive", "permit"),
    [
        (None, None),
        ({"canaries": [SERIAL]}, Permit.CANARY),
        ({"canaries": [str(SERIAL).lower()]}, Permit.CANARY),
        ({"percent": 100}, Permit.SHARE),
        ({"canaries": [SERIAL], "percent": 100}, Permit.CANARY),
    ],
)
def test_permitted_reinstall_has_the_permit_in_its_job(
    destructive: dict[str, Any] | None, permit: Permit | None
) -> None:
    s = under(destructive, BROKEN)
    job = build_job(s, decide(s))
    assert (job.action, job.permit) == (Action.REINSTALL, permit)


def test_erase_needs_the_permit_besides_the_approval() -> None:
    returned = {"loan_returned_at": NOW - HOUR}
    held = decide(under({}, returned))
    approvals = (approval(held.job_id or ""),)
    assert held.reason is Reason.LOCKED
    assert decide(under({}, returned, approvals=approvals)).reason is Reason.LOCKED
    canary = {"canaries": [SERIAL]}
    assert decide(under(canary, returned)).reason is Reason.AWAITING_APPROVAL
    s = under(canary, returned, approvals=approvals)
    assert build_job(s, decide(s)).permit is Permit.CANARY


def test_work_that_destroys_nothing_needs_no_permit() -> None:
    s = under({}, {})
    job = build_job(s, decide(s))
    assert (job.action, job.permit) == (Action.UPDATE, None)


def test_upgrade_by_the_installer_needs_a_permit() -> None:
    site = {"time_zone": "Europe/London", "destructive": {}}
    rules = policy(sites={"london": site}, methods=BY_SSH, upgrades={"to": "26"})
    decision = decide(situation(mac("15.7.3"), rules=rules))
    assert decision.action is Action.UPGRADE
    assert (decision.method, decision.reason) == (Method.STARTOSINSTALL, Reason.LOCKED)


def test_open_job_of_a_mac_that_the_policy_excludes_later_is_withdrawn() -> None:
    open_job = entry("seal_broken", action=Action.REINSTALL, method=Method.STARTOSINSTALL)
    assert decide(under({}, BROKEN, job_history=(open_job,))).supersedes == open_job.job_id
    started = replace(open_job, outcome=Outcome.STARTED, acted_us=to_us(NOW))
    assert decide(under({}, BROKEN, job_history=(started,))).supersedes is None


def test_mac_without_a_serial_number_has_no_permit() -> None:
    assert DestructiveWork(percent=100).permit("UDID-1", None) is None
    assert decide(under({"percent": 100}, BROKEN | {"serial": None})).reason is Reason.LOCKED


PERCENT = st.floats(0, 100)


@given(udid=st.text(min_size=1), low=PERCENT, high=PERCENT)
def test_higher_share_has_every_mac_of_a_lower_one(udid: str, low: float, high: float) -> None:
    low, high = sorted((low, high))
    if DestructiveWork(percent=low).permit(udid, "C02X") is Permit.SHARE:
        assert DestructiveWork(percent=high).permit(udid, "C02X") is Permit.SHARE
    assert DestructiveWork(percent=0).permit(udid, "C02X") is None
    assert DestructiveWork(percent=100).permit(udid, "C02X") is Permit.SHARE


def test_share_is_about_as_large_as_the_policy_states() -> None:
    share = DestructiveWork(percent=5)
    macs = [share.permit(f"00008103-{number:016X}", "C02X") for number in range(10_000)]
    assert 400 < macs.count(Permit.SHARE) < 600
