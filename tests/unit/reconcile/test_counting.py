"""The counts behind the gauges of the fleet: incremental, by class of age, and after a restart."""

from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fleet_counts import MAX_CVES, OLDER
from pipeline.reconcile.counting import count_fleet, count_halts, digest_in_force
from pipeline.reconcile.last_decision import LastDecision, LastDecisions
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import to_us
from schemas.decisions import Reason, Severity, Verdict
from tests import factories as make
from tests.reconcile_loop import accept, new_reconciler

CVES = tuple(f"CVE-2026-{number:05d}" for number in range(MAX_CVES + 5))


def a_decision(
    reason: Reason = Reason.LOW_DISK,
    site: str | None = "london",
    severity: Severity | None = Severity.EXPLOITED,
    exposed_us: int = 0,
    exploited: tuple[str, ...] = (),
) -> LastDecision:
    return LastDecision(
        *(b"", Verdict.HOLD, reason, 0, site, severity, 0),
        exposed_us=exposed_us,
        exploited=exploited,
    )


def a_reconciler(*decisions: LastDecision) -> Reconciler:
    reconciler = new_reconciler()
    for number, one in enumerate(decisions):
        reconciler.counts.put(f"MAC-{number}", one)
    return reconciler


_DECISIONS = st.builds(
    a_decision,
    st.sampled_from([Reason.LOW_DISK, Reason.HALTED]),
    st.sampled_from(["london", None]),
    st.sampled_from([Severity.EXPLOITED, Severity.LOW, None]),
    st.sampled_from([0, to_us(make.NOW)]),
    st.sampled_from([(), CVES[:1], CVES[:2]]),
)
_STEPS = st.tuples(st.sampled_from("abc"), st.one_of(st.none(), _DECISIONS))


@given(st.lists(_STEPS))
def test_counts_are_those_of_the_last_decisions(
    steps: list[tuple[str, LastDecision | None]],
) -> None:
    changed, once = LastDecisions(), LastDecisions()
    for udid, decision in steps:
        if decision is None:
            changed.remove(udid)
        else:
            changed.put(udid, decision)
    for udid, decision in changed.by_udid.items():
        once.put(udid, decision)
    assert +changed.decided == once.decided
    assert +changed.exposed == once.exposed
    assert changed.exposed_days == once.exposed_days
    assert changed.exploited == once.exploited


@pytest.mark.parametrize(
    ("days", "age"),
    [(-1, "1d"), (0, "1d"), (2, "7d"), (13, "14d"), (20, "30d"), (60, "90d"), (400, OLDER)],
)
def test_exposed_mac_is_in_the_class_of_its_age(days: int, age: str) -> None:
    since = to_us(make.NOW - timedelta(days=days))
    counts = count_fleet([a_reconciler(a_decision(exposed_us=since))], make.NOW)
    assert counts.exposure_ages == {("london", "exploited", age): 1}


def test_exploited_cves_are_those_with_the_most_macs() -> None:
    first = a_reconciler(*(a_decision(exploited=CVES[: number + 1]) for number in range(3)))
    second = a_reconciler(a_decision(exploited=CVES))
    found = count_fleet([first, second], make.NOW).exploited_cves
    assert len(found) == MAX_CVES
    assert list(found.items())[:4] == [(CVES[0], 4), (CVES[1], 3), (CVES[2], 2), (CVES[3], 1)]


def test_held_macs_are_counted_by_site_and_reason() -> None:
    reconciler = a_reconciler(a_decision(), a_decision(site=None), a_decision())
    assert count_fleet([reconciler], make.NOW).decided == {
        ("london", Verdict.HOLD, Reason.LOW_DISK): 2,
        ("", Verdict.HOLD, Reason.LOW_DISK): 1,
    }


def test_open_job_is_in_the_class_of_its_age() -> None:
    reconciler = new_reconciler()
    for event in (make.policy_changed(), make.release("26.2"), *make.enrolled()):
        accept(reconciler, event, make.NOW)
    for event in (make.polled(), make.full_report()):
        accept(reconciler, event, make.NOW)
    assert count_fleet([reconciler], make.NOW).job_ages == {("london", "1h"): 1}
    later = make.NOW + timedelta(hours=5)
    assert count_fleet([reconciler], later).job_ages == {("london", "1d"): 1}


def test_halt_counts_until_its_end() -> None:
    reconciler = new_reconciler()
    until = make.NOW + timedelta(hours=1)
    accept(reconciler, make.halted(until=until), make.NOW)
    assert count_halts(reconciler.fleet, make.NOW) == Counter({"all": 1})
    assert count_halts(reconciler.fleet, until) == Counter()
    assert digest_in_force(reconciler.fleet) is None
    accept(reconciler, make.policy_changed(), make.NOW)
    assert digest_in_force(reconciler.fleet) == reconciler.policy_digest
