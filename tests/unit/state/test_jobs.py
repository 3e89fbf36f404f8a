"""A Mac's job history: progress, presumed and final ends, and results inferred from reports."""

import itertools
from datetime import timedelta

import pytest
from msgspec.structs import replace

from pipeline.state.device import to_us
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
    open_job,
    rehearsals,
    reset_attempts,
    supersede_job,
    target_of,
)
from schemas.events.control import AttemptsReset
from schemas.jobs import Action, Method
from schemas.results import ErrorCode, Outcome
from tests.factories import DAY, HOUR, NOW, UDID, entry, job, mac, reset, result, with_report

JOB = job()
HISTORY = add_job((), JOB)
LATER = NOW + HOUR


def after(*outcomes: tuple[Outcome, int] | tuple[Outcome, int, int]) -> JobEntry:
    """Return the entry after these results: (outcome, minutes after NOW, attempt)."""
    history = HISTORY
    for outcome, minutes, *attempt in outcomes:
        job_result = result(JOB, outcome, attempt=attempt[0] if attempt else 1)
        history = add_result(history, job_result, to_us(NOW + timedelta(minutes=minutes)))
    return history[0]


def test_a_job_is_issued_once() -> None:
    assert add_job(HISTORY, JOB) is HISTORY
    assert open_job(HISTORY) == HISTORY[0]
    assert HISTORY[0].intent == "26.2"


def test_result_of_an_unknown_job_changes_nothing() -> None:
    assert add_result((), result(JOB, Outcome.FAILED), 1) == ()


def test_outcome_of_the_highest_rank_wins_in_any_order() -> None:
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


def test_end_keeps_its_first_time_and_progress_its_last() -> None:
    assert after((Outcome.FAILED, 9), (Outcome.FAILED, 5)).outcome_us == to_us(
        NOW + timedelta(minutes=5)
    )
    assert after((Outcome.STARTED, 5), (Outcome.STARTED, 9)).outcome_us == to_us(
        NOW + timedelta(minutes=9)
    )


def test_success_reported_by_an_executor_counts_as_acted() -> None:
    found = after((Outcome.SUCCEEDED, 5))
    assert found.is_open
    assert found.outcome is Outcome.ACTED
    assert found.acted_us == to_us(NOW + timedelta(minutes=5))


def test_superseded_job_reopens_if_it_had_begun() -> None:
    us = to_us(NOW)
    begun = add_result(HISTORY, result(JOB, Outcome.STARTED), us)
    assert supersede_job(begun, JOB.job_id, us) == begun
    gone = supersede_job(HISTORY, JOB.job_id, us)
    assert not gone[0].is_open
    assert add_result(gone, result(JOB, Outcome.STARTED), us) == begun
    assert add_result(gone, result(JOB, Outcome.ACCEPTED), us) == gone
    final = add_result(gone, result(JOB, Outcome.SUPERSEDED), us)
    assert add_result(final, result(JOB, Outcome.STARTED), us) == final


def test_result_of_an_executor_corrects_a_presumed_expiry() -> None:
    presumed = after((Outcome.EXPIRED, 5, INFERRED_ATTEMPT))
    assert (presumed.is_open, presumed.failed, presumed.touched) == (False, True, False)
    assert after((Outcome.EXPIRED, 5, INFERRED_ATTEMPT), (Outcome.STARTED, 6)).is_open
    assert not after((Outcome.EXPIRED, 5), (Outcome.STARTED, 6)).is_open


WITHHELD, REHEARSED = (Outcome.WITHHELD, 1), (Outcome.REHEARSED, 61, INFERRED_ATTEMPT)


DRY_RUNS = [
    pytest.param((WITHHELD,), Outcome.WITHHELD, id="withheld"),
    pytest.param((WITHHELD, REHEARSED), Outcome.REHEARSED, id="rehearsed"),
    pytest.param((WITHHELD, (Outcome.SUPERSEDED, 9)), Outcome.SUPERSEDED, id="live-meanwhile"),
    pytest.param(
        (WITHHELD, REHEARSED, (Outcome.SUPERSEDED, 99)), Outcome.SUPERSEDED, id="live-later"
    ),
    pytest.param((WITHHELD, REHEARSED, (Outcome.STARTED, 99)), Outcome.STARTED, id="begun"),
]


@pytest.mark.parametrize(("results", "outcome"), DRY_RUNS)
def test_job_of_a_dry_run_is_no_failure_in_any_order(
    results: tuple[tuple[Outcome, int], ...], outcome: Outcome
) -> None:
    for order in itertools.permutations(((Outcome.ACCEPTED, 0), *results)):
        found = after(*order)
        assert found.outcome is outcome
        assert not found.failed
        assert not failures((found,), found.action, found.intent)
        assert found.may_have_touched is (outcome in (Outcome.STARTED, Outcome.SUPERSEDED))


def test_withdrawn_job_of_a_dry_run_has_ended() -> None:
    history = add_result(HISTORY, result(JOB, Outcome.WITHHELD), to_us(NOW))
    (ended,) = supersede_job(history, JOB.job_id, to_us(LATER))
    assert (ended.outcome, ended.is_open, ended.failed) == (Outcome.SUPERSEDED, False, False)


def test_begun_job_is_kept_among_several_open_jobs() -> None:
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
def test_entry_round_trips_as_json(one: JobEntry) -> None:
    assert JobEntry.from_wire(one.to_wire()) == one


def test_entries_without_the_presumed_field_can_be_read() -> None:
    wire = entry().to_wire()
    del wire["presumed"]
    assert JobEntry.from_wire(wire) == entry()


def test_a_job_history_is_a_tuple_of_entries() -> None:
    history: JobHistory = HISTORY
    assert isinstance(history[0], JobEntry)
    assert LATER > NOW


def minutes(number: int) -> int:
    return to_us(NOW + timedelta(minutes=number))


def test_the_last_ended_jobs_are_kept_in_the_order_of_their_issue() -> None:
    jobs = [job(generation=number, issued_at=NOW + number * HOUR) for number in range(KEPT_JOBS)]
    for order in (jobs, jobs[::-1]):
        history: JobHistory = ()
        for one in order:
            history = add_result(add_job(history, one), result(one, Outcome.FAILED), to_us(NOW))
        assert [one.generation for one in history] == list(range(KEPT_JOBS))
        newest = job(generation=KEPT_JOBS, issued_at=NOW + KEPT_JOBS * HOUR)
        assert [one.generation for one in add_job(history, newest)] == list(range(1, KEPT_JOBS + 1))


def test_job_without_report_by_must_be_confirmed_before_it_expires() -> None:
    issued = job()
    [reporting] = add_job((), issued)
    [undated] = add_job((), issued.model_copy(update={"report_by": None}))
    assert reporting.report_by_us == to_us(issued.issued_at + 3 * DAY)
    assert undated.report_by_us == undated.expires_us == to_us(issued.expires_at)


def test_acted_time_is_that_of_the_first_acted_result() -> None:
    for order in ((5, 9), (9, 5)):
        assert after(*((Outcome.ACTED, at) for at in order)).acted_us == minutes(5)
    late = after((Outcome.FAILED, 9), (Outcome.ACTED, 7))
    assert (late.outcome, late.acted_us) == (Outcome.FAILED, minutes(7))
    assert after((Outcome.STARTED, 5)).acted_us == 0


def test_greater_error_code_wins_between_ends_of_equal_time() -> None:
    ends = [
        result(JOB, Outcome.FAILED).model_copy(update={"error_code": code})
        for code in (ErrorCode.INSTALL_FAILED, ErrorCode.NO_DISK_SPACE)
    ]
    for order in (ends, ends[::-1]):
        history = HISTORY
        for end in order:
            history = add_result(history, end, minutes(5))
        assert history[0].error_code is ErrorCode.NO_DISK_SPACE


def test_result_and_supersession_change_only_their_own_job() -> None:
    other = job(generation=1, issued_at=NOW + HOUR)
    both = add_job(HISTORY, other)
    assert add_result(both, result(JOB, Outcome.FAILED), minutes(5))[1] == both[1]
    superseded = supersede_job(both, JOB.job_id, minutes(5))
    assert [one.is_open for one in superseded] == [False, True]
    assert (superseded[0].outcome_us, superseded[0].presumed) == (minutes(5), True)


def test_ended_job_is_not_superseded() -> None:
    ended = add_result(HISTORY, result(JOB, Outcome.REFUSED), minutes(1))
    assert supersede_job(ended, JOB.job_id, minutes(5)) == ended


def test_newest_of_several_begun_jobs_is_the_open_job_and_none_is_extra() -> None:
    begun = tuple(
        entry(generation=number, issued_at=NOW + number * HOUR, outcome=Outcome.STARTED)
        for number in range(2)
    )
    assert open_job(begun) == begun[1]
    assert extra_open_jobs(begun) == ()


ATTEMPTS = [
    pytest.param(Outcome.FAILED, ErrorCode.INSTALL_FAILED, True, id="failed-at-the-mac"),
    pytest.param(Outcome.FAILED, ErrorCode.UNREACHABLE, False, id="not-reached"),
    pytest.param(Outcome.FAILED, ErrorCode.EXPIRED, False, id="too-late-to-begin"),
    *(
        pytest.param(Outcome.FAILED, code, False, id=code.value)
        for code in (
            ErrorCode.SSH_LOGIN_REFUSED,
            ErrorCode.HOST_KEY_UNKNOWN,
            ErrorCode.WRONG_DEVICE,
            ErrorCode.MDM_LOGIN_REFUSED,
            ErrorCode.MDM_SERVER_REFUSED,
            ErrorCode.NO_MDM_SERVER,
        )
    ),
    pytest.param(Outcome.REFUSED, ErrorCode.SUPERSEDED, False, id="superseded-before"),
    pytest.param(Outcome.EXPIRED, None, False, id="expired"),
]


@pytest.mark.parametrize(("outcome", "code", "touched"), ATTEMPTS)
def test_only_attempts_that_reached_the_mac_count(
    outcome: Outcome, code: ErrorCode | None, touched: bool
) -> None:
    one = entry(outcome=outcome, error_code=code)
    assert (one.touched, one.failed) == (touched, True)


def test_attempts_are_the_ended_jobs_of_the_intent() -> None:
    ended = entry(outcome=Outcome.SUPERSEDED)
    others = (
        entry("26.1", outcome=Outcome.FAILED),
        entry(action=Action.UPGRADE, outcome=Outcome.FAILED),
        entry(generation=1),
    )
    assert attempts((ended, *others), Action.UPDATE, "26.2") == (ended,)


def test_entry_has_the_target_and_the_end_time() -> None:
    target = target_of(entry())
    assert target is not None
    assert (str(target.version), str(target.build)) == ("26.2", "25C56")
    assert target_of(entry(version=None)) is None
    assert ended_at(entry(outcome=Outcome.FAILED, outcome_at=NOW)) == NOW


def test_an_unreadable_entry_is_an_error() -> None:
    for wire in ({}, entry().to_wire() | {"version": "x"}, entry().to_wire() | {"action": "x"}):
        with pytest.raises(ValueError, match=r"\w"):
            JobEntry.from_wire(wire)


UNREACHED = entry(outcome=Outcome.FAILED, error_code=ErrorCode.UNREACHABLE, outcome_at=NOW)


RESETS = [
    pytest.param(UNREACHED, reset(), 0, True, id="everything"),
    pytest.param(UNREACHED, reset(), -1, False, id="failed after the reset"),
    pytest.param(UNREACHED, reset(site="london"), 0, True, id="its site"),
    pytest.param(UNREACHED, reset(site="tokyo"), 0, False, id="another site"),
    pytest.param(UNREACHED, reset(device=UDID), 0, True, id="its UDID"),
    pytest.param(UNREACHED, reset(device="C02TEST0001"), 0, True, id="its serial number"),
    pytest.param(UNREACHED, reset(device="C02OTHER"), 0, False, id="another Mac"),
    pytest.param(UNREACHED, reset(ErrorCode.UNREACHABLE), 0, True, id="its cause"),
    pytest.param(UNREACHED, reset(ErrorCode.BUG), 0, False, id="another cause"),
    pytest.param(
        entry(outcome=Outcome.REHEARSED, outcome_at=NOW), reset(), 0, True, id="rehearsed"
    ),
    pytest.param(
        entry(outcome=Outcome.REHEARSED, outcome_at=NOW),
        reset(ErrorCode.BUG),
        0,
        False,
        id="rehearsed, a cause",
    ),
    pytest.param(
        entry(outcome=Outcome.SUCCEEDED, outcome_at=NOW), reset(), 0, False, id="succeeded"
    ),
    pytest.param(entry(), reset(), 0, False, id="open"),
]


@pytest.mark.parametrize(("job_entry", "given", "us", "expected"), RESETS)
def test_reset_covers_the_failures_of_its_scope_that_ended_before_it(
    job_entry: JobEntry, given: AttemptsReset, us: int, expected: bool
) -> None:
    device = with_report(mac(), NOW, serial="C02TEST0001")
    (found,) = reset_attempts((job_entry,), [(to_us(NOW) + us, given)], device)
    assert found.reset is expected
    assert found == (replace(job_entry, reset=True) if expected else job_entry)
    assert JobEntry.from_wire(found.to_wire()) == found


def test_stored_entry_has_no_reset() -> None:
    assert "reset" not in UNREACHED.to_wire()


OPEN_REHEARSAL = entry(outcome=Outcome.WITHHELD)


RENEWAL = entry(
    "x", action=Action.REENROLL, method=Method.PROFILES_RENEW, outcome=Outcome.REHEARSED
)


LATER_REHEARSAL = entry(generation=1, outcome=Outcome.REHEARSED)


PROGRESS = [
    pytest.param((), (), id="no jobs"),
    pytest.param((OPEN_REHEARSAL,), (OPEN_REHEARSAL,), id="withheld"),
    pytest.param(
        (entry(outcome=Outcome.REHEARSED), LATER_REHEARSAL), (LATER_REHEARSAL,), id="repeated"
    ),
    pytest.param((OPEN_REHEARSAL, RENEWAL), (OPEN_REHEARSAL, RENEWAL), id="two actions"),
    pytest.param((OPEN_REHEARSAL, entry(generation=1)), (), id="a live job since"),
    pytest.param((entry(outcome=Outcome.SUPERSEDED),), (), id="superseded by a live site"),
]


@pytest.mark.parametrize(("history", "expected"), PROGRESS)
def test_rehearsals_are_the_newest_jobs_that_were_withheld(
    history: JobHistory, expected: JobHistory
) -> None:
    assert rehearsals(history) == expected
