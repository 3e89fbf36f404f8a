"""Times at which a job is offered again, and the jobs that are not."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.processors.unaccepted_jobs import FIRST_OFFER_AFTER, Offer, UnacceptedJobs
from pipeline.state.jobs import JobEntry, JobHistory
from schemas.results import Outcome
from tests.factories import HOUR, NOW, UDID, entry

MINUTE = timedelta(minutes=1)
JOB = entry(issued_at=NOW)
EVENT = b'{"issued": 1}'


def kept() -> UnacceptedJobs:
    jobs = UnacceptedJobs()
    jobs.add(UDID, Offer(JOB, EVENT))
    return jobs


def offered(jobs: UnacceptedJobs, at: datetime, *history: JobEntry) -> bool:
    """Return True if the Mac's job is offered again at this time."""
    return [*jobs.pop_due({UDID: history}, at, 10)] == [Offer(JOB, EVENT)]


def test_intervals_double_up_to_an_hour_until_the_job_expires() -> None:
    jobs = kept()
    minutes = [n for n in range(12 * 60) if offered(jobs, NOW + n * MINUTE, JOB)]
    assert minutes == [5, 15, 35, *range(75, 600, 60)]
    assert jobs.event_of(UDID, (JOB,)) is None


@pytest.mark.parametrize("minute", [0, 4, 5, 14, 20, 300, 599])
def test_a_new_owner_offers_each_older_job_at_once_and_then_at_the_same_times(minute: int) -> None:
    jobs, again, at = kept(), kept(), NOW + minute * MINUTE
    offered(jobs, at, JOB)
    assert offered(again, at, JOB) is (minute >= 5)
    times = [NOW + n * MINUTE for n in range(minute + 1, 600)]
    assert [offered(jobs, one, JOB) for one in times] == [offered(again, one, JOB) for one in times]


@pytest.mark.parametrize(
    "history",
    [
        (),
        (entry(issued_at=NOW, outcome=Outcome.ACCEPTED),),
        (entry(issued_at=NOW, outcome=Outcome.STARTED),),
        (entry(issued_at=NOW, outcome=Outcome.SUPERSEDED, presumed=True),),
        (entry(issued_at=NOW, outcome=Outcome.FAILED),),
        (JOB, entry(generation=1, issued_at=NOW + MINUTE)),
        (entry(generation=1, outcome=Outcome.STARTED), JOB),
    ],
    ids=["forgotten", "accepted", "started", "superseded", "failed", "replaced", "another begun"],
)
def test_a_job_with_a_result_or_an_end_is_not_offered_again(history: JobHistory) -> None:
    jobs = kept()
    assert not offered(jobs, NOW + 5 * MINUTE, *history)
    assert not offered(jobs, NOW + HOUR, JOB)
    assert jobs.event_of(UDID, (JOB,)) is None


def test_the_event_of_a_newer_job_replaces_that_of_the_older() -> None:
    newer = entry(generation=1, issued_at=NOW + 3 * MINUTE)
    jobs = kept()
    jobs.add(UDID, Offer(newer, b"newer"))
    found = [
        (n, offer.issued_event)
        for n in range(20)
        for offer in jobs.pop_due({UDID: (newer,)}, NOW + n * MINUTE, 10)
    ]
    assert found == [(8, b"newer"), (18, b"newer")]


def test_the_limit_leaves_the_rest_due() -> None:
    jobs = UnacceptedJobs()
    macs = {f"MAC-{n}": entry(udid=f"MAC-{n}", issued_at=NOW) for n in range(5)}
    for udid, job in macs.items():
        jobs.add(udid, Offer(job, EVENT))
    at, histories = NOW + FIRST_OFFER_AFTER, {udid: (job,) for udid, job in macs.items()}
    assert [len([*jobs.pop_due(histories, at, 2)]) for _ in range(4)] == [2, 2, 1, 0]
    assert not jobs.is_due(at)


@given(st.lists(st.integers(0, 700), max_size=30).map(sorted), st.integers(0, 700), st.data())
def test_no_offer_is_missed_or_early_whatever_the_times(
    minutes: list[int], accepted: int, data: st.DataObject
) -> None:
    jobs, last = kept(), 0
    times = [5, 15, 35, *range(75, 600, 60)]
    for now in minutes:
        if data.draw(st.booleans(), label="new owner"):
            jobs, last = kept(), 0
        job = JOB if now < accepted else entry(issued_at=NOW, outcome=Outcome.ACCEPTED)
        is_due = any(last < one <= now for one in times) and now < min(accepted, 600)
        assert offered(jobs, NOW + now * MINUTE, job) is is_due
        last = now
