"""The embedded form as a shell for scenarios: the whole service, with sweep and executors.

Its executors begin a job when the scenario reports a result of it, and end no job: the scenario
reports the end, so that it is the same in each form.
"""

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

from agents.mac import Ack, InstallState, Observation, Progress, UnreachableError
from agents.site_access import SiteAccess
from pipeline.embedded.service import Options, Service
from pipeline.embedded.transaction import Committed
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.fleet import Fleet
from schemas.dead_letters import DeadLetter, make_dead_letter
from schemas.decisions import DecisionRecord
from schemas.envelope import (
    CloudEvent,
    Event,
    InvalidEvent,
    JobIssuedEvent,
    JobResultedEvent,
    decode,
)
from schemas.jobs import Job
from schemas.results import Outcome
from tests.factories import NOW
from tests.factories.sites import JOBS_KEY, KEYS

USUAL_SWEEP = Options().sweep_every
MOST_TICKS = 100
NOT_BEGUN = (Outcome.WITHHELD, Outcome.SUPERSEDED)


class BusyMac:
    """A Mac that is busy until `begun` has the job; it accepts one act, then is unreachable."""

    def __init__(self, begun: Collection[str]) -> None:
        self._begun = begun
        self._acted: set[str] = set()

    def look(self, job: Job) -> Observation:
        if job.job_id in self._acted:
            raise UnreachableError(job.udid)
        if job.job_id not in self._begun:
            return Observation(progress=Progress(InstallState.INSTALLING))
        return Observation()

    def act(self, step: str, job: Job, attempt: int) -> Ack:  # noqa: ARG002 - Mac's signature
        self._acted.add(job.job_id)
        return Ack.accepted()


class EmbeddedShell:
    """One service on a data directory.

    With `restarts` the service is closed and opened again after each input, before its executors
    get the jobs. `sweeps` counts the sweeps after the start of a service.
    """

    service_type: ClassVar[type[Service]] = Service

    def __init__(
        self,
        folder: Path,
        *,
        sweep_every: timedelta = USUAL_SWEEP,
        restarts: bool = False,
    ) -> None:
        self._folder = folder
        self._options = Options(sweep_every=sweep_every)
        self._restarts = restarts
        self.sweeps = 0
        self._decided: list[DecisionRecord] = []
        self._events: list[Event] = []
        self._letters: list[DeadLetter] = []
        self._now = NOW
        self._begun: set[str] = set()
        self._mac = BusyMac(self._begun)
        self._service = self._open()

    @property
    def fleet(self) -> Fleet:
        """The state of all Macs."""
        return self._service.reconciler.fleet

    def close(self) -> None:
        self._service.close()

    def set_time(self, at: datetime) -> None:
        self._now = at

    def accept(self, events: Sequence[CloudEvent]) -> None:
        known: list[Event] = [event for event in events if isinstance(event, Event)]
        self._service.accept(known, (), self._now)
        reported = {
            event.data.job_id
            for event in known
            if isinstance(event, JobResultedEvent) and event.data.outcome not in NOT_BEGUN
        }
        if reported:
            # The executor began these jobs before the other inputs of this step reached it.
            self._begun |= reported
            self._service.executors.tick(self._now)

    def accept_bytes(self, raw: bytes) -> None:
        try:
            self.accept([decode(raw)])
        except InvalidEvent as error:
            letter = make_dead_letter(
                error, raw, source="/test", origin="", received_at=self._now, redacted=raw
            )
            self._service.accept((), [letter], self._now)

    def settle(self) -> None:
        if self._restarts:
            self._service.close()
            self._service = self._open()
        for _ in range(MOST_TICKS):
            wake = self._service.next_wake(self._now)
            if wake is None or wake > self._now:
                return
            next_sweep_at = self._service.reconciler.queue._sweep_at
            self._service.tick(self._now)
            self.sweeps += self._service.reconciler.queue._sweep_at != next_sweep_at
        raise AssertionError(f"something is still due after {MOST_TICKS} ticks")

    def records(self) -> Sequence[DecisionRecord]:
        return self._decided

    def issued_jobs(self) -> Sequence[JobIssuedEvent]:
        return [event for event in self._events if isinstance(event, JobIssuedEvent)]

    def published_jobs(self) -> Sequence[JobIssuedEvent]:
        """Return the issued jobs that an executor has accepted."""
        accepted = {
            event.data.job_id
            for event in self._events
            if isinstance(event, JobResultedEvent) and event.data.outcome is Outcome.ACCEPTED
        }
        return [order for order in self.issued_jobs() if order.data.job.job_id in accepted]

    def dead_letters(self) -> Sequence[DeadLetter]:
        return self._letters

    def _open(self) -> Service:
        return self.service_type.open(
            self._folder,
            now=self._now,
            signer=JOBS_KEY,
            trust=KEYS,
            access=lambda _: SiteAccess.simulated(lambda _: self._mac),
            on_commit=self._observe,
            options=self._options,
        )

    def _observe(self, committed: Committed, _: Reconciler) -> None:
        self._letters += committed.dead_letters
        self._decided += committed.decisions
        self._events += committed.events
