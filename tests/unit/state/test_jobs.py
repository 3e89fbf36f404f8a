"""A Mac's jobs: progress, ends, guesses, and what its own reports make of them."""

import itertools
from datetime import datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from pipeline.state.device import to_us
from pipeline.state.device_folds import apply_authenticated, apply_token_updated
from pipeline.state.jobs import (
    INFERRED_ATTEMPT,
    KEPT_JOBS,
    JobEntry,
    JobHistory,
    add_job,
    add_result,
    attempts,
    ended_at,
    extra_open_jobs,
    failures,
    infer_result,
    open_job,
    supersede_job,
    target_of,
)
from schemas.events.checkin import MdmAuthenticated, MdmTokenUpdated
from schemas.jobs import Action, Method
from schemas.results import ErrorCode, Outcome
from tests.factories import DAY, HOUR, NOW, UDID, entry, job, mac, result, with_report

JOB = job()
HISTORY = add_job((), JOB)
LATER = NOW + HOUR


def after(*outcomes: tuple[Outcome, int] | tuple[Outcome, int, int]) -> JobEntry:
    """The entry once these (outcome, minutes after NOW, attempt) were told."""
    history = HISTORY
    for outcome, minutes, *attempt in outcomes:
        job_result = result(JOB, outcome, attempt=attempt[0] if attempt else 1)
        history = add_result(history, job_result, to_us(NOW + timedelta(minutes=minutes)))
    return history[0]


def test_a_job_is_issued_once() -> None:
    assert add_job(HISTORY, JOB) is HISTORY
    assert open_job(HISTORY) == HISTORY[0]
    assert HISTORY[0].intent == "26.2"


def test_results_for_jobs_it_does_not_hold_change_nothing() -> None:
    assert add_result((), result(JOB, Outcome.FAILED), 1) == ()


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


def test_the_first_report_of_an_end_counts_and_the_last_of_progress() -> None:
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
    begun = add_result(HISTORY, result(JOB, Outcome.STARTED), us)
    assert supersede_job(begun, JOB.job_id, us) == begun
    gone = supersede_job(HISTORY, JOB.job_id, us)
    assert not gone[0].is_open
    assert add_result(gone, result(JOB, Outcome.STARTED), us) == begun
    assert add_result(gone, result(JOB, Outcome.ACCEPTED), us) == gone
    final = add_result(gone, result(JOB, Outcome.SUPERSEDED), us)
    assert add_result(final, result(JOB, Outcome.STARTED), us) == final


def test_an_expiry_that_we_presumed_gives_way_to_its_executor() -> None:
    presumed = after((Outcome.EXPIRED, 5, INFERRED_ATTEMPT))
    assert (presumed.is_open, presumed.failed, presumed.touched) == (False, True, False)
    assert after((Outcome.EXPIRED, 5, INFERRED_ATTEMPT), (Outcome.STARTED, 6)).is_open
    assert not after((Outcome.EXPIRED, 5), (Outcome.STARTED, 6)).is_open


def test_of_several_open_jobs_the_begun_one_counts_and_the_rest_are_extra() -> None:
    old, new = entry(generation=0, outcome=Outcome.STARTED), entry(generation=1, issued_at=NOW)
    assert open_job((old, new)) == old
    assert extra_open_jobs((old, new)) == (new,)
    assert extra_open_jobs((old,)) == extra_open_jobs((new,)) == ()
    newer = entry(generation=2, issued_at=NOW + HOUR)
    assert open_job((new, newer)) == newer
    assert extra_open_jobs((new, newer)) == (new,)


def test_old_jobs_are_dropped_but_never_an_open_one() -> None:
    history = HISTORY
    for number in range(1, 2 * KEPT_JOBS):
        one = job(generation=number, issued_at=NOW + number * HOUR)
        history = add_result(add_job(history, one), result(one, Outcome.FAILED), to_us(NOW))
    assert len(history) == KEPT_JOBS + 1
    assert open_job(history) == HISTORY[0]


def test_failures_count_since_the_last_success() -> None:
    ends = (Outcome.FAILED, Outcome.SUCCEEDED, Outcome.EXPIRED, Outcome.SUPERSEDED, Outcome.REFUSED)
    history = tuple(entry(generation=n, outcome=end) for n, end in enumerate(ends))
    assert [one.generation for one in failures(history, Action.UPDATE, "26.2")] == [2, 4]
    assert failures(history, Action.UPDATE, "26.3") == ()


@pytest.mark.parametrize(
    "one",
    [entry(), *HISTORY, entry(outcome=Outcome.FAILED, error_code=ErrorCode.BUG, presumed=True)],
    ids=["open", "issued", "ended"],
)
def test_wire_round_trip(one: JobEntry) -> None:
    assert JobEntry.from_wire(one.to_wire()) == one


def test_entries_without_the_presumed_field_can_be_read() -> None:
    wire = entry().to_wire()
    del wire["presumed"]
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

INFERRED: list[Any] = [
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


@pytest.mark.parametrize(("one", "device", "now", "outcome", "code"), INFERRED)
def test_inferring_the_result_of_an_update(
    one: JobEntry, device: Any, now: datetime, outcome: Outcome | None, code: ErrorCode | None
) -> None:
    inferred = infer_result(one, device, UDID, now)
    assert (None if inferred is None else inferred.outcome) is outcome
    if inferred is not None:
        assert inferred.error_code is code
        assert inferred.attempt == INFERRED_ATTEMPT


REINSTALLS = [
    pytest.param({"acted_at": NOW - HOUR}, {"boot_at": NOW - HOUR / 2}, True, id="booted-since"),
    pytest.param({"acted_at": NOW - HOUR}, {}, False, id="no-boot-known"),
    pytest.param({"acted_at": NOW - HOUR}, {"boot_at": NOW - DAY}, False, id="booted-before"),
    pytest.param({}, {"boot_at": NOW - HOUR / 2}, False, id="the-executor-has-not-acted"),
    pytest.param({"acted_at": NOW}, {"boot_at": NOW - HOUR / 2}, False, id="report-before-the-act"),
]


@pytest.mark.parametrize(("facts", "reported", "done"), REINSTALLS)
def test_inferring_the_result_of_a_reinstall_on_the_same_version(
    facts: dict[str, Any], reported: dict[str, Any], done: bool
) -> None:
    one = entry(**REINSTALL, outcome=Outcome.ACTED, **facts)
    device = mac("26.2", seen_at=NOW - HOUR / 4, **reported)
    assert (infer_result(one, device, UDID, NOW) is not None) is done


def test_an_erased_mac_is_done_when_it_has_begun_to_enrol() -> None:
    one = entry(**REINSTALL, outcome=Outcome.ACTED, acted_at=NOW - HOUR, erases=True)
    device = mac("26.2", seen_at=NOW - HOUR / 4)
    assert infer_result(one, device, UDID, NOW) is None
    fresh = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(NOW - HOUR / 2))
    inferred = infer_result(one, fresh, UDID, NOW)
    assert inferred is not None
    assert inferred.outcome is Outcome.SUCCEEDED


def test_inferring_the_result_of_an_enrolment() -> None:
    one = entry("checked_out@1", action=Action.REENROLL, version=None, outcome=Outcome.ACTED)
    device = with_report(mac(), NOW - HOUR / 2, "mdm")
    assert infer_result(one, device, UDID, NOW) is None
    half = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(NOW - HOUR / 2))
    assert infer_result(one, half, UDID, NOW) is None
    whole = apply_token_updated(half, MdmTokenUpdated(udid=UDID, tally=1), to_us(NOW - HOUR / 2))
    inferred = infer_result(one, whole, UDID, NOW)
    assert inferred is not None
    assert inferred.outcome is Outcome.SUCCEEDED


def test_a_job_history_is_a_tuple_of_entries() -> None:
    history: JobHistory = HISTORY
    assert isinstance(history[0], JobEntry)
    assert LATER > NOW


# --- the edges of what is known ---


def minutes(number: int) -> int:
    return to_us(NOW + timedelta(minutes=number))


def test_the_last_ended_jobs_are_kept_in_the_order_of_their_issue() -> None:
    jobs = [job(generation=number, issued_at=NOW + number * HOUR) for number in range(KEPT_JOBS)]
    for order in (jobs, jobs[::-1]):
        ledger: JobHistory = ()
        for one in order:
            ledger = add_result(add_job(ledger, one), result(one, Outcome.FAILED), to_us(NOW))
        assert [one.generation for one in ledger] == list(range(KEPT_JOBS))
        newest = job(generation=KEPT_JOBS, issued_at=NOW + KEPT_JOBS * HOUR)
        assert [one.generation for one in add_job(ledger, newest)] == list(range(1, KEPT_JOBS + 1))


def test_an_order_without_a_time_to_report_by_is_given_up_when_it_expires() -> None:
    ordered = job()
    [reporting] = add_job((), ordered)
    [silent] = add_job((), ordered.model_copy(update={"report_by": None}))
    assert reporting.report_by_us == to_us(ordered.issued_at + 3 * DAY)
    assert silent.report_by_us == silent.expires_us == to_us(ordered.expires_at)


def test_a_job_was_acted_on_when_that_was_first_reported() -> None:
    for order in ((5, 9), (9, 5)):
        assert after(*((Outcome.ACTED, at) for at in order)).acted_us == minutes(5)
    late = after((Outcome.FAILED, 9), (Outcome.ACTED, 7))
    assert (late.outcome, late.acted_us) == (Outcome.FAILED, minutes(7))
    assert after((Outcome.STARTED, 5)).acted_us == 0


def test_of_two_ends_reported_at_one_moment_the_greater_code_wins_in_any_order() -> None:
    ends = [
        result(JOB, Outcome.FAILED).model_copy(update={"error_code": code})
        for code in (ErrorCode.INSTALL_FAILED, ErrorCode.NO_DISK_SPACE)
    ]
    for order in (ends, ends[::-1]):
        ledger = HISTORY
        for end in order:
            ledger = add_result(ledger, end, minutes(5))
        assert ledger[0].error_code is ErrorCode.NO_DISK_SPACE


def test_a_result_and_a_withdrawal_are_of_one_job_only() -> None:
    other = job(generation=1, issued_at=NOW + HOUR)
    both = add_job(HISTORY, other)
    assert add_result(both, result(JOB, Outcome.FAILED), minutes(5))[1] == both[1]
    withdrawn = supersede_job(both, JOB.job_id, minutes(5))
    assert [one.is_open for one in withdrawn] == [False, True]
    assert (withdrawn[0].outcome_us, withdrawn[0].presumed) == (minutes(5), True)


def test_an_ended_job_is_not_withdrawn() -> None:
    ended = add_result(HISTORY, result(JOB, Outcome.REFUSED), minutes(1))
    assert supersede_job(ended, JOB.job_id, minutes(5)) == ended


def test_of_several_begun_jobs_the_newest_counts_and_none_is_a_stray() -> None:
    begun = tuple(
        entry(generation=number, issued_at=NOW + number * HOUR, outcome=Outcome.STARTED)
        for number in range(2)
    )
    assert open_job(begun) == begun[1]
    assert extra_open_jobs(begun) == ()


TRIES = [
    pytest.param(Outcome.FAILED, ErrorCode.INSTALL_FAILED, True, id="failed-at-the-mac"),
    pytest.param(Outcome.FAILED, ErrorCode.UNREACHABLE, False, id="not-reached"),
    pytest.param(Outcome.FAILED, ErrorCode.EXPIRED, False, id="too-late-to-begin"),
    pytest.param(Outcome.REFUSED, ErrorCode.SUPERSEDED, False, id="superseded-before"),
    pytest.param(Outcome.EXPIRED, None, False, id="expired"),
]


@pytest.mark.parametrize(("outcome", "code", "touched"), TRIES)
def test_only_tries_that_reached_the_mac_count(
    outcome: Outcome, code: ErrorCode | None, touched: bool
) -> None:
    one = entry(outcome=outcome, error_code=code)
    assert (one.touched, one.failed) == (touched, True)


def test_attempts_of_an_intent_are_its_ended_jobs() -> None:
    ended = entry(outcome=Outcome.SUPERSEDED)
    others = (
        entry("26.1", outcome=Outcome.FAILED),
        entry(action=Action.UPGRADE, outcome=Outcome.FAILED),
        entry(generation=1),
    )
    assert attempts((ended, *others), Action.UPDATE, "26.2") == (ended,)


SETTLED_AT = NOW - 2 * HOUR  # when `entry` is issued


def test_only_a_report_after_the_order_proves_an_update() -> None:
    at_once = mac("26.2", seen_at=SETTLED_AT)
    just_after = mac("26.2", seen_at=SETTLED_AT + timedelta(microseconds=1))
    assert infer_result(BEGUN, at_once, UDID, NOW) is None
    assert infer_result(BEGUN, just_after, UDID, NOW) is not None


def test_a_report_that_the_order_knew_of_proves_nothing() -> None:
    known = replace(BEGUN, known_until_us=to_us(NOW - HOUR))
    assert infer_result(known, mac("26.2", seen_at=NOW - HOUR), UDID, NOW) is None
    assert infer_result(known, mac("26.2", seen_at=NOW - HOUR / 2), UDID, NOW) is not None


def test_a_job_is_given_up_at_its_very_end() -> None:
    moment = timedelta(microseconds=1)
    expires_at, report_by = SETTLED_AT + 10 * HOUR, SETTLED_AT + 3 * DAY
    for one, end in ((entry(), expires_at), (BEGUN, report_by)):
        assert infer_result(one, OLD, UDID, end - moment) is None
        assert infer_result(one, OLD, UDID, end) is not None


def test_a_reinstall_is_proven_by_a_boot_after_its_order_and_a_report_after_the_act() -> None:
    one = entry(**REINSTALL, outcome=Outcome.ACTED, acted_at=NOW - HOUR)

    def settles(seen_at: datetime, boot_at: datetime) -> bool:
        return (
            infer_result(one, mac("26.2", seen_at=seen_at, boot_at=boot_at), UDID, NOW) is not None
        )

    assert settles(NOW - HOUR / 2, NOW - HOUR)
    assert not settles(NOW - HOUR, NOW - HOUR)
    assert not settles(NOW - HOUR / 2, SETTLED_AT)


def test_an_erased_mac_that_enrolled_at_the_moment_of_the_order_is_not_done() -> None:
    one = entry(**REINSTALL, outcome=Outcome.ACTED, acted_at=NOW - HOUR, erases=True)
    device = mac("26.2", seen_at=NOW - HOUR / 4)
    before = apply_authenticated(device, MdmAuthenticated(udid=UDID), to_us(SETTLED_AT))
    assert infer_result(one, before, UDID, NOW) is None


def test_a_job_without_a_target_is_done_by_no_report() -> None:
    one = entry(version=None, outcome=Outcome.STARTED)
    assert infer_result(one, mac("26.2"), UDID, NOW) is None


def test_what_settles_a_job_names_what_the_mac_reported() -> None:
    end = infer_result(BEGUN, mac("26.2", boot_at=NOW - HOUR), UDID, NOW)
    assert end is not None
    assert (end.job_id, end.udid, end.site) == (BEGUN.job_id, UDID, "london")
    assert (str(end.observed_version), str(end.observed_build)) == ("26.2", "25C56")
    assert end.observed_boot_at == NOW - HOUR


def test_the_target_and_the_end_of_a_job_are_read_off_its_entry() -> None:
    target = target_of(entry())
    assert target is not None
    assert (str(target.version), str(target.build)) == ("26.2", "25C56")
    assert target_of(entry(version=None)) is None
    assert ended_at(entry(outcome=Outcome.FAILED, outcome_at=NOW)) == NOW


def test_an_unreadable_entry_is_an_error() -> None:
    for wire in ({}, entry().to_wire() | {"version": "x"}, entry().to_wire() | {"action": "x"}):
        with pytest.raises(ValueError, match=r"\w"):
            JobEntry.from_wire(wire)
