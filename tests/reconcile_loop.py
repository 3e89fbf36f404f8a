"""The smallest shell around a reconciler: it keeps the changes in memory, in the order of a log."""

from datetime import datetime

from pipeline.payload_signing import sign_job
from pipeline.reconcile.changes import Changes, Input
from pipeline.reconcile.reconciler import Reconciler
from schemas.decisions import DecisionRecord
from schemas.envelope import Event, encode
from schemas.jobs import Job, JobIssued
from tests.factories.sites import JOBS_KEY, KEYS

UNLIMITED = 1 << 30


def signed(job: Job) -> JobIssued:
    return sign_job(job, JOBS_KEY)


def new_reconciler(*, partitions: int | None = None) -> Reconciler:
    """Return an empty reconciler that signs with the key of the tests."""
    return Reconciler(
        sign=signed,
        job_keys=KEYS.jobs,
        approval_keys=KEYS.approvals,
        partitions=partitions,
    )


def inputs(*events: Event) -> list[Input]:
    return [Input(event, encode(event)) for event in events]


def accept(reconciler: Reconciler, event: Event, now: datetime) -> Changes:
    """Apply an event, decide for all Macs that it affects, and return the changes."""
    return reconciler.decide_marked(now, UNLIMITED, reconciler.apply(inputs(event), now))


def advance(reconciler: Reconciler, now: datetime) -> Changes:
    """Do all work that is due and return the changes."""
    return reconciler.advance(now, UNLIMITED)


def sweep(reconciler: Reconciler, now: datetime) -> Changes:
    """Decide for every Mac again and return the changes."""
    reconciler.queue.start_sweep(now)
    return reconciler.advance(now, UNLIMITED)


def values(changes: Changes) -> list[DecisionRecord | Event]:
    """Return the decisions and derived events in order; fail if there is a rejection."""
    assert not changes.rejections, changes.rejections
    return [one.value for one in changes.records]
