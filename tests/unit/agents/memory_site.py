"""One partition of a site in memory: simulated Macs, the runner's thread, virtual time."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from agents.leases import LeaseManager
from agents.mac import Ack, Mac, Observation
from agents.metrics import AgentMetrics
from agents.partition_runner import PartitionRunner
from agents.simulated import SimulatedFleet
from agents.site_access import SiteAccess
from agents.site_context import SiteContext
from runtime.kafka import KafkaConnection
from runtime.logs import make_log
from schemas.dead_letters import DeadLetter
from schemas.envelope import (
    CloudEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    encode,
)
from schemas.ids import event_id
from schemas.jobs import Job
from schemas.topics import jobs_topic
from tests.factories.sites import KEYS, SITE, signed_job, signed_withdrawal
from tests.unit.agents.memory_kafka import PARTITION, Broker, Record

WAIT_LIMIT_S = 30.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition is True; fail with `what` after 30 s."""
    deadline = time.monotonic() + WAIT_LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_LIMIT_S:g} s: {what}"
        time.sleep(0.005)


@dataclass
class SetClock:
    """A clock that the test sets, and that differs from the true time `at` by `skew`."""

    at: datetime
    speed: float = 1e6
    skew: timedelta = timedelta(0)

    def now(self) -> datetime:
        return self.at + self.skew


@dataclass
class Outputs:
    """The results and dead letters of all runners, in place of `agents.result_producer`."""

    results: list[JobResultedEvent] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)

    def publish_results(self, events: Iterable[JobResultedEvent]) -> None:
        self.results += events

    def publish_dead_letter(self, letter: DeadLetter) -> None:
        self.dead_letters.append(letter)


@dataclass
class LockedMac:
    """A Mac that one thread at a time uses."""

    mac: Mac
    lock: threading.Lock

    def look(self, job: Job) -> Observation:
        with self.lock:
            return self.mac.look(job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        with self.lock:
            return self.mac.act(step, job, attempt)


class MemorySite:
    """The partition of a site. `broker` must be installed for `agents.leases`."""

    def __init__(self, broker: Broker, fleet: SimulatedFleet, folder: Path) -> None:
        self.broker = broker
        self.fleet = fleet
        self.folder = folder
        self.clock = SetClock(fleet.now)
        self.metrics = AgentMetrics()
        self.outputs = Outputs()
        self.committed = 0
        self.is_halted = False
        self.broker_skew = timedelta(0)
        self.mac_for: Callable[[Job], Mac] = fleet.mac_for
        self._lock = threading.Lock()

    def order(self, *jobs: Job) -> None:
        """Publish signed jobs."""
        for job in jobs:
            self.publish(
                JobIssuedEvent(
                    id=event_id("issued", job.job_id),
                    source="/test",
                    subject=job.udid,
                    time=job.issued_at,
                    data=signed_job(job),
                )
            )

    def publish(self, event: CloudEvent) -> None:
        """Publish an event to the job topic; a withdrawal is signed with the key of the jobs."""
        value = signed_withdrawal(event) if isinstance(event, JobSupersededEvent) else encode(event)
        broker_ms = round((self.clock.at + self.broker_skew).timestamp() * 1000)
        self.broker.jobs.append(Record((event.subject or "").encode(), value, timestamp=broker_ms))

    def runner(self, name: str = "one") -> PartitionRunner:
        """Return a new runner of this partition. The same name uses the same folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        outputs: Any = self.outputs
        context = SiteContext(
            name=SITE,
            executor_name=name,
            folder=folder,
            leases=LeaseManager(KafkaConnection(), SITE, timeout_s=2.0),
            result_producer=outputs,
            clock=self.clock,
            keys=lambda: KEYS,
            access=SiteAccess.simulated(lambda job: LockedMac(self.mac_for(job), self._lock)),
            halts=lambda _: None if self.is_halted else (),
            metrics=self.metrics,
            log=make_log(),
        )
        return PartitionRunner(context, PARTITION, 50, self._commit)

    def live(self, name: str = "one", hours: float = 0.0) -> None:
        """Run a new runner for this time of the Macs, at least until it has no record left."""
        runner = self.runner(name)
        runner.start()
        topic, first = jobs_topic(SITE), self.committed
        records = [
            replace(one, topic=topic, offset=offset)
            for offset, one in enumerate(self.broker.jobs)
            if one is not None and offset >= first
        ]
        if records:
            runner.offer(records)
        until = self.clock.at + timedelta(hours=hours)
        try:
            while True:
                self._wait(runner)
                if self.clock.at >= until:
                    break
                with self._lock:
                    wake_at = runner.status and runner.status.wake_at
                    due = (wake_at and wake_at - self.clock.skew, self.fleet.next_event_at())
                    upcoming = min((at for at in due if at is not None), default=until)
                    self.fleet.advance(min(upcoming, until))
                    self.clock.at = self.fleet.now
        finally:
            runner.stop()
            runner.join(WAIT_LIMIT_S)
        assert not runner.is_alive()

    def outcomes(self, job: Job) -> list[str]:
        """Return the outcomes of a job in order, without those of its way."""
        found = [one.data for one in self.outputs.results if one.data.job_id == job.job_id]
        outcomes = [one.outcome.value for one in found]
        return [one for one in outcomes if one not in ("accepted", "started", "progressed")]

    def acted(self) -> list[str]:
        """Return the job id of each action on a Mac, sorted."""
        return sorted(job_id for _, _, job_id, _, _ in self.fleet.acted)

    def metric(self, name: str, **labels: str) -> float:
        """Return a metric."""
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is not None
        return value

    def _commit(self, _: int, offset: int) -> None:
        self.committed = offset

    def _wait(self, runner: PartitionRunner) -> None:
        """Wait until the runner has nothing to do at the present time."""

        def is_idle() -> bool:
            status = runner.status
            return (
                self.committed == len(self.broker.jobs)
                and status is not None
                and (self.is_halted or status.wake_at is None or status.wake_at > self.clock.now())
            )

        eventually(is_idle, "the runner is idle")
