"""A job that was issued by a clock days ahead runs when it is valid, without a restart."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from agents.journal import Journal
from agents.site_access import SiteAccess
from agents.verification import MAX_AHEAD
from pipeline.embedded.deferring_executor import DeferringExecutor
from pipeline.embedded.executors import Executors
from schemas.jobs import JobSuperseded
from schemas.results import Outcome
from tests.factories.sites import KEYS, SITE, START, a_fleet, a_job, signed_job

DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)
JOB = a_job()
VALID_AT = JOB.issued_at - MAX_AHEAD


@pytest.fixture
def executors(tmp_path: Path) -> Iterator[Executors]:
    fleet = a_fleet()
    site = SiteAccess.simulated(fleet.mac_for)
    found = Executors(tmp_path / "journals", KEYS, lambda _: site, slots=5)
    found.set_halts(())
    yield found
    found.close()


def drain(executors: Executors) -> list[Outcome]:
    """Mark all results as published and return their outcomes."""
    outcomes: list[Outcome] = []
    for site, results in executors.results():
        outcomes += [item.result.outcome for item, _ in results]
        executors.mark_published(site, results)
    return outcomes


def test_job_of_the_future_runs_when_it_is_valid(executors: Executors) -> None:
    early = VALID_AT - 2 * DAY
    executors.submit(signed_job(JOB), early)
    assert drain(executors) == []
    assert not executors.knows(SITE, JOB.job_id)
    assert executors.next_wake(early) == VALID_AT
    executors.tick(VALID_AT - SECOND)
    assert not executors.knows(SITE, JOB.job_id)
    executors.tick(VALID_AT)
    assert executors.knows(SITE, JOB.job_id)
    assert drain(executors) == [Outcome.ACCEPTED, Outcome.STARTED]


def test_withdrawn_job_of_the_future_does_not_run(executors: Executors) -> None:
    early = VALID_AT - 2 * DAY
    executors.submit(signed_job(JOB), early)
    executors.supersede(JobSuperseded(job_id=JOB.job_id, udid=JOB.udid, site=SITE), early)
    executors.tick(VALID_AT)
    assert {*drain(executors)} == {Outcome.SUPERSEDED}


def test_jobs_of_the_future_become_valid_one_after_the_other() -> None:
    with Journal(":memory:") as journal:
        executor = DeferringExecutor(
            SITE, journal, KEYS, SiteAccess.simulated(a_fleet().mac_for), slots=5
        )
        executor.set_halts(())
        later = a_job(udid="MAC-2", issued_at=JOB.issued_at + DAY, expires_at=START + 3 * DAY)
        for job in (later, JOB):
            executor.submit(signed_job(job), VALID_AT - DAY)
        executor.tick(VALID_AT)
        assert journal.job_ids() == {JOB.job_id}
        assert executor.live_jobs == 1
        executor.tick(VALID_AT + DAY)
        assert journal.job_ids() == {JOB.job_id, later.job_id}
