"""The decision: verdict, reason, open job and the next time; and the job of a decision."""

from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.decide.decision import decide, evaluate
from pipeline.decide.job import build_job
from pipeline.state.device import Device, to_us
from pipeline.state.device_folds import apply_checked_out
from pipeline.state.jobs import JobEntry
from schemas.decisions import Decision, Reason, Verdict
from schemas.events.checkin import MdmCheckedOut
from schemas.jobs import Action, Method
from schemas.results import Outcome
from tests.factories import (
    DAY,
    HOUR,
    NOW,
    UDID,
    apple,
    approval,
    at,
    catalogue,
    entry,
    mac,
    policy,
    release,
    retracted,
    situation,
)

NEWER = release("26.3", day="2026-01-10")
IMMATURE = release("26.3", day="2026-01-19", severity="high")
STARTED: dict[str, Any] = {"outcome": Outcome.STARTED}


def summary(decision: Decision) -> tuple[str, str, bool]:
    return decision.decision.value, decision.reason.value, decision.supersedes is not None


# open job, device, advisories, policy -> verdict, reason, True if the job is withdrawn
OPEN_JOBS: list[Any] = [
    pytest.param(entry(), mac(), apple(), {}, ("hold", "job_open", False), id="job-of-the-need"),
    pytest.param(
        entry(**STARTED),
        mac(),
        apple(),
        {},
        ("hold", "job_open", False),
        id="begun-job-of-the-need",
    ),
    pytest.param(
        entry(),
        mac(),
        apple(NEWER),
        {},
        ("send", "security_update", True),
        id="newer-release-replaces-the-job",
    ),
    pytest.param(
        entry(**STARTED),
        mac(),
        apple(NEWER),
        {},
        ("hold", "job_open", True),
        id="newer-release-takes-a-declared-job-back",
    ),
    pytest.param(
        entry(**STARTED, method=Method.SOFTWAREUPDATE),
        mac(),
        apple(NEWER),
        {},
        ("hold", "job_open", False),
        id="newer-release-does-not-replace-a-begun-job",
    ),
    pytest.param(
        entry(),
        mac(),
        apple(IMMATURE),
        {},
        ("hold", "job_open", False),
        id="immature-newer-release-keeps-the-job",
    ),
    pytest.param(
        entry(),
        mac(free_disk_gb=1.0),
        apple(NEWER),
        {},
        ("hold", "low_disk", False),
        id="newer-release-held-for-disk-keeps-the-job",
    ),
    pytest.param(
        entry(), mac(), apple(retracted("26.2")), {}, ("nothing", "compliant", True), id="retracted"
    ),
    pytest.param(
        entry(**STARTED),
        mac(),
        apple(retracted("26.2")),
        {},
        ("nothing", "compliant", True),
        id="retracted-but-declared",
    ),
    pytest.param(
        entry(**STARTED, method=Method.SOFTWAREUPDATE),
        mac(),
        apple(retracted("26.2")),
        {},
        ("nothing", "compliant", False),
        id="retracted-but-begun",
    ),
    pytest.param(
        entry(),
        mac(),
        apple(retracted("26.2"), IMMATURE),
        {},
        ("hold", "deferred", True),
        id="retracted-and-its-successor-is-immature",
    ),
    pytest.param(
        entry(),
        mac("26.2"),
        apple(),
        {},
        ("nothing", "compliant", True),
        id="need-already-fulfilled",
    ),
    pytest.param(
        entry(site="tokyo"), mac(), apple(), {}, ("hold", "job_open", True), id="the-mac-moved"
    ),
    pytest.param(
        entry(),
        mac(),
        apple(),
        {"exemptions": [{"who": {"udids": ["*"]}, "why": "leave it"}]},
        ("hold", "exempt", True),
        id="newly-exempt",
    ),
    pytest.param(
        entry(**STARTED),
        mac(),
        apple(),
        {"exemptions": [{"who": {"udids": ["*"]}, "why": "leave it"}]},
        ("hold", "exempt", True),
        id="newly-exempt-but-declared",
    ),
    pytest.param(
        entry(**STARTED, method=Method.SOFTWAREUPDATE),
        mac(),
        apple(),
        {"exemptions": [{"who": {"udids": ["*"]}, "why": "leave it"}]},
        ("hold", "exempt", False),
        id="newly-exempt-but-begun",
    ),
    pytest.param(
        entry(),
        mac(user_approved=False),
        apple(),
        {},
        ("send", "not_user_approved", True),
        id="reenrollment-replaces-the-job",
    ),
    pytest.param(
        entry(**STARTED),
        mac(user_approved=False),
        apple(),
        {},
        ("hold", "job_open", False),
        id="reenrollment-waits-for-a-begun-job",
    ),
    pytest.param(
        entry(method=Method.SOFTWAREUPDATE),
        mac(user_approved=False, ade_enrolled=False),
        apple(),
        {},
        ("hold", "job_open", False),
        id="need-for-a-person-keeps-the-job",
    ),
    pytest.param(
        entry("13.7.8", version="13.7.8"),
        mac("13.7.7", build="22H700", free_disk_gb=20.0),
        apple(),
        {},
        ("hold", "job_open", False),
        id="upgrade-held-for-disk-keeps-the-job",
    ),
    pytest.param(
        entry("13.7.8", version="13.7.8"),
        mac("13.7.7", build="22H700"),
        apple(),
        {},
        ("send", "line_out_of_support", True),
        id="upgrade-that-is-sent-replaces-the-job",
    ),
    pytest.param(
        entry("26.2", action=Action.REINSTALL, method=Method.STARTOSINSTALL),
        mac(),
        apple(),
        {},
        ("send", "security_update", True),
        id="reinstall-no-longer-needed",
    ),
]


@pytest.mark.parametrize(("job", "device", "advisories", "settings", "want"), OPEN_JOBS)
def test_open_job_is_kept_or_superseded(
    job: JobEntry,
    device: Device,
    advisories: Any,
    settings: dict[str, Any],
    want: tuple[str, str, bool],
) -> None:
    s = situation(device, advisories=advisories, rules=policy(**settings), job_history=(job,))
    assert summary(decide(s)) == want


def test_next_eligible_at_is_at_most_the_timeout_of_the_open_job() -> None:
    low = mac(free_disk_gb=1.0)
    assert decide(situation(low, job_history=(entry(),))).next_eligible_at == NOW + 8 * HOUR
    begun = decide(situation(low, job_history=(entry(**STARTED),)))
    assert begun.next_eligible_at == NOW - 2 * HOUR + 3 * DAY
    unwanted = decide(situation(mac("26.2"), job_history=(entry(**STARTED),)))
    assert unwanted.next_eligible_at == NOW - 2 * HOUR + 3 * DAY


def test_next_eligible_at_is_that_of_the_need_that_opens_first() -> None:
    rules = policy(windows=[{"from": "22:00", "to": "23:00"}])
    checked_out = apply_checked_out(
        mac(ade_enrolled=False), MdmCheckedOut(udid=UDID), to_us(NOW - HOUR)
    )
    known = catalogue(release("26.2", day="2026-01-15"))
    decision = decide(situation(checked_out, advisories=known, rules=rules))
    assert decision.reason is Reason.NEEDS_PERSON
    assert decision.next_eligible_at == at("2026-01-20T22:00")


def test_compliant_mac_is_rechecked_when_its_identity_must_be_renewed() -> None:
    device = mac("26.2", identity_expires_at=NOW + 30 * DAY)
    assert decide(situation(device)).next_eligible_at == NOW + 9 * DAY
    assert decide(situation(mac("26.2"))).next_eligible_at is None


def test_record_with_only_a_serial_number_gets_udid_unknown() -> None:
    decision = decide(situation(mac(udid="serial:C02TEST0001")))
    assert (decision.decision, decision.reason) == (Verdict.NOTHING, Reason.UDID_UNKNOWN)
    assert decision.cves


FAR = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]


@pytest.mark.parametrize("edge", FAR, ids=["year-1", "year-9999"])
def test_times_at_the_ends_of_the_calendar_give_a_decision(edge: datetime) -> None:
    rules = policy(
        thresholds={"cool_down": "3650d", "cool_down_max": "3650d"},
        deadlines={"high": "3650d"},
        deferrals={"high": "3650d"},
    )
    device = mac(identity_expires_at=edge, loan_returned_at=edge, boot_at=edge)
    known = catalogue(release("26.2", day=edge.date().isoformat().zfill(10), first_seen_at=edge))
    for one in (device, mac(identity_expires_at=edge)):
        assert decide(situation(one, advisories=known, rules=rules)).reason


TELEMETRY = [
    pytest.param(mac("26.2"), (), False, id="compliant"),
    pytest.param(mac(free_disk_gb=1.0), (), True, id="low-disk"),
    pytest.param(mac(seen_at=NOW - 20 * DAY), (), True, id="stale"),
    pytest.param(mac(site=None), (), False, id="no-site"),
    pytest.param(
        mac("26.2"),
        (entry("x", action=Action.REINSTALL, **STARTED),),
        False,
        id="compliant-with-a-begun-job",
    ),
]


@pytest.mark.parametrize(("device", "history", "recheck"), TELEMETRY)
def test_decisions_that_telemetry_can_change_are_marked(
    device: Device, history: Any, recheck: bool
) -> None:
    assert evaluate(situation(device, job_history=history)).recheck_on_telemetry is recheck


# --- jobs ---


def built_job(s: Any) -> Any:
    decision = decide(s)
    assert decision.decision is Verdict.SEND
    return build_job(s, decision)


NIGHT = policy(windows=[{"from": "22:00", "to": "04:00"}])


def test_a_job_must_begin_before_the_window_closes() -> None:
    known = catalogue(release("26.2", day="2026-01-15"))
    job = built_job(situation(advisories=known, rules=NIGHT, now=at("2026-01-20T23:00")))
    assert job.expires_at == at("2026-01-21T04:00")
    assert job.report_by == at("2026-01-23T23:00")
    assert job.enforce_at == at("2026-01-21T00:00")
    assert (job.target.key, job.intent, job.generation) == ("26.2/25C56", "26.2", 0)


def test_job_has_half_an_hour_to_begin_although_the_window_closes() -> None:
    known = catalogue(release("26.2", day="2026-01-15"))
    job = built_job(situation(advisories=known, rules=NIGHT, now=at("2026-01-21T03:55")))
    assert job.expires_at == at("2026-01-21T04:25")


def test_job_past_its_deadline_does_not_expire_with_the_window() -> None:
    job = built_job(situation(rules=NIGHT))
    assert job.expires_at == NOW + 3 * DAY


def test_job_expires_after_half_an_hour_if_the_policy_allows_less() -> None:
    rules = policy(thresholds={"job_expires_after": "0m", "reenroll_expires_after": "0m"})
    for device in (mac(), mac(user_approved=False)):
        job = built_job(situation(device, rules=rules))
        assert job.expires_at == job.report_by == NOW + HOUR / 2


def test_only_ddm_jobs_have_an_enforcement_time() -> None:
    rules = policy(methods={"update": ["softwareupdate"]})
    assert built_job(situation(rules=rules)).enforce_at is None


def test_a_job_that_erases_carries_its_approval() -> None:
    device = mac("26.2", loan_returned_at=NOW - HOUR)
    job_id = decide(situation(device)).job_id
    assert job_id is not None
    given = approval(job_id)
    job = built_job(situation(device, approvals=(given,)))
    assert job.erases
    assert job.approval == given.signed


def test_only_a_mac_held_for_capacity_waits_for_capacity() -> None:
    for device in (mac(), mac("26.2")):
        assert not evaluate(situation(device)).waits_for
    assert evaluate(situation(site_open_jobs=25)).waits_for == {Action.UPDATE}


def test_a_job_without_a_release_is_withdrawn_from_a_mac_that_is_held() -> None:
    aimless = entry("other", version=None)
    decision = decide(situation(mac(free_disk_gb=1.0), job_history=(aimless,)))
    assert (decision.reason, decision.supersedes) == (Reason.LOW_DISK, aimless.job_id)
