"""Jobs that are lost on their way to the executor are offered again, and only those.

The worker and its files are real; the broker is a list in memory. `test_lost_jobs_kafka` has the
same faults with a real broker and a real agent.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from shutil import rmtree

import pytest
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]

from schemas.envelope import CloudEvent, JobIssuedEvent, decode
from schemas.jobs import Job
from schemas.results import Outcome
from schemas.topics import DISPATCH, DISPATCH_STATE, ORDERS, STATE, jobs_topic, partition_of
from tests import factories
from tests.crash_points import Crash, CrashPoint
from tests.factories import NOW, topic_of
from tests.unit.processors.memory_kafka import (
    DISPATCH_PARTITIONS,
    PARTITIONS,
    SITES,
    Brokers,
    MemoryWorker,
    reading,
    run_until_idle,
)

MINUTE = timedelta(minutes=1)
UDIDS = [f"MAC-{number}" for number in range(6)]
SHARES = 2


def lose_dispatch_records(brokers: Brokers) -> None:
    """Delete the records for dispatch that are not committed yet."""
    for number in range(DISPATCH_PARTITIONS):
        end = len(brokers.of(DISPATCH.name, number))
        brokers.committed[TopicPartition(DISPATCH.name, number)] = end


def lose_dispatch_state(brokers: Brokers) -> None:
    """Delete all rows of dispatch, and the records in the topics of the sites."""
    lose_dispatch_records(brokers)
    for number in range(DISPATCH_PARTITIONS):
        brokers.of(DISPATCH_STATE.name, number).clear()
    lose_site_records(brokers)


def lose_site_records(brokers: Brokers) -> None:
    """Delete all records in the topics of the sites."""
    for site in SITES:
        brokers.of(jobs_topic(site)).clear()


LOSSES: list[Callable[[Brokers], None]] = [
    lose_dispatch_records,
    lose_dispatch_state,
    lose_site_records,
]


def a_fleet() -> Brokers:
    """Return topics with a policy, a release and Macs that lack it."""
    brokers = Brokers()
    text = factories.POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 50")
    events: list[CloudEvent] = [factories.policy_changed(text)]
    events += [factories.release("26.1"), factories.release("26.2")]
    for udid in UDIDS:
        events += [*factories.enrolled(udid), factories.polled(udid)]
        events.append(factories.full_report("26.1", udid, NOW - MINUTE, serial=f"C02{udid}"))
    brokers.send(events, topic_of)
    return brokers


def run(brokers: Brokers, folder: Path, minutes: float, crash: CrashPoint | None = None) -> None:
    """Run a new worker process at this time until it is idle."""
    now = NOW + minutes * MINUTE
    run_until_idle(MemoryWorker(brokers, folder, lambda: now, crash or CrashPoint()))


def orders(brokers: Brokers) -> dict[str, Job]:
    """Return the issued jobs by Mac."""
    events = [decode(one.value or b"") for one in brokers.all(ORDERS.name)]
    return {
        event.data.job.udid: event.data.job for event in events if isinstance(event, JobIssuedEvent)
    }


def published(brokers: Brokers) -> Counter[str]:
    """Return the number of records of each Mac's job in the topics of the sites."""
    return Counter(event.data.job.udid for event in brokers.published())


def accept(brokers: Brokers, udids: list[str]) -> None:
    """Let the executors accept the jobs of these Macs."""
    jobs = orders(brokers)
    then = NOW + MINUTE
    brokers.send(
        [factories.resulted(jobs[udid], Outcome.ACCEPTED, then) for udid in udids], topic_of
    )


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("lose", LOSSES)
def test_job_lost_after_a_crash_at_any_write_is_offered_again(
    lose: Callable[[Brokers], None], share: int, tmp_path: Path
) -> None:
    recorded = CrashPoint()
    run(a_fleet(), tmp_path / "plain", 0, recorded)
    for at in range(1 + share, len(recorded.moments) + 1, SHARES):
        brokers, folder = a_fleet(), tmp_path / f"{at}"
        with pytest.raises(Crash):
            run(brokers, folder, 0, CrashPoint(at))
        lose(brokers)
        if at % 4 < 2:
            rmtree(folder)
        run(brokers, folder, 0.1)
        lose_site_records(brokers)
        accept(brokers, UDIDS[:2])
        run(brokers, folder, 6)
        assert published(brokers) == dict.fromkeys(UDIDS[2:], 1), recorded.moments[at - 1]


@pytest.mark.parametrize("lose", LOSSES)
def test_unaccepted_job_is_offered_again_by_its_owner_and_by_each_new_one(
    lose: Callable[[Brokers], None], tmp_path: Path
) -> None:
    brokers, now = a_fleet(), NOW
    run(brokers, tmp_path, 0)
    lose(brokers)

    async def live(worker: MemoryWorker) -> list[int]:
        nonlocal now
        offered = []
        for minutes in (1, 4, 5, 10, 15, 30, 35, 60, 75):
            before, now = published(brokers), NOW + minutes * MINUTE
            await (worker.begin() if minutes == 1 else asyncio.sleep(0))
            while await worker.round():
                pass
            offered.append(sum((published(brokers) - before).values()))
        return offered

    worker = MemoryWorker(brokers, tmp_path, lambda: now)
    with reading(brokers):
        assert asyncio.run(live(worker)) == [0, 0, 6, 0, 6, 0, 6, 0, 6]
    worker.end()
    for number in range(2):
        before = published(brokers)
        run(brokers, tmp_path / f"{number}", 80)
        assert published(brokers) - before == dict.fromkeys(UDIDS, 1)


def test_superseded_ended_and_expired_jobs_are_not_offered_again(tmp_path: Path) -> None:
    brokers = a_fleet()
    run(brokers, tmp_path, 0)
    jobs = orders(brokers)
    lose_site_records(brokers)
    brokers.send(
        [
            factories.checked_out(UDIDS[0], NOW + MINUTE),  # superseded: it must enroll again
            factories.resulted(jobs[UDIDS[1]], Outcome.FAILED, NOW + MINUTE),
            factories.full_report("26.2", UDIDS[2], NOW + MINUTE, serial=f"C02{UDIDS[2]}"),
        ],
        topic_of,
    )
    run(brokers, tmp_path, 2)
    lose_site_records(brokers)
    run(brokers, tmp_path, 6)
    again = {event.data.job.job_id for event in brokers.published()}
    assert again == {jobs[udid].job_id for udid in UDIDS[3:]}
    lose_site_records(brokers)
    end = (max(job.expires_at for job in jobs.values()) - NOW) / MINUTE
    run(brokers, tmp_path, end + 1)
    late = {event.data.job.job_id for event in brokers.published()}
    assert not late & {job.job_id for job in jobs.values()}


def test_accepted_job_is_never_offered_again(tmp_path: Path) -> None:
    brokers = a_fleet()
    run(brokers, tmp_path, 0)
    accept(brokers, UDIDS)
    for minutes in (2, 6, 16, 40, 100, 300):
        run(brokers, tmp_path, minutes)
    assert published(brokers) == dict.fromkeys(UDIDS, 1)


@pytest.mark.parametrize("outcome", [Outcome.ACCEPTED, Outcome.ACTED, Outcome.FAILED])
def test_job_of_a_mac_whose_row_is_lost_gets_its_last_result_again(
    outcome: Outcome, tmp_path: Path
) -> None:
    """The Mac's next report leads to the same job; an executor that has it acts no second time."""
    brokers = a_fleet()
    run(brokers, tmp_path, 0)
    known, job = orders(brokers), orders(brokers)[UDIDS[0]]
    brokers.send([factories.resulted(job, outcome, NOW + MINUTE)], topic_of)
    accept(brokers, UDIDS[1:])
    run(brokers, tmp_path, 2)
    brokers.append(STATE.name, partition_of(job.udid, PARTITIONS), job.udid.encode(), None)
    lose_site_records(brokers)
    again = [
        *(*factories.enrolled(job.udid, NOW + 3 * MINUTE), factories.polled(job.udid)),
        factories.full_report("26.1", job.udid, NOW + 3 * MINUTE, serial=f"C02{job.udid}"),
    ]
    brokers.send(again, topic_of)
    run(brokers, tmp_path / "new", 3)
    assert orders(brokers) == known | {job.udid: orders(brokers)[job.udid]}
    assert orders(brokers)[job.udid].job_id == job.job_id
    run(brokers, tmp_path / "new", 9)
    offers = published(brokers)
    assert list(offers) == [job.udid], "the jobs of other Macs are accepted"
    brokers.send([factories.resulted(job, outcome, NOW + MINUTE)], topic_of)
    run(brokers, tmp_path / "new", 19)
    assert published(brokers) == offers
