"""One job in dispatch, its row in the changelog, and the times that end it. Pure."""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from pipeline.processors.fast.verified_cache import JobHeader
from pipeline.processors.unaccepted_jobs import FIRST_OFFER_AFTER
from pipeline.reconcile.automatic_halt import LOOK_BACK_US
from pipeline.state.device import duration_us, to_us
from schemas.jobs import INSTALLATIONS, Action, Job

_NO_DEADLINE: Final = 1 << 62
# Jobs are kept for this time after their last own time, so that a late repeat is recognised.
_REMEMBERED_US: Final = duration_us(timedelta(days=1))
_REPEAT_AFTER_US: Final = duration_us(FIRST_OFFER_AFTER / 2)


class Stage(StrEnum):
    """The stage of a job in dispatch; the table of `dispatch_shard` has the transitions."""

    WAITING = "waiting"
    DISPATCHED = "dispatched"
    WITHDRAWN = "withdrawn"
    STARTED = "started"
    FINISHED = "finished"


class QueuedJob(msgspec.Struct, frozen=True, gc=False):
    """One job in dispatch; times are in microseconds since 1970.

    `dispatched_us` is the time at which it was published first, 0 for never; `site_macs` the
    confirmed Macs of its site in the Mac's partition when it was issued.
    `issued_event` is its JobIssuedEvent as bytes; None once it no longer waits.
    """

    job_id: str
    udid: str
    site: str
    stage: Stage
    needs_capacity: bool
    deadline_us: int
    issued_us: int
    expires_us: int
    report_by_us: int
    action: Action = Action.UPDATE
    site_macs: int = 0
    dispatched_us: int = 0
    issued_event: bytes | None = None

    @classmethod
    def from_job(cls, job: Job | JobHeader, raw: bytes) -> "QueuedJob":
        """Return a job that waits; `raw` is its JobIssuedEvent."""
        expires_us = to_us(job.expires_at)
        return cls(
            job_id=job.job_id,
            udid=job.udid,
            site=job.site,
            stage=Stage.WAITING,
            needs_capacity=job.action in INSTALLATIONS,
            deadline_us=_NO_DEADLINE if job.deadline_at is None else to_us(job.deadline_at),
            issued_us=to_us(job.issued_at),
            expires_us=expires_us,
            report_by_us=expires_us if job.report_by is None else to_us(job.report_by),
            action=job.action,
            site_macs=job.site_macs or 0,
            issued_event=raw,
        )

    @property
    def forget_at_us(self) -> int:
        """The time, in us since 1970, from which the job is forgotten.

        No event of the job is expected then, even if some were lost, and no halt depends on it.
        """
        last_event_us = max(self.expires_us, self.report_by_us) + _REMEMBERED_US
        return max(last_event_us, self.dispatched_us + LOOK_BACK_US)

    def is_offered_again(self, now_us: int) -> bool:
        """Return True if a repeat at `now_us` is an offer of the Mac's owner, and not of a crash.

        Half of the interval: the clocks of two workers differ.
        """
        return self.issued_us + _REPEAT_AFTER_US <= now_us < self.expires_us

    def to_row(self, epoch: int) -> bytes:
        """Return the job as a row of the changelog, written in `epoch`."""
        wire = {name: getattr(self, name) for name in _NAMES}
        wire["e"] = epoch
        wire["issued_event"] = None if self.issued_event is None else self.issued_event.decode()
        return msgspec.json.encode(wire)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "QueuedJob":
        """Return the job of a decoded row.

        Raises ValueError if a field is missing or has another type, for an unknown stage, and if a
        waiting job has no event.
        """
        issued_event = wire.get("issued_event")
        queued = msgspec.convert({name: wire[name] for name in _NAMES if name in wire}, cls)
        if (issued_event is None) is (queued.stage is Stage.WAITING):
            raise ValueError(f"a job that is {queued.stage}, with issued_event {issued_event!r}")
        if issued_event is None:
            return queued
        return replace(queued, issued_event=str(issued_event).encode())


_NAMES: Final = tuple(name for name in QueuedJob.__struct_fields__ if name != "issued_event")
