"""Refusals of jobs that are not proven, and of accepted jobs whose key is removed."""

from dataclasses import replace
from datetime import timedelta

import pytest

from agents.executor import Executor
from agents.journal import Journal, unproven_id
from agents.verification import NotYetValidError
from runtime.trusted_keys import KeyRing
from schemas.jobs import JobIssued
from schemas.results import ErrorCode, Outcome
from tests.factories.sites import (
    APPROVALS_KEY,
    KEYS,
    SITE,
    START,
    STRANGER_KEY,
    a_fleet,
    a_job,
    an_erasing_job,
    an_executor,
    signed_job,
)

MINUTE = timedelta(minutes=1)


def held_executor(journal: Journal) -> Executor:
    """Return an executor that does not know the halts: accepted jobs do not begin."""
    return an_executor(a_fleet(), journal, halted=True)


def ends(executor: Executor) -> list[tuple[Outcome, ErrorCode | None]]:
    return [(one.result.outcome, one.result.error_code) for one in executor.results()]


FORGED: dict[str, JobIssued] = {
    "by a stranger": signed_job(a_job(), STRANGER_KEY),
    "by the approver": signed_job(a_job(), APPROVALS_KEY),
    "another job than the signed one": signed_job(a_job()).model_copy(
        update={"job": a_job(generation=1)}
    ),
    "of another site": signed_job(a_job(site="tokyo")),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_forged_job_does_not_block_the_honest_one_with_its_id(forged: JobIssued) -> None:
    journal = Journal(":memory:")
    executor = held_executor(journal)
    executor.submit(forged, START)
    assert not journal.knows(forged.job.job_id)
    assert journal.knows(unproven_id(forged.sha256))
    (refusal,) = executor.results()
    assert (refusal.result.outcome, refusal.result.job_id) == ("refused", forged.job.job_id)
    assert refusal.result.order_sha256 == forged.sha256
    executor.mark_published([refusal])

    executor.submit(signed_job(a_job()), START)
    assert executor.live_jobs == 1
    assert ends(executor)[-1] == (Outcome.ACCEPTED, None)


def test_forged_job_that_arrives_again_is_refused_again_with_the_same_result() -> None:
    executor = held_executor(Journal(":memory:"))
    forged = FORGED["by a stranger"]
    executor.submit(forged, START)
    first = executor.results()
    executor.mark_published(first)
    executor.submit(forged, START + MINUTE)
    assert executor.results() == first


def test_job_runs_after_its_key_became_known() -> None:
    executor = an_executor(a_fleet(), halted=True)
    executor.set_keys(KeyRing(approvals=KEYS.approvals))
    executor.submit(signed_job(a_job()), START)
    assert executor.live_jobs == 0
    executor.set_keys(KEYS)
    executor.submit(signed_job(a_job()), START)
    assert executor.live_jobs == 1


def test_job_of_the_future_leaves_no_trace() -> None:
    journal = Journal(":memory:")
    executor = held_executor(journal)
    with pytest.raises(NotYetValidError):
        executor.submit(signed_job(a_job()), START - timedelta(days=300))
    assert (journal.job_ids(), executor.results()) == (frozenset(), [])


@pytest.mark.parametrize("restarted", [False, True])
def test_accepted_job_ends_when_its_key_is_removed(restarted: bool) -> None:
    journal = Journal(":memory:")
    executor = held_executor(journal)
    executor.submit(signed_job(a_job()), START)
    executor.tick(START)
    assert executor.live_jobs == 1
    if restarted:
        executor = Executor(SITE, journal, replace(KEYS, jobs={}), None)
    else:
        executor.set_keys(replace(KEYS, jobs={}))
    assert executor.next_wake(START) == START
    executor.tick(START)
    assert executor.live_jobs == 0
    assert ends(executor)[-1] == (Outcome.REFUSED, ErrorCode.BAD_SIGNATURE)


def test_accepted_erase_ends_when_the_key_of_its_approver_is_removed() -> None:
    executor = held_executor(Journal(":memory:"))
    executor.submit(signed_job(an_erasing_job()), START)
    executor.set_keys(replace(KEYS, approvals={}))
    executor.tick(START)
    assert ends(executor)[-1] == (Outcome.REFUSED, ErrorCode.NO_APPROVAL)


def test_begun_job_goes_on_when_its_key_is_removed() -> None:
    """Its order was given: only the Mac's report shows what became of it."""
    executor = an_executor(a_fleet())
    executor.submit(signed_job(a_job()), START)
    executor.tick(START)
    assert executor.touched_jobs == 1
    executor.set_keys(replace(KEYS, jobs={}))
    executor.tick(START + MINUTE)
    assert executor.touched_jobs == 1
