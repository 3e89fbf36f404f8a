"""The reconciler's two interfaces side by side: effects, and `apply` with `advance`."""

from collections.abc import Callable, Iterable
from datetime import datetime

from pipeline.decide.job_events import issued_event
from pipeline.payload_signing import sign_job
from pipeline.reconcile.changes import Changes, Input
from pipeline.reconcile.reconciler import (
    SOURCE,
    DerivedEvent,
    Effect,
    EvaluationFailed,
    Reconciler,
)
from schemas.decisions import encode_record
from schemas.envelope import Event, encode
from schemas.jobs import Job, JobIssued
from tests.factories.sites import JOBS_KEY, KEYS

UNLIMITED = 1 << 30


def signed(job: Job) -> JobIssued:
    return sign_job(job, JOBS_KEY)


class EffectLoop:
    """A shell that follows effects; `log` has the bytes of every event and decision."""

    def __init__(self) -> None:
        self.reconciler = Reconciler()
        self.log: list[bytes] = []

    def accept(self, event: Event, now: datetime) -> None:
        self.log.append(encode(event))
        self._follow(self.reconciler.handle(event, now), now)

    def advance(self, now: datetime) -> None:
        self._follow(self.reconciler.reconcile_due(now), now)

    def sweep(self, now: datetime) -> None:
        self._follow(self.reconciler.sweep(now), now)

    def _follow(self, effects: Iterable[Effect], now: datetime) -> None:
        for effect in effects:
            if isinstance(effect, EvaluationFailed):
                raise effect.error
            if isinstance(effect, DerivedEvent):
                self.accept(effect.event, now)
                continue
            self.log.append(encode_record(effect.record))
            if effect.job is not None:
                self.accept(issued_event(signed(effect.job), SOURCE, now), now)


class ChangesLoop:
    """A shell that keeps `Changes`; `log` has the bytes of every event and decision."""

    def __init__(
        self, limit: int = UNLIMITED, on_changes: Callable[[Changes], None] = lambda _: None
    ) -> None:
        self.reconciler = Reconciler(sign=signed, job_keys=KEYS.jobs, approval_keys=KEYS.approvals)
        self.log: list[bytes] = []
        self._limit = limit
        self._on_changes = on_changes

    def accept(self, event: Event, now: datetime) -> None:
        changes = self.reconciler.apply([Input(event, encode(event))], now)
        self._keep(self.reconciler.decide_marked(now, self._limit, changes))

    def advance(self, now: datetime) -> None:
        while self.reconciler.has_due_decisions(now):
            self._keep(self.reconciler.advance(now, self._limit))

    def sweep(self, now: datetime) -> None:
        self.reconciler.start_sweep(now)
        while self.reconciler.next_work_at(now) == now:
            self._keep(self.reconciler.advance(now, self._limit))

    def _keep(self, changes: Changes) -> None:
        assert not changes.rejections, changes.rejections
        self.log += [one.raw for one in changes.inputs]
        self.log += [one.body for one in changes.records]
        self._on_changes(changes)
