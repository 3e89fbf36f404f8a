"""A Mac's jobs: progress, ends, guesses, and what its own reports make of them."""

import itertools
from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline.state.device import to_us
from pipeline.state.device_folds import apply_authenticated, apply_token_updated
from pipeline.state.jobs import (
    BY_US,
    KEPT_JOBS,
    JobEntry,
    Ledger,
    failures,
    issue,
    open_job,
    record,
    settle,
    strays,
    supersede,
)
from schemas.events.checkin import MdmAuthenticated, MdmTokenUpdated
from schemas.jobs import Action, Method
from schemas.results import ErrorCode, Outcome
from tests.factories import DAY, HOUR, NOW, UDID, entry, job, mac, result, with_report

JOB = job()
LEDGER = issue((), JOB)
LATER = NOW + HOUR


def after(*told_: tuple[Outcome, int] | tuple[Outcome, int, int]) -> JobEntry:
    """The entry once these (outcome, minutes after NOW, attempt) were told."""
    ledger = LEDGER
    for outcome, minutes, *attempt in told_:
        said = result(JOB, outcome, attempt=attempt[0] if attempt else 1)
        ledger = record(ledger, said, to_us(NOW + timedelta(minutes=minutes)))
    return ledger[0]


def test_a_job_is_issued_once() -> None:
    assert issue(LEDGER, JOB) is LEDGER
    assert open_job(LEDGER) == LEDGER[0]
    assert LEDGER[0].intent == "26.2"


def test_results_for_jobs_it_does_not_hold_change_nothing() -> None:
    assert record((), result(JOB, Outcome.FAILED), 1) == ()


def test_the_furthest_outcome_wins_in_any_order() -> None:
    steps = [
        (Outcome.ACCEPTED, 1),
        (Outcome.STARTED, 2),
        (Outcome.PROGRESSED, 3),
        (Outcome.PROGRESSED, 4),
        (Outcome.ACTED, 5),
    ]
    ends = {repr(after(*order)) for order in itertools.permutations(steps)}
    assert len(ends) == 1
    assert after(*steps).outcome is Outcome.ACTED
    assert after(*steps, *steps) == after(*steps)


def test_the_first_telling_of_an_end_counts_and_the_last_of_progress() -> None:
    assert after((Outcome.FAILED, 9), (Outcome.FAILED, 5)).outcome_us == to_us(
        NOW + timedelta(minutes=5)
    )
    assert after((Outcome.STARTED, 5), (Outcome.STARTED, 9)).outcome_us == to_us(
        NOW + timedelta(minutes=9)
    )


def test_an_executors_success_is_progress() -> None:
    found = after((Outcome.SUCCEEDED, 5))
    assert found.is_open
    assert found.outcome is Outcome.ACTED
    assert found.acted_us == to_us(NOW + timedelta(minutes=5))


def test_a_superseded_job_that_had_begun_is_open_again() -> None:
    us = to_us(NOW)
    begun = record(LEDGER, result(JOB, Outcome.STARTED), us)
    assert supersede(begun, JOB.job_id, us) == begun
    gone = supersede(LEDGER, JOB.job_id, us)
    assert not gone[0].is_open
    assert record(gone, result(JOB, Outcome.STARTED), us) == begun
    assert record(gone, result(JOB, Outcome.ACCEPTED), us) == gone
    final = record(gone, result(JOB, Outcome.SUPERSEDED), us)
    assert record(final, result(JOB, Outcome.STARTED), us) == final


def test_an_expiry_that_we_presumed_gives_way_to_its_executor() -> None:
    presumed = after((Outcome.EXPIRED, 5, BY_US))
    assert (presumed.is_open, presumed.failed, presumed.touched) == (False, True, False)
    assert after((Outcome.EXPIRED, 5, BY_US), (Outcome.STARTED, 6)).is_open
    assert not after((Outcome.EXPIRED, 5), (Outcome.STARTED, 6)).is_open


def test_of_several_open_jobs_the_begun_one_counts_and_the_rest_are_strays() -> None:
    old, new = entry(generation=0, outcome=Outcome.STARTED), entry(generation=1, issued_at=NOW)
    assert open_job((old, new)) == old
    assert strays((old, new)) == (new,)
    assert strays((old,)) == strays((new,)) == ()
    newer = entry(generation=2, issued_at=NOW + HOUR)
    assert open_job((new, newer)) == newer
    assert strays((new, newer)) == (new,)


def test_old_jobs_are_dropped_but_never_an_open_one() -> None:
    ledger = LEDGER
    for number in range(1, 2 * KEPT_JOBS):
        one = job(generation=number, issued_at=NOW + number * HOUR)
        ledger = record(issue(ledger, one), result(one, Outcome.FAILED), to_us(NOW))
    assert len(ledger) == KEPT_JOBS + 1
    assert open_job(ledger) == LEDGER[0]


def test_failures_count_since_the_last_success() -> None:
    ends = (Outcome.FAILED, Outcome.SUCCEEDED, Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.REFUSED)
    ledger = tuple(entry(generation=n, outcome=end) for n, end in enumerate(ends))
    assert [one.generation for one in failures(ledger, Action.UPDATE, "26.2")] == [2, 4]
    assert failures(ledger, Action.UPDATE, "26.3") == ()


@pytest.mark.parametrize(
    "one",
    [entry(), *LEDGER, entry(outcome=Outcome.FAILED, error_code=ErrorCode.BUG, guessed=True)],
    ids=["open", "issued", "ended"],
)
def test_wire_round_trip(one: JobEntry) -> None:
    assert JobEntry.from_wire(one.to_wire()) == one


def test_entries_of_before_guesses_were_kept_can_be_read() -> None:
    wire = entry().to_wire()
    del wire["guessed"]
    assert JobEntry.from_wire(wire) == entry()


# --- settling ---

BEGUN = entry(outcome=Outcome.STARTED)
ACTED = entry(outcome=Outcome.ACTED, acted_at=NOW - HOUR)
REINSTALL: dict[str, Any] = {
    "action": Action.REINSTALL,
    "method": Method.STARTOSINSTALL,
    "intent": "seal:26.2",
}
OLD = mac("26.1", seen_at=NOW - 5 * HOUR)

SETTLED: list[Any] = [
    pytest.param(entry(), mac("26.1"), NOW, None, None, id="nothing-yet"),
    pytest.param(BEGUN, mac("26.2"), NOW, Outcome.SUCCEEDED, None, id="reports-the-target"),
    pytest.param(BEGUN, mac("26.3"), NOW, Outcome.SUCCEEDED, None, id="reports-more-than-that"),
    pytest.param(
        BEGUN,
        mac("26.2", seen_at=NOW - 2 * HOUR),
        NOW,
        None,
        None,
        id="a-report-from-before-the-order-proves-nothing",
    ),
    pytest.param(BEGUN, mac("26.2", build="25C5048a"), NOW, None, None, id="a-beta-is-not-it"),
    pytest.param(entry(), mac("26.2"), NOW, Outcome.SUCCEEDED, None, id="updated-by-its-user"),
    pytest.param(
        entry(), OLD, NOW + 8 * HOUR, Outcome.EXPIRED, ErrorCode.EXPIRED, id="never-begun"
    ),
    pytest.param(BEGUN, OLD, NOW + 8 * HOUR, None, None, id="begun-jobs-may-take-longer"),
    pytest.param(
        BEGUN, OLD, NOW + 3 * DAY, Outcome.FAILED, ErrorCode.NOTHING_HAPPENED, id="never-acted"
    ),
    pytest.param(ACTED, OLD, NOW + 3 * DAY, Outcome.FAILED, ErrorCode.NO_REPORT, id="no-report"),
    pytest.param(
        entry(outcome=Outcome.FAILED), mac("26.2"), NOW + 9 * DAY, None, None, id="ended-before"
    ),
]


@pytest.mark.parametrize(("one", "device", "now", "outcome", "code"), SETTLED)
def test_settling_an_update(
    one: JobEntry, device: Any, now: datetime, outcome: Outcome | None, code: ErrorCode | None
) -> None:
    said = settle(one, device, UDID, now)
    assert (None if said is None else said.outcome) is outcome
    if said is not None:
        assert said.error_code is code
        assert said.attempt == BY_US


REINSTALLS = [
    pytest.param({"acted_at": NOW - HOUR}, {"boot_at": NOW - HOUR / 2}, True, id="booted-since"),
    pytest.param({"acted_at": NOW - HOUR}, {}, False, id="no-boot-known"),
    pytest.param({"acted_at": NOW - HOUR}, {"boot_at": NOW - DAY}, False, id="booted-before"),
    pytest.param({}, {"boot_at": NOW - HOUR / 2}, False, id="the-executor-has-not-acted"),
    pytest.param({"acted_at": NOW}, {"boot_at": NOW - HOUR / 2}, False, id="report-before-the-act"),
]


@pytest.mark.parametrize(("facts", "said", "done"), REINSTALLS)
def test_settling_a_reinstall_on_the_same_version(
    facts: dict[str, Any], said: dict[str, Any], done: bool
) -> None:
    one = entry(**REINSTALL, outcome=Outcome.ACTED, **facts)
    device = mac("26.2", seen_at=NOW - HOUR / 4, **said)
    assert (settle(one, device, UDID, NOW) is not None) is done


def test_an_erased_mac_is_done_when_it_has_begun_to_enrol() -> None:
    one = entry(**REINSTALL, outcome=Outcome.ACTED, acted_at=NOW - HOUR, erases=True)
    device = mac("26.2", seen_at=NOW - HOUR / 4)
    assert settle(one, device, UDID, NOW) is None
    fresh = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(NOW - HOUR / 2))
    said = settle(one, fresh, UDID, NOW)
    assert said is not None
    assert said.outcome is Outcome.SUCCEEDED


def test_settling_an_enrolment() -> None:
    one = entry("checked_out@1", action=Action.REENROLL, version=None, outcome=Outcome.ACTED)
    device = with_report(mac(), NOW - HOUR / 2, "mdm")
    assert settle(one, device, UDID, NOW) is None
    half = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(NOW - HOUR / 2))
    assert settle(one, half, UDID, NOW) is None
    whole = apply_token_updated(half, MdmTokenUpdated(udid=UDID, tally=1), to_us(NOW - HOUR / 2))
    said = settle(one, whole, UDID, NOW)
    assert said is not None
    assert said.outcome is Outcome.SUCCEEDED


def test_a_ledger_is_a_tuple_of_entries() -> None:
    ledger: Ledger = LEDGER
    assert isinstance(ledger[0], JobEntry)
    assert LATER > NOW
