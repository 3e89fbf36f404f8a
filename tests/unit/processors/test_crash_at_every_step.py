"""A crash before or after any write changes neither the final state nor the jobs."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from shutil import rmtree

import pytest

from schemas.envelope import CloudEvent
from schemas.results import Outcome
from tests import factories
from tests.crash_points import Crash, CrashPoint
from tests.factories import NOW, topic_of
from tests.unit.processors.memory_kafka import Brokers, MemoryWorker, run_until_idle, state_of

MINUTE = timedelta(minutes=1)
UDIDS = [f"MAC-{number}" for number in range(6)]
SHARES = 4  # processes of pytest-xdist run them side by side


class SteppingClock:
    """A clock that each new process finds at a later time."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def send(brokers: Brokers, *events: CloudEvent) -> None:
    brokers.send(events, topic_of)


def ask_for_updates(brokers: Brokers) -> None:
    """Six Macs report that they lack a release."""
    text = factories.POLICY_TEXT.replace("max_jobs: 2", "max_jobs: 50")
    send(brokers, factories.policy_changed(text))
    send(brokers, factories.release("26.1"), factories.release("26.2"))
    for udid in UDIDS:
        send(brokers, *factories.enrolled(udid), factories.polled(udid))
    for udid in UDIDS:
        send(brokers, factories.full_report("26.1", udid, NOW - MINUTE, serial=f"C02{udid}"))


def report_results(brokers: Brokers) -> None:
    """Executors report three jobs, two of these Macs the new release; one Mac is unenrolled."""
    then = NOW + 5 * MINUTE
    jobs = {event.data.job.udid: event.data.job for event in brokers.published()}
    send(brokers, *(factories.resulted(jobs[udid], Outcome.ACTED, then) for udid in UDIDS[:3]))
    send(brokers, factories.checked_out(UDIDS[4], then))
    for udid in UDIDS[:2]:
        send(brokers, factories.full_report("26.2", udid, then + MINUTE, serial=f"C02{udid}"))


def retract_release(brokers: Brokers) -> None:
    """The release is retracted: jobs that no executor has started are withdrawn."""
    send(brokers, factories.retracted("26.2", first_seen_at=NOW + 10 * MINUTE))


STAGES: tuple[Callable[[Brokers], None], ...] = (ask_for_updates, report_results, retract_release)


def play(
    brokers: Brokers, folder: Path, crash_point: CrashPoint, *, keeps_disk: bool = True
) -> None:
    """Run all stages; a new process starts a second after the crash."""
    clock, crashed = SteppingClock(), False
    for number, stage in enumerate(STAGES):
        clock.now = NOW + 20 * number * MINUTE
        stage(brokers)
        while True:
            try:
                run_until_idle(MemoryWorker(brokers, folder, clock, crash_point))
                break
            except Crash:
                assert not crashed, "crashed twice"
                crashed = True
                clock.now += timedelta(seconds=1)
                if not keeps_disk:
                    rmtree(folder)


def final_state(brokers: Brokers, folder: Path) -> dict[str, object]:
    """Return the state, jobs and last decision of each Mac, without times of decisions."""
    last = {record.decision.udid: record.decision for record in brokers.decisions()}
    return {
        udid: (
            row["device"],
            [(job["job_id"], job["outcome"]) for job in row["jobs"]],
            last[udid].model_dump(include={"decision", "reason", "action", "method", "job_id"}),
        )
        for udid, row in state_of(brokers, folder).items()
    }


def count_jobs(brokers: Brokers) -> Counter[str]:
    """Count the published jobs of each Mac; fail if one id or one intent has two jobs."""
    signed: dict[str, set[str]] = {}
    for event in brokers.published():
        signed.setdefault(event.data.job.job_id, set()).add(event.data.signed.payload)
    assert all(len(payloads) == 1 for payloads in signed.values()), "one id, two jobs"
    jobs = {event.data.job.job_id: event.data.job for event in brokers.published()}
    intents = Counter((job.udid, job.action, job.intent) for job in jobs.values())
    assert set(intents.values()) == {1}, "one intent, two jobs"
    return Counter(job.udid for job in jobs.values())


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_a_crash_at_any_write_changes_nothing(share: int, tmp_path: Path) -> None:
    plain, recorded = Brokers(), CrashPoint()
    play(plain, tmp_path / "plain", recorded)
    end, jobs = final_state(plain, tmp_path / "plain-read"), count_jobs(plain)
    assert sum(jobs.values()) == len(UDIDS) + 1  # one of them enrolls again
    assert len(recorded.moments) > 100
    for at in range(1 + share, len(recorded.moments) + 1, SHARES):
        brokers, folder = Brokers(), tmp_path / f"{at}"
        play(brokers, folder, CrashPoint(at), keeps_disk=bool(at % 2))
        where = f"{at}: {recorded.moments[at - 1]}"
        assert final_state(brokers, tmp_path / f"{at}-read") == end, where
        assert count_jobs(brokers) == jobs, where
