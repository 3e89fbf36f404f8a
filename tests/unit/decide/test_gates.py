"""Gates: each one at its limits, its reason, and the time at which it opens."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.decide.decision import decide
from pipeline.state.device import Device
from schemas.decisions import Decision, Reason, Severity, Verdict
from schemas.ids import derive_job_id
from schemas.jobs import Action
from schemas.results import ErrorCode, Outcome
from tests.factories import (
    DAY,
    HOUR,
    NIGHTS,
    NOW,
    UDID,
    apple,
    approval,
    at,
    catalogue,
    entry,
    failed,
    halt,
    kev,
    mac,
    policy,
    raised,
    release,
    situation,
)

GATES = (
    "site",
    "exemption",
    "owner",
    "identity",
    "halt",
    "fresh",
    "job_open",
    "attempts",
    "cool_down",
    "sure",
    "deferral",
    "method",
    "disk",
    "power",
    "approval",
    "window",
    "site_slots",
)


def failing(decision: Decision) -> list[str]:
    return [gate.gate for gate in decision.gates if not gate.passed]


def test_every_gate_is_evaluated_in_order_and_the_first_closed_one_is_the_reason() -> None:
    rules = policy(windows=[{"from": "22:00", "to": "23:00"}])
    late = catalogue(release("26.2", day="2026-01-19"))
    s = situation(mac(free_disk_gb=1.0), advisories=late, rules=rules, halts=(halt(),))
    decision = decide(s)
    assert tuple(gate.gate for gate in decision.gates) == GATES
    assert failing(decision) == ["halt", "deferral", "disk", "window"]
    assert decision.reason is Reason.HALTED


# --- site, exemption, halt ---

SITES = [
    pytest.param("paris", None, Reason.SITE_UNKNOWN, id="a-site-the-policy-does-not-know"),
    pytest.param(None, None, Reason.SITE_UNKNOWN, id="no-site"),
    pytest.param(None, "london", Reason.SECURITY_UPDATE, id="the-default-site"),
]


@pytest.mark.parametrize(("site", "default", "reason"), SITES)
def test_mac_without_a_site_is_held(site: str | None, default: str | None, reason: Reason) -> None:
    assert decide(situation(mac(site=site), rules=policy(default_site=default))).reason is reason


def exempt(**values: Any) -> list[dict[str, Any]]:
    return [{"who": {"hostnames": ["LON-*"]}, "why": "render farm"} | values]


EXEMPTIONS = [
    pytest.param(exempt(), True, None, id="for-ever"),
    pytest.param(exempt(until=date(2026, 1, 21)), True, at("2026-01-21"), id="until-tomorrow"),
    pytest.param(exempt(until=date(2026, 1, 20)), False, None, id="over-today"),
    pytest.param(exempt(actions=["update"]), True, None, id="for-updates"),
    pytest.param(exempt(actions=["reenroll"]), False, None, id="for-something-else"),
    pytest.param(exempt(who={"serials": ["c02*"]}), True, None, id="by-serial"),
    pytest.param(exempt(who={"models": ["Mac15,*"]}), False, None, id="other-models"),
]


@pytest.mark.parametrize(("exemptions", "held", "until"), EXEMPTIONS)
def test_exempt_mac_is_held_until_the_exemption_ends(
    exemptions: Any, held: bool, until: datetime | None
) -> None:
    decision = decide(situation(rules=policy(exemptions=exemptions)))
    assert (decision.reason is Reason.EXEMPT) is held
    assert decision.next_eligible_at == until


HALTS = [
    pytest.param((halt(),), True, None, id="everything"),
    pytest.param((halt(until=NOW + HOUR),), True, NOW + HOUR, id="for-an-hour"),
    pytest.param((halt(until=NOW),), False, None, id="over-now"),
    pytest.param((halt(site="london"),), True, None, id="its-site"),
    pytest.param((halt(site="tokyo"),), False, None, id="another-site"),
    pytest.param((halt(advisory="macOS-26.2"),), True, None, id="its-advisory"),
    pytest.param((halt(advisory="macOS-15.7.3"),), False, None, id="another-advisory"),
    pytest.param((halt(until=NOW + HOUR), halt(site="london")), True, None, id="the-longer-counts"),
    pytest.param(
        (halt(until=NOW + HOUR), halt(site="london", until=NOW + 2 * HOUR)),
        True,
        NOW + 2 * HOUR,
        id="the-later-end-counts",
    ),
]


@pytest.mark.parametrize(("halts", "held", "until"), HALTS)
def test_mac_is_held_while_a_halt_covers_it(halts: Any, held: bool, until: datetime | None) -> None:
    decision = decide(situation(halts=halts))
    assert (decision.reason is Reason.HALTED) is held
    assert decision.next_eligible_at == until


def test_halt_on_an_advisory_holds_an_upgrade_to_it() -> None:
    decision = decide(situation(mac("13.7.8"), halts=(halt(advisory="macOS-26.2"),)))
    assert (decision.action, decision.reason) == (Action.UPGRADE, Reason.HALTED)
    assert decision.advisory_ids[0] == "macOS-26.2"


def test_halt_on_an_advisory_does_not_hold_reenrollment() -> None:
    s = situation(mac("26.1", user_approved=False), halts=(halt(advisory="macOS-26.2"),))
    assert (decide(s).decision, decide(s).action) == (Verdict.SEND, Action.REENROLL)


# --- freshness ---

AGES = [
    pytest.param(14 * DAY, False, id="at-the-limit"),
    pytest.param(14 * DAY + HOUR, True, id="stale"),
]


@pytest.mark.parametrize(("age", "held"), AGES)
def test_mac_is_held_when_its_last_contact_is_stale(age: Any, held: bool) -> None:
    assert (decide(situation(mac(seen_at=NOW - age))).reason is Reason.STALE_INVENTORY) is held


def test_report_of_an_administrator_does_not_count_as_contact() -> None:
    s = situation(mac(enrolled=False, source="admin"))
    assert decide(s).reason is Reason.STALE_INVENTORY


# --- attempts and cooling down ---

RETRIES = [
    pytest.param(1, 3.9, Reason.COOLING_DOWN, id="cooling-down"),
    pytest.param(1, 4.0, Reason.SECURITY_UPDATE, id="cooled-down"),
    pytest.param(2, 7.9, Reason.COOLING_DOWN, id="twice-as-long"),
    pytest.param(2, 8.0, Reason.SECURITY_UPDATE, id="twice-as-long-is-over"),
    pytest.param(4, 31.9, Reason.COOLING_DOWN, id="eight-times-as-long"),
    pytest.param(5, 1000.0, Reason.RETRIES_EXHAUSTED, id="five-and-no-more"),
]


@pytest.mark.parametrize(("tries", "hours", "reason"), RETRIES)
def test_failed_attempts_double_the_cool_down_and_then_end(
    tries: int, hours: float, reason: Reason
) -> None:
    last_at = NOW - hours * HOUR
    history = failed(tries, ErrorCode.DOWNLOAD_FAILED, first_at=last_at - (tries - 1) * DAY - HOUR)
    decision = decide(situation(job_history=history))
    assert decision.reason is reason
    if reason is Reason.COOLING_DOWN:
        assert decision.next_eligible_at == last_at + 4 * HOUR * 2 ** (tries - 1)


OUT_OF_DATE = [
    pytest.param([50, 40], ErrorCode.NEWER_JOB, False, id="two"),
    pytest.param([50, 40, 30], ErrorCode.NEWER_JOB, True, id="three-within-an-hour"),
    pytest.param([60, 40, 30], ErrorCode.NEWER_JOB, False, id="one-an-hour-ago"),
    pytest.param([50, 40, -30], ErrorCode.NEWER_JOB, False, id="one-of-the-future"),
    pytest.param([50, 40, 30], ErrorCode.HALTED, False, id="halted"),
    pytest.param([50, 40, 30], ErrorCode.SUPERSEDED, False, id="withdrawn"),
    pytest.param([50, 40, 30], None, False, id="presumed"),
]


@pytest.mark.parametrize(("minutes", "code", "waits"), OUT_OF_DATE)
def test_need_waits_after_three_jobs_that_were_out_of_date_within_an_hour(
    minutes: list[int], code: ErrorCode | None, waits: bool
) -> None:
    ended = [NOW - HOUR * ago / 60 for ago in minutes]
    history = tuple(
        entry(
            generation=number,
            issued_at=NOW - 2 * HOUR,
            outcome=Outcome.SUPERSEDED,
            outcome_at=at,
            error_code=code,
        )
        for number, at in enumerate(ended)
    )
    decision = decide(situation(job_history=history))
    assert decision.reason is (Reason.COOLING_DOWN if waits else Reason.SECURITY_UPDATE)
    if waits:
        assert decision.next_eligible_at == min(ended) + HOUR


REHEARSALS = [
    pytest.param(13.9, Reason.DRY_RUN, id="not-again-yet"),
    pytest.param(14.0, Reason.SECURITY_UPDATE, id="again"),
]


@pytest.mark.parametrize(("days", "reason"), REHEARSALS)
def test_rehearsed_job_is_not_sent_again_for_two_weeks(days: float, reason: Reason) -> None:
    ended_at = NOW - days * DAY
    rehearsed = entry(issued_at=ended_at - HOUR, outcome=Outcome.REHEARSED)
    decision = decide(situation(job_history=(rehearsed,)))
    assert decision.reason is reason
    if reason is Reason.DRY_RUN:
        assert decision.next_eligible_at == ended_at + 14 * DAY
    else:
        assert decision.generation == rehearsed.generation + 1


LATER_JOBS = [
    pytest.param({"outcome": Outcome.SUPERSEDED}, id="the-site-is-live"),
    pytest.param({"intent": "26.1"}, id="of-another-release"),
]


@pytest.mark.parametrize("change", LATER_JOBS)
def test_rehearsal_that_is_out_of_date_holds_nothing(change: dict[str, Any]) -> None:
    values = {"outcome": Outcome.REHEARSED} | change
    earlier = entry(issued_at=NOW - 2 * HOUR, **values)
    assert decide(situation(job_history=(earlier,))).decision is Verdict.SEND


def test_mac_whose_attempts_were_reset_gets_the_next_job() -> None:
    history = failed(5, ErrorCode.DOWNLOAD_FAILED)
    assert decide(situation(job_history=history)).reason is Reason.RETRIES_EXHAUSTED
    decision = decide(situation(job_history=tuple(replace(one, reset=True) for one in history)))
    assert (decision.decision, decision.generation) == (Verdict.SEND, 5)


def test_attempts_are_counted_anew_for_a_newer_release() -> None:
    known = apple(release("26.3", day="2026-01-01"))
    history = failed(5, ErrorCode.DOWNLOAD_FAILED)
    assert decide(situation(advisories=known, job_history=history)).decision is Verdict.SEND


def test_attempts_that_did_not_reach_the_mac_do_not_count() -> None:
    history = tuple(
        entry(
            generation=number,
            issued_at=NOW - (20 - number) * DAY,
            outcome=Outcome.EXPIRED,
            error_code=ErrorCode.EXPIRED,
        )
        for number in range(9)
    )
    decision = decide(situation(job_history=history))
    assert (decision.decision, decision.generation) == (Verdict.SEND, 9)


def test_each_attempt_has_a_new_job_id() -> None:
    decision = decide(situation(job_history=failed(2, ErrorCode.NO_DISK_SPACE)))
    assert decision.job_id == derive_job_id(UDID, "update", "26.2", 2)


def test_job_id_is_unchanged_when_a_feed_removes_or_adds_a_build() -> None:
    blank = release("26.2", build="", first_seen_at=NOW - DAY)
    two = release("26.2", build="25C56,25C2056", source="gdmf", first_seen_at=NOW - DAY)
    ids = {decide(situation(advisories=apple(*more))).job_id for more in ((), (blank,), (two,))}
    assert len(ids) == 1


# --- deferral, deadline, window ---

DEFERRALS = [
    pytest.param("critical", 0, id="critical"),
    pytest.param("high", 2, id="high"),
    pytest.param("medium", 5, id="medium"),
    pytest.param("low", 7, id="low"),
]


@pytest.mark.parametrize(("severity", "days"), DEFERRALS)
def test_deferral_of_a_release_depends_on_its_severity(severity: str, days: int) -> None:
    known = catalogue(release("26.2", day="2026-01-10", severity=severity))
    ripe_at = at("2026-01-10") + days * DAY
    device = mac(seen_at=at("2026-01-09"))
    if days:
        early = decide(situation(device, advisories=known, now=ripe_at - HOUR / 60))
        assert (early.reason, early.next_eligible_at) == (Reason.DEFERRED, ripe_at)
    assert decide(situation(device, advisories=known, now=ripe_at)).decision is Verdict.SEND


def test_release_for_an_exploited_cve_is_not_deferred() -> None:
    known = catalogue(
        release("26.2", day="2026-01-20", severity="low", exploited=["CVE-2025-43529"])
    )
    decision = decide(situation(advisories=known))
    assert (decision.decision, decision.severity) == (Verdict.SEND, Severity.EXPLOITED)


def test_deferral_begins_when_drydock_first_knew_of_the_release() -> None:
    known = catalogue(release("26.2", day="2026-01-01", first_seen_at=NOW - DAY))
    assert decide(situation(advisories=known)).next_eligible_at == NOW + DAY


def test_a_passed_deadline_ends_deferral_and_windows() -> None:
    rules = policy(
        windows=[{"from": "22:00", "to": "23:00"}],
        deadlines={"high": "1d"},
        deferrals={"high": "9d"},
    )
    known = catalogue(release("26.2", day="2026-01-19"))
    before = decide(situation(advisories=known, rules=rules, now=at("2026-01-19T23:30")))
    assert before.reason is Reason.DEFERRED
    assert before.next_eligible_at == at("2026-01-20")
    assert decide(situation(advisories=known, rules=rules)).decision is Verdict.SEND


DEADLINES: list[Any] = [
    pytest.param("exploited", {"exploited": ["CVE-2025-43529"]}, 3, id="exploited"),
    pytest.param("critical", {"severity": "critical"}, 7, id="critical"),
    pytest.param("high", {"severity": "high"}, 14, id="high"),
    pytest.param("medium", {"severity": "medium"}, 30, id="medium"),
    pytest.param("low", {"severity": "low"}, 30, id="low"),
    pytest.param("routine", {"severity": None, "cves": []}, 45, id="routine"),
    pytest.param("high", {"severity": None}, 14, id="unrated-holes-count-as-high"),
]


@pytest.mark.parametrize(("severity", "values", "days"), DEADLINES)
def test_deadline_depends_on_the_severity(
    severity: str, values: Mapping[str, Any], days: int
) -> None:
    known = catalogue(release("26.2", day="2026-01-15", **values))
    decision = decide(situation(advisories=known))
    assert decision.deadline_at == at("2026-01-15") + days * DAY
    assert (decision.severity or Severity.ROUTINE).value == severity


CVE = "CVE-2025-43529"
CISA = [
    pytest.param(at("2026-01-16"), at("2026-01-18"), at("2026-01-18"), id="its-date-is-earlier"),
    pytest.param(at("2026-01-16"), at("2026-02-18"), at("2026-01-19"), id="ours-is-earlier"),
    pytest.param(at("2026-01-16"), None, at("2026-01-19"), id="no-date-but-exploited"),
    pytest.param(
        at("2026-01-16"),
        at("2026-01-10"),
        at("2026-01-19"),
        id="date-passed-before-the-cve-was-known",
    ),
]


@pytest.mark.parametrize(("first_seen_at", "due", "deadline"), CISA)
def test_cisa_date_is_the_deadline_if_it_is_earlier(
    first_seen_at: datetime, due: datetime | None, deadline: datetime
) -> None:
    known = catalogue(
        release("26.2", day="2026-01-14", cves=[CVE]),
        kev(CVE, due=due, first_seen_at=first_seen_at),
    )
    assert decide(situation(advisories=known)).deadline_at == deadline


def test_cisa_dates_can_be_switched_off() -> None:
    known = catalogue(
        release("26.2", day="2026-01-14", cves=[CVE]),
        kev(CVE, due=at("2026-01-17"), first_seen_at=at("2026-01-16")),
    )
    rules = policy(deadlines={"kev_due_dates": False})
    assert decide(situation(advisories=known, rules=rules)).deadline_at == at("2026-01-19")


def test_deadline_counts_from_the_first_time_that_drydock_knew() -> None:
    known = catalogue(
        release("26.2", day="2025-12-12", cves=[CVE], first_seen_at=NOW - HOUR),
        kev(CVE, due=at("2026-01-05"), first_seen_at=at("2025-12-15")),
    )
    decision = decide(situation(advisories=known))
    assert decision.deadline_at == NOW - HOUR + 3 * DAY


def test_deadline_becomes_earlier_when_a_cve_becomes_exploited() -> None:
    known = apple()
    later = known.apply(raised("26.2", exploited=[CVE], first_seen_at=at("2025-12-15")))
    assert decide(situation(advisories=known)).deadline_at == at("2025-12-26")
    assert decide(situation(advisories=later)).deadline_at == at("2025-12-18")


WINDOWS = [
    pytest.param("2026-01-20T21:59", False, id="before"),
    pytest.param("2026-01-20T22:00", True, id="opens"),
    pytest.param("2026-01-21T03:59", True, id="past-midnight"),
    pytest.param("2026-01-21T04:00", False, id="closes"),
]


@pytest.mark.parametrize(("now", "open_"), WINDOWS)
def test_update_is_held_outside_the_window(now: str, open_: bool) -> None:
    known = catalogue(release("26.2", day="2026-01-15"))
    s = situation(advisories=known, rules=policy(windows=NIGHTS), now=at(now))
    decision = decide(s)
    assert (decision.decision is Verdict.SEND) is open_
    if not open_:
        assert decision.reason is Reason.OUTSIDE_WINDOW
        assert decision.next_eligible_at == at(now[:10] + "T22:00")


def test_windows_and_time_zone_are_those_of_the_site() -> None:
    tokyo = {"time_zone": "Asia/Tokyo", "windows": list(NIGHTS)}
    known = catalogue(release("26.2", day="2026-01-15"))
    rules = policy(sites={"tokyo": tokyo})
    s = situation(mac(site="tokyo"), advisories=known, rules=rules)
    assert decide(s).next_eligible_at == at("2026-01-20T13:00")


def test_without_windows_an_update_is_held_until_its_deadline() -> None:
    known = catalogue(release("26.2", day="2026-01-15"))
    s = situation(advisories=known, rules=policy(windows=[]))
    assert decide(s).next_eligible_at == at("2026-01-29")


# --- preconditions ---

TELEMETRY = [
    pytest.param({"free_disk_gb": 15.0}, "26.1", None, id="just-enough-disk"),
    pytest.param({"free_disk_gb": 14.9}, "26.1", Reason.LOW_DISK, id="too-little-disk"),
    pytest.param({"free_disk_gb": None}, "26.1", None, id="disk-unknown"),
    pytest.param({"free_disk_gb": 43.9}, "13.7.8", Reason.LOW_DISK, id="upgrades-need-more"),
    pytest.param({"on_ac_power": False, "battery_percent": 20.0}, "26.1", None, id="just-enough"),
    pytest.param(
        {"on_ac_power": False, "battery_percent": 19.0}, "26.1", Reason.LOW_POWER, id="battery-low"
    ),
    pytest.param(
        {"on_ac_power": False, "battery_percent": 49.0, "model": "MacBookPro16,1"},
        "26.1",
        Reason.LOW_POWER,
        id="intel-needs-more",
    ),
    pytest.param({"on_ac_power": True, "battery_percent": 1.0}, "26.1", None, id="plugged-in"),
    pytest.param({"on_ac_power": None, "battery_percent": None}, "26.1", None, id="a-desktop"),
]


@pytest.mark.parametrize(("facts", "version", "reason"), TELEMETRY)
def test_update_is_held_for_low_disk_or_low_power(
    facts: dict[str, Any], version: str, reason: Reason | None
) -> None:
    decision = decide(situation(mac(version, **facts)))
    assert decision.reason is reason or (reason is None and decision.decision is Verdict.SEND)


def test_reenrollment_is_sent_with_low_disk_and_low_power() -> None:
    weak = mac(
        "26.2", free_disk_gb=0.1, on_ac_power=False, battery_percent=1.0, user_approved=False
    )
    assert decide(situation(weak)).decision is Verdict.SEND


# --- approval ---


def erasing(**rest: Any) -> Decision:
    device = mac("26.2", loan_returned_at=NOW - HOUR)
    return decide(situation(device, **rest))


APPROVALS = [
    pytest.param({}, True, id="granted"),
    pytest.param({"expires_at": NOW}, False, id="expired"),
    pytest.param({"udid": "OTHER"}, False, id="another-mac"),
    pytest.param({"action": "reimage"}, False, id="another-action"),
    pytest.param({"job_id": "job-other"}, False, id="another-job"),
]


@pytest.mark.parametrize(("values", "sends"), APPROVALS)
def test_erasing_job_is_held_until_it_is_approved(values: dict[str, Any], sends: bool) -> None:
    held = erasing()
    assert (held.reason, held.next_eligible_at) == (Reason.AWAITING_APPROVAL, None)
    given = {"job_id": held.job_id} | values
    decision = erasing(approvals=(approval(**given),))
    assert (decision.decision is Verdict.SEND) is sends


# --- capacity ---

CAPACITY = [pytest.param(24, True, id="one-left"), pytest.param(25, False, id="full")]


@pytest.mark.parametrize(("others", "sends"), CAPACITY)
def test_update_is_held_when_the_site_is_full(others: int, sends: bool) -> None:
    decision = decide(situation(site_open_jobs=others))
    assert (decision.decision is Verdict.SEND) is sends
    if not sends:
        assert decision.reason is Reason.SITE_FULL


def test_reenrollment_is_sent_when_the_site_is_full() -> None:
    s = situation(mac("26.2", user_approved=False), site_open_jobs=99)
    assert decide(s).decision is Verdict.SEND


MATURING = [
    pytest.param("2026-01-14", "26.2", None, id="the-older-one-while-the-newer-matures"),
    pytest.param("2026-01-17T23:59", "26.2", None, id="to-the-last-minute"),
    pytest.param("2026-01-18", "26.3", None, id="the-newer-one-once-mature"),
    pytest.param("2026-01-11", "26.2", at("2026-01-12"), id="none-mature-the-first-to-be"),
]


@pytest.mark.parametrize(("now", "target", "held_until"), MATURING)
def test_older_release_is_sent_while_a_newer_one_matures(
    now: str, target: str, held_until: datetime | None
) -> None:
    known = catalogue(release("26.2", day="2026-01-10"), release("26.3", day="2026-01-16"))
    early = catalogue(release("26.2", day="2026-01-10"), release("26.3", day="2026-01-11"))
    advisories = early if held_until else known
    decision = decide(situation(mac(seen_at=at("2026-01-09")), advisories=advisories, now=at(now)))
    assert decision.target is not None
    assert str(decision.target.version) == target
    assert (decision.decision is Verdict.HOLD) is (held_until is not None)
    assert decision.next_eligible_at == held_until


def test_release_for_an_exploited_cve_is_sent_instead_of_the_older_one() -> None:
    known = catalogue(
        release("26.2", day="2026-01-10"),
        release("26.3", day="2026-01-20", exploited=["CVE-2025-43529"]),
    )
    decision = decide(situation(advisories=known))
    assert decision.target is not None
    assert (decision.decision, str(decision.target.version)) == (Verdict.SEND, "26.3")


def test_mac_with_an_open_job_is_rechecked_when_a_newer_release_matures() -> None:
    known = catalogue(release("26.2", day="2026-01-10"), release("26.3", day="2026-01-18T18:00"))
    decision = decide(situation(advisories=known, job_history=(entry(),)))
    assert (decision.reason, decision.next_eligible_at) == (
        Reason.JOB_OPEN,
        at("2026-01-20T18:00"),
    )


YOUNG = catalogue(release("26.2", day="2026-01-19"))
LONG_DEFERRAL = policy(deferrals={"high": "9d"})


def test_reinstall_for_a_broken_seal_is_not_deferred() -> None:
    broken = mac("26.2", system_volume_sealed=False)
    decision = decide(situation(broken, advisories=YOUNG, rules=LONG_DEFERRAL))
    assert (decision.decision, decision.action) == (Verdict.SEND, Action.REINSTALL)
    update = decide(situation(advisories=YOUNG, rules=LONG_DEFERRAL))
    assert update.reason is Reason.DEFERRED


def test_reenrollment_is_sent_outside_the_window_and_an_update_is_not() -> None:
    rules = policy(windows=NIGHTS)
    fallen_out = mac("26.2", user_approved=False)
    assert decide(situation(fallen_out, rules=rules)).decision is Verdict.SEND
    mature = catalogue(release("26.2", day="2026-01-15"))
    assert decide(situation(advisories=mature, rules=rules)).reason is Reason.OUTSIDE_WINDOW


def details(decision: Decision) -> dict[str, str]:
    return {gate.gate: gate.detail for gate in decision.gates if gate.detail}


def test_gates_record_what_they_compared() -> None:
    on_battery = mac(on_ac_power=False, battery_percent=90.0)
    mature = catalogue(release("26.2", day="2026-01-15"))
    sent = decide(situation(on_battery, advisories=mature, site_open_jobs=3))
    assert details(sent) == {
        "site": "london",
        "method": "ddm on macOS 26.1",
        "disk": "200 GB free, 15 GB wanted",
        "power": "battery 90 %, 20 % wanted",
        "approval": "erases nothing",
        "window": "open",
        "site_slots": "3 of 25 jobs open",
    }
    unknown = decide(situation(mac(free_disk_gb=None, on_ac_power=None, battery_percent=None)))
    assert details(unknown)["disk"] == "unknown: the executor looks first"
    assert details(unknown)["power"] == "unknown: the executor looks first"
    assert "power" not in details(decide(situation(mac(on_ac_power=True, battery_percent=None))))


def test_gate_detail_names_the_approver() -> None:
    job_id = erasing().job_id
    assert job_id is not None
    granted = erasing(approvals=(approval(job_id),))
    assert details(granted)["approval"] == "by ada"


def test_returned_mac_is_held_for_a_day_before_mdm_counts_as_silent() -> None:
    back = mac("26.2", mdm_seen_at=NOW - 30 * DAY, seen_at=NOW - HOUR)
    decision = decide(situation(back))
    assert (decision.decision, decision.reason) == (Verdict.HOLD, Reason.AWAITING_CONTACT)
    assert decision.next_eligible_at == NOW + 23 * HOUR
    later = decide(situation(back, now=NOW + 23 * HOUR))
    assert (later.decision, later.reason) == (Verdict.SEND, Reason.MDM_SILENT)


def test_window_gate_passes_without_a_site() -> None:
    s = situation(mac(site="paris"), rules=policy(windows=[]))
    assert failing(decide(s)) == ["site"]


def test_job_for_another_need_is_superseded_unless_it_may_have_touched_the_mac() -> None:
    older = entry("26.1", version="26.1")
    superseding = decide(situation(job_history=(older,)))
    assert superseding.decision is Verdict.SEND
    assert details(superseding)["job_open"] == f"supersedes {older.job_id}"
    begun = entry("26.1", version="26.1", outcome=Outcome.STARTED)
    assert decide(situation(job_history=(begun,))).reason is Reason.JOB_OPEN


WEAK_BATTERIES = [
    pytest.param("Mac16,1", 20.0, True, id="apple-silicon"),
    pytest.param("VirtualMac2,1", 20.0, True, id="virtual"),
    pytest.param("MacBookPro16,1", 20.0, False, id="intel"),
    pytest.param("MacBookPro16,1", 50.0, True, id="intel-half-full"),
]


@pytest.mark.parametrize(("model", "percent", "sends"), WEAK_BATTERIES)
def test_intel_needs_a_higher_battery_level(model: str, percent: float, sends: bool) -> None:
    device = mac(model=model, on_ac_power=False, battery_percent=percent)
    assert ("power" not in failing(decide(situation(device)))) is sends


NEEDING = [
    pytest.param(mac(), id="update"),
    pytest.param(mac("26.2", user_approved=False), id="reenrollment"),
    pytest.param(mac("26.2", loan_returned_at=NOW - HOUR), id="erase"),
    pytest.param(mac("13.7.8", free_disk_gb=1.0), id="upgrade"),
    pytest.param(mac(site="paris", on_ac_power=None, battery_percent=None), id="no-site"),
]


@pytest.mark.parametrize("device", NEEDING)
def test_every_need_is_recorded_with_every_gate(device: Device) -> None:
    assert tuple(gate.gate for gate in decide(situation(device)).gates) == GATES
