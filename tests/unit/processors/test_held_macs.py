"""On Kafka: a dry run leaves no attempts, and a reset of attempts reaches every partition."""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from schemas.envelope import AttemptsResetEvent, CloudEvent
from schemas.jobs import Job
from schemas.results import ErrorCode, Outcome
from tests import factories
from tests.factories import HOUR, NOW, UDID, topic_of
from tests.unit.processors.memory_kafka import Brokers, MemoryWorker, run_until_idle

POLICY = factories.POLICY_TEXT + "thresholds: {max_attempts: 1}\n"
SERIAL = "C02TEST0001"


class Fleet:
    """One Mac that lacks a release, and one worker after another."""

    def __init__(self, folder: Path) -> None:
        self.brokers = Brokers()
        self.now = NOW
        self._folder = folder
        self.send(factories.policy_changed(POLICY))
        self.send(factories.release("26.1"), factories.release("26.2"))
        self.send(*factories.enrolled(), factories.polled())
        self.report()

    def send(self, *events: CloudEvent) -> None:
        self.brokers.send(events, topic_of)
        run_until_idle(MemoryWorker(self.brokers, self._folder, lambda: self.now))

    def report(self) -> None:
        self.send(factories.full_report("26.1", UDID, self.now, serial=SERIAL))

    def wait(self, time: timedelta) -> None:
        self.now += time
        self.send()

    @property
    def jobs(self) -> list[Job]:
        return [event.data.job for event in self.brokers.published()]

    @property
    def reason(self) -> str:
        return self.brokers.decisions()[-1].decision.reason


def test_withheld_job_is_rehearsed_and_a_live_site_gets_a_new_one(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    (first,) = fleet.jobs
    fleet.send(factories.resulted(first, Outcome.WITHHELD, fleet.now))
    assert fleet.reason == "job_open"
    fleet.wait(3 * HOUR)
    fleet.report()
    assert (fleet.reason, len(fleet.jobs)) == ("dry_run", 1)
    fleet.send(factories.resulted(first, Outcome.SUPERSEDED, fleet.now, ErrorCode.SUPERSEDED))
    assert [job.generation for job in fleet.jobs] == [0, 1]


def everything(at: datetime) -> AttemptsResetEvent:
    return factories.attempts_reset(at)


def site(at: datetime) -> AttemptsResetEvent:
    return factories.attempts_reset(at, site="london")


def serial(at: datetime) -> AttemptsResetEvent:
    return factories.attempts_reset(at, device=SERIAL)


@pytest.mark.parametrize("make", [everything, site, serial])
def test_reset_of_attempts_sends_the_next_job(
    tmp_path: Path, make: Callable[[datetime], AttemptsResetEvent]
) -> None:
    fleet = Fleet(tmp_path)
    (first,) = fleet.jobs
    fleet.send(factories.resulted(first, Outcome.FAILED, fleet.now, ErrorCode.COMMAND_REJECTED))
    assert (fleet.reason, len(fleet.jobs)) == ("retries_exhausted", 1)
    fleet.send(make(fleet.now))
    assert [job.generation for job in fleet.jobs] == [0, 1]
    fleet.send(factories.resulted(fleet.jobs[1], Outcome.FAILED, fleet.now + HOUR))
    assert (fleet.reason, len(fleet.jobs)) == ("retries_exhausted", 2)
