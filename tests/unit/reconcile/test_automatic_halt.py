"""The halt that Drydock itself sets, when too many Macs of a site need one action within a day."""

from datetime import datetime, timedelta

import pytest

from pipeline.embedded.control_events import halt_cleared
from pipeline.policy.blast_radius import BlastRadius
from pipeline.reconcile.automatic_halt import action_scope
from pipeline.reconcile.counting import count_automatic_halts, count_halts
from pipeline.reconcile.reconciler import Reconciler
from schemas.decisions import Reason
from schemas.envelope import HaltSetEvent
from schemas.findings import FindingCode
from schemas.jobs import Action
from schemas.results import ErrorCode, Outcome
from tests.factories import HOUR, NOW, full_report, job, policy_changed, release, resulted
from tests.reconcile_loop import accept, advance, new_reconciler

POLICY = """\
version: 1
blast_radius: {jobs_per_hour: null, confirmed_only: false%s}
sites:
  london: {time_zone: Europe/London, max_jobs: 1000}
  tokyo: {time_zone: Asia/Tokyo, max_jobs: 1000}
default_site: london
follow_up: {compliant: false}
"""
SCOPE = action_scope("london", Action.REENROLL)


def a_fleet(more: str = "") -> Reconciler:
    reconciler = new_reconciler()
    for event in (policy_changed(POLICY % more), release("26.1"), release("26.2")):
        accept(reconciler, event, NOW)
    return reconciler


def break_enrollment(
    reconciler: Reconciler,
    numbers: range,
    at: datetime = NOW,
    *,
    site: str = "london",
    version: str = "26.2",
) -> list[HaltSetEvent]:
    """Let Macs report that their enrollment is not approved; return the halts that follow."""
    halts = []
    for number in numbers:
        report = full_report(
            version,
            f"MAC-{number:03}",
            at,
            serial=f"C02{number:07}",
            site=site,
            user_approved=False,
        )
        changes = accept(reconciler, report, at)
        halts += [one.value for one in changes.records if isinstance(one.value, HaltSetEvent)]
    return halts


def sent(reconciler: Reconciler) -> int:
    return sum(len(history) for history in reconciler.fleet.job_histories.values())


def resume(reconciler: Reconciler, at: datetime) -> None:
    accept(reconciler, halt_cleared(SCOPE, "ada", at), at)
    advance(reconciler, at)


def reasons(reconciler: Reconciler) -> list[Reason]:
    return [reconciler.last_decisions[udid].reason for udid in sorted(reconciler.last_decisions)]


def test_action_is_halted_when_one_mac_too_many_needs_it() -> None:
    reconciler = a_fleet()
    assert not break_enrollment(reconciler, range(5))
    (halt,) = break_enrollment(reconciler, range(5, 8))
    assert sent(reconciler) == 5
    assert reasons(reconciler) == [Reason.HALTED] * 8
    assert +reconciler.open_jobs == {("london", "reenroll"): 5}
    assert halt.data.scope.key == "site:london/reenroll"
    assert halt.data.is_automatic
    assert halt.data.why.startswith("5 of 6 Macs got a job for reenroll within a day")
    assert reconciler.findings["london", FindingCode.ACTION_HALTED] == 8
    assert count_halts(reconciler.fleet, NOW) == {"action": 1}
    assert count_automatic_halts(reconciler.fleet, NOW) == {"reenroll": 1}


def test_halt_of_an_action_holds_neither_another_action_nor_another_site() -> None:
    reconciler = a_fleet()
    break_enrollment(reconciler, range(6))
    accept(reconciler, full_report("26.1", "MAC-100", serial="C02OTHER"), NOW)
    break_enrollment(reconciler, range(200, 201), site="tokyo")
    jobs = reconciler.fleet.job_histories
    assert jobs["MAC-100"][0].action is Action.UPDATE
    assert jobs["MAC-200"][0].action is Action.REENROLL


def test_open_update_is_not_withdrawn_for_a_job_that_is_halted() -> None:
    reconciler = a_fleet()
    accept(reconciler, full_report("26.1", "MAC-005", serial="C020000005"), NOW)
    break_enrollment(reconciler, range(5))
    (halt,) = break_enrollment(reconciler, range(5, 6), NOW + HOUR, version="26.1")
    assert halt.data.scope == SCOPE
    (update,) = reconciler.fleet.job_histories["MAC-005"]
    assert update.action is Action.UPDATE
    assert update.is_open


def test_share_of_a_large_site_is_a_percentage() -> None:
    reconciler = a_fleet()
    for number in range(1000, 1200):
        accept(reconciler, full_report("26.2", f"MAC-{number}", serial=f"C02X{number}"), NOW)
    break_enrollment(reconciler, range(20))
    assert sent(reconciler) == 10


@pytest.mark.parametrize("more", [", halt_above: null", ", halt_above: {reenroll: null}"])
def test_without_a_share_nothing_is_halted(more: str) -> None:
    reconciler = a_fleet(more)
    assert not break_enrollment(reconciler, range(20))
    assert sent(reconciler) == 20


def test_updates_are_not_halted_by_default() -> None:
    assert BlastRadius().halt_limit(Action.UPDATE, 1000) is None
    assert BlastRadius().halt_limit(Action.REINSTALL, 1000) == 50
    assert BlastRadius().halt_limit(Action.REINSTALL, 10) == 5


def test_jobs_of_more_than_a_day_ago_do_not_count() -> None:
    reconciler = a_fleet()
    break_enrollment(reconciler, range(5))
    assert not break_enrollment(reconciler, range(5, 10), NOW + timedelta(days=1, seconds=1))
    assert sent(reconciler) == 10


def test_resumed_action_is_halted_again_only_for_other_macs() -> None:
    reconciler = a_fleet()
    break_enrollment(reconciler, range(8))
    resume(reconciler, NOW + HOUR)
    assert sent(reconciler) == 8, "the three that waited"
    assert not reconciler.fleet.halts()
    again = NOW + 2 * HOUR
    for number in range(5):  # the jobs of the first five fail, and are issued again
        udid = f"MAC-{number:03}"
        first = reconciler.fleet.job_histories[udid][0]
        failed = job(first.intent, udid=udid, action=Action.REENROLL, version=None)
        assert failed.job_id == first.job_id
        accept(reconciler, resulted(failed, Outcome.FAILED, again, ErrorCode.UNREACHABLE), again)
    later = NOW + 12 * HOUR
    assert not break_enrollment(reconciler, range(5), later)
    assert sent(reconciler) == 13, "a second job for each of the first five"
    assert len(break_enrollment(reconciler, range(20, 25), later)) == 1
    assert sent(reconciler) == 15, "two more Macs, besides the three"


def test_restart_counts_the_same_macs() -> None:
    reconciler = a_fleet()
    break_enrollment(reconciler, range(5))
    reconciler.recount_jobs()
    assert len(break_enrollment(reconciler, range(5, 6))) == 1


def test_partition_of_a_fleet_halts_nothing_itself() -> None:
    reconciler = new_reconciler(partitions=4)
    for event in (policy_changed(POLICY % ""), release("26.1"), release("26.2")):
        accept(reconciler, event, NOW)
    assert not break_enrollment(reconciler, range(20))
    assert sent(reconciler) == 20
