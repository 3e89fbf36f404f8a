"""Jobs an hour of a site, and Macs that nothing but their own reports confirms."""

from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide.exposure import Exposure
from pipeline.decide.situation import Situation
from pipeline.reconcile import deciding
from pipeline.reconcile.hourly_jobs import HourlyJobs
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import to_us
from schemas.decisions import Reason, Verdict
from schemas.envelope import Event
from schemas.jobs import Action
from schemas.results import ErrorCode, Outcome
from tests.factories import HOUR, NOW, full_report, job, policy_changed, polled, release, resulted
from tests.reconcile_loop import accept, advance, new_reconciler, sweep
from tests.strategies import events

LIMITED = """\
version: 1
sites:
  london:
    time_zone: Europe/London
    max_jobs: 1000
    confirmed: {serials: [C02LISTED], udids: [LISTED-1]}
default_site: london
follow_up: {compliant: false}
"""
# Without what only the MDM channel and operators state.
INVENTORY: dict[str, Any] = {"supervised": None, "ade_enrolled": None, "user_approved": None}


def a_fleet(text: str = LIMITED) -> Reconciler:
    reconciler = new_reconciler()
    for event in (policy_changed(text), release("26.1"), release("26.2")):
        accept(reconciler, event, NOW)
    return reconciler


def add_macs(reconciler: Reconciler, numbers: range, *, known_to_mdm: bool = True) -> None:
    for number in numbers:
        udid = f"MAC-{number:04}"
        if known_to_mdm:
            accept(reconciler, polled(udid), NOW)
        report = full_report(udid=udid, serial=f"C02{number:07}", **INVENTORY)
        accept(reconciler, report, NOW)


def verdicts(reconciler: Reconciler) -> dict[Reason, int]:
    reasons = [one.reason for one in reconciler.last_decisions.values()]
    return {reason: reasons.count(reason) for reason in set(reasons)}


def sent(reconciler: Reconciler) -> int:
    return sum(len(history) for history in reconciler.fleet.job_histories.values())


def restarted(reconciler: Reconciler) -> Reconciler:
    """Return the fleet in a new process, from the state that a shell stores."""
    again = new_reconciler()
    again.fleet.load_broadcast(reconciler.fleet.broadcast_to_wire())
    for device in reconciler.fleet.devices.values():
        again.fleet.put(device)
    again.fleet.job_histories.update(reconciler.fleet.job_histories)
    again.recount_jobs()
    for udid, last in reconciler.last_decisions.items():
        again.restore(udid, last)
    return again


def test_a_small_site_gets_one_update_an_hour() -> None:
    reconciler = a_fleet()
    add_macs(reconciler, range(3))
    assert verdicts(reconciler) == {Reason.JOB_OPEN: 1, Reason.HOURLY_LIMIT: 2}
    next_hour = NOW.replace(minute=0) + HOUR
    advance(reconciler, NOW)
    assert reconciler.next_due_at(NOW + HOUR / 4) == next_hour
    sweep(reconciler, NOW + HOUR / 4)
    assert sent(reconciler) == 1
    advance(reconciler, next_hour)
    assert sent(reconciler) == 2
    advance(reconciler, next_hour + HOUR / 2)
    assert sent(reconciler) == 2
    advance(reconciler, next_hour + HOUR)
    assert sent(reconciler) == 3


def test_waiting_macs_get_the_next_hour_after_a_clock_is_set_back() -> None:
    reconciler = a_fleet()
    add_macs(reconciler, range(3))
    next_hour = NOW.replace(minute=0) + HOUR
    advance(reconciler, next_hour + 24 * HOUR)
    assert sent(reconciler) == 2
    assert reconciler.next_due_at(next_hour) == next_hour
    advance(reconciler, next_hour)
    assert sent(reconciler) == 3


def test_a_job_that_ended_counts_in_its_hour() -> None:
    reconciler = a_fleet()
    add_macs(reconciler, range(2))
    ordered = job("26.2", udid="MAC-0000", issued_at=NOW)
    accept(reconciler, resulted(ordered, Outcome.FAILED, NOW, ErrorCode.NO_DISK_SPACE), NOW)
    assert not reconciler.fleet.job_histories["MAC-0000"][0].is_open
    assert reconciler.last_decisions["MAC-0001"].reason is Reason.HOURLY_LIMIT


def test_limit_is_a_share_of_the_confirmed_macs() -> None:
    reconciler = a_fleet()
    add_macs(reconciler, range(150))
    # The first Macs were decided while the site was small, and wait for the next hour.
    assert sent(reconciler) == 3
    add_macs(reconciler, range(1000, 1500), known_to_mdm=False)
    assert sent(reconciler) == 3
    assert verdicts(reconciler)[Reason.NOT_CONFIRMED] == 500
    advance(reconciler, NOW.replace(minute=0) + HOUR)
    assert sent(reconciler) == 6


def test_restart_changes_no_count() -> None:
    reconciler = a_fleet()
    add_macs(reconciler, range(3))
    again = restarted(reconciler)
    sweep(again, NOW + HOUR / 4)
    assert sent(again) == 1
    advance(again, NOW.replace(minute=0) + HOUR)
    assert sent(again) == 2


def test_each_action_has_a_limit_of_its_own() -> None:
    reconciler = a_fleet()
    add_macs(reconciler, range(1))
    accept(reconciler, polled("MAC-0009"), NOW)
    defect = full_report("26.2", "MAC-0009", serial="C02DEFECT", user_approved=False)
    accept(reconciler, defect, NOW)
    assert +reconciler.open_jobs == {("london", "update"): 1, ("london", "reenroll"): 1}


def test_first_contact_through_mdm_confirms_a_mac() -> None:
    reconciler = a_fleet()
    add_macs(reconciler, range(1), known_to_mdm=False)
    assert reconciler.last_decisions["MAC-0000"].verdict is Verdict.HOLD
    assert verdicts(reconciler) == {Reason.NOT_CONFIRMED: 1}
    accept(reconciler, polled("MAC-0000"), NOW)
    assert verdicts(reconciler) == {Reason.JOB_OPEN: 1}


@pytest.mark.parametrize(
    ("udid", "serial", "reason"),
    [
        ("LISTED-1", "C02OTHER", Reason.JOB_OPEN),
        ("MAC-7", "C02LISTED", Reason.JOB_OPEN),
        ("MAC-7", "C02OTHER", Reason.NOT_CONFIRMED),
    ],
)
def test_allow_list_confirms_a_mac_without_mdm(udid: str, serial: str, reason: Reason) -> None:
    reconciler = a_fleet()
    accept(reconciler, full_report(udid=udid, serial=serial, **INVENTORY), NOW)
    assert reconciler.last_decisions[udid].reason is reason


def test_listed_serial_number_confirms_no_second_mac() -> None:
    reconciler = a_fleet()
    for number in range(300):
        forged = full_report(udid=f"FORGED-{number:03}", serial="C02LISTED", **INVENTORY)
        accept(reconciler, forged, NOW)
    assert sent(reconciler) == 1, "the first was alone when it reported"
    assert reconciler.situation("FORGED-001", NOW).site_macs == 1


@given(st.lists(events(), max_size=14))
def test_counts_of_macs_are_those_of_a_restart(found: list[Event]) -> None:
    reconciler = a_fleet()
    for event in found:
        reconciler.fold(event)
        _ = _sizes(reconciler, NOW)
    assert _sizes(reconciler, NOW) == _sizes(restarted(reconciler), NOW)


def _sizes(reconciler: Reconciler, now: datetime) -> dict[str, int]:
    return {
        udid: reconciler.situation(udid, now).site_macs for udid in sorted(reconciler.fleet.macs())
    }


def test_restart_counts_the_jobs_of_this_hour_beside_one_of_a_clock_that_was_ahead() -> None:
    reconciler = a_fleet()
    add_macs(reconciler, range(3))
    advance(reconciler, NOW + 120 * HOUR)
    histories = reconciler.fleet.job_histories
    assert sent(reconciler) == 2
    site = reconciler.capacity
    for udids in (sorted(histories), sorted(histories, reverse=True)):
        site.recount({udid: histories[udid] for udid in udids})
        assert site.count_issued("london", Action.UPDATE, to_us(NOW)) == 1
        assert site.count_issued("london", Action.UPDATE, to_us(NOW + 120 * HOUR)) == 1


def test_hours_are_forgotten_two_days_later() -> None:
    jobs = HourlyJobs()
    jobs.add("london", Action.UPDATE, to_us(NOW), "MAC-1")
    jobs.forget_before(to_us(NOW + 48 * HOUR))
    assert jobs.count("london", Action.UPDATE, to_us(NOW)) == 1
    jobs.forget_before(to_us(NOW + 49 * HOUR))
    assert jobs.count("london", Action.UPDATE, to_us(NOW)) == 0


def test_mac_whose_exposure_cannot_be_computed_prevents_no_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reconciler = a_fleet()
    add_macs(reconciler, range(3))

    def broken(_: Situation) -> Exposure:
        raise ZeroDivisionError

    monkeypatch.setattr(deciding, "exposure", broken)
    assert verdicts(restarted(reconciler)) == verdicts(reconciler)
