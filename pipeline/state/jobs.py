"""The jobs of one Mac: which are open, which ended, and how.

A job's entry is a join of what was said of it: issued once, the furthest outcome wins. The only
successes are those that `settle` reads off the Mac's own later reports.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from pipeline.state.device import AUTHENTICATED, Device, from_us, to_us
from schemas.jobs import Action, Job, Method, Target
from schemas.macos import Build, OSVersion, parse_build, parse_os_version, reaches
from schemas.results import FINAL_OUTCOMES, ErrorCode, JobResult, Outcome

# How far along an outcome is. Of two final ones the stronger claim wins: a success is read off
# the Mac itself, a failure only off what was tried.
_RANK: Final = {
    Outcome.ACCEPTED: 0,
    Outcome.STARTED: 2,
    Outcome.PROGRESSED: 3,
    Outcome.ACTED: 4,
    Outcome.SUPERSEDED: 5,
    Outcome.EXPIRED: 6,
    Outcome.REFUSED: 7,
    Outcome.FAILED: 8,
    Outcome.SUCCEEDED: 9,
}
# That a job never began is our guess until its executor says so; that it had begun outranks it.
_PRESUMED_RANK: Final = 1
# The attempt in a result that was read off state and told by no executor.
INFERRED_ATTEMPT: Final = 0
KEPT_JOBS: Final = 32
_NEVER_AT_THE_MAC: Final = frozenset(
    {ErrorCode.UNREACHABLE, ErrorCode.EXPIRED, ErrorCode.SUPERSEDED}
)


class JobEntry(msgspec.Struct, frozen=True, gc=False):
    """One job as far as is known. `outcome_us` is when its furthest outcome was told; `acted_us`
    when the executor had done its part, 0 if it has not; `guessed` that it ended unbegun as far
    as we know, which its executor may still correct."""

    job_id: str
    action: Action
    method: Method
    intent: str
    version: OSVersion | None
    build: Build | None
    generation: int
    issued_us: int
    expires_us: int
    report_by_us: int
    site: str
    erases: bool = False
    outcome: Outcome | None = None
    outcome_us: int = 0
    acted_us: int = 0
    error_code: ErrorCode | None = None
    presumed: bool = False
    known_until_us: int = 0

    @property
    def since_us(self) -> int:
        """Only what is told of a later moment can show that it was done."""
        return max(self.issued_us, self.known_until_us)

    @property
    def rank(self) -> int:
        """How far along it is; -1 while nothing was told."""
        if self.outcome is None:
            return -1
        return _PRESUMED_RANK if self.presumed else _RANK[self.outcome]

    @property
    def is_open(self) -> bool:
        """Whether its end is not known yet."""
        return self.outcome not in FINAL_OUTCOMES

    @property
    def may_have_touched(self) -> bool:
        """Whether the executor may already be at the Mac."""
        return self.rank >= _RANK[Outcome.STARTED]

    @property
    def times_out_us(self) -> int:
        """When an open job ends by itself: not begun in time, or begun and never confirmed."""
        return self.report_by_us if self.may_have_touched else self.expires_us

    @property
    def touched(self) -> bool:
        """Whether an ended job got as far as the Mac: those count against the limit of tries."""
        return self.outcome is not Outcome.EXPIRED and self.error_code not in _NEVER_AT_THE_MAC

    @property
    def failed(self) -> bool:
        """Whether it ended without doing what it was for (superseded is neither)."""
        return self.outcome in (Outcome.FAILED, Outcome.REFUSED, Outcome.EXPIRED)

    def to_wire(self) -> dict[str, Any]:
        """The entry as JSON values; those of enums are text themselves."""
        return {
            "job_id": self.job_id,
            "action": self.action,
            "method": self.method,
            "intent": self.intent,
            "version": None if self.version is None else str(self.version),
            "build": None if self.build is None else str(self.build),
            "generation": self.generation,
            "issued_us": self.issued_us,
            "expires_us": self.expires_us,
            "report_by_us": self.report_by_us,
            "site": self.site,
            "erases": self.erases,
            "outcome": self.outcome,
            "outcome_us": self.outcome_us,
            "acted_us": self.acted_us,
            "error_code": self.error_code,
            "presumed": self.presumed,
            "known_until_us": self.known_until_us,
        }

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "JobEntry":
        """The entry that `to_wire` wrote. ValueError for what no version wrote."""
        try:
            return cls.of_row(msgspec.convert(wire, JobRow))
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error

    @classmethod
    def of_row(cls, row: "JobRow") -> "JobEntry":
        """The same of a row already decoded. ValueError for what no version wrote."""
        version, build = row.version, row.build
        return cls(
            row.job_id,
            row.action,
            row.method,
            row.intent,
            None if version is None else parse_os_version(version),
            None if build is None else parse_build(build),
            row.generation,
            row.issued_us,
            row.expires_us,
            row.report_by_us,
            row.site,
            row.erases,
            row.outcome,
            row.outcome_us,
            row.acted_us,
            row.error_code,
            row.presumed,
            row.known_until_us,
        )


class JobRow(msgspec.Struct, gc=False):
    """What `JobEntry.to_wire` writes, to be decoded into."""

    job_id: str
    action: Action
    method: Method
    intent: str
    version: str | None
    build: str | None
    generation: int
    issued_us: int
    expires_us: int
    report_by_us: int
    site: str
    erases: bool
    outcome: Outcome | None
    outcome_us: int
    acted_us: int
    error_code: ErrorCode | None
    presumed: bool = False
    known_until_us: int = 0


JobHistory = tuple[JobEntry, ...]
"""A Mac's jobs, oldest first; the last KEPT_JOBS of them, and any that is open."""


def add_job(history: JobHistory, job: Job) -> JobHistory:
    """The ledger with this job in it; the same ledger if it already was."""
    if any(entry.job_id == job.job_id for entry in history):
        return history
    entry = JobEntry(
        job_id=job.job_id,
        action=job.action,
        method=job.method,
        intent=job.intent,
        version=None if job.target is None else job.target.version,
        build=None if job.target is None else job.target.build,
        generation=job.generation,
        issued_us=to_us(job.issued_at),
        expires_us=to_us(job.expires_at),
        report_by_us=to_us(job.report_by or job.expires_at),
        site=job.site,
        erases=job.erases,
        known_until_us=0 if job.known_until is None else to_us(job.known_until),
    )
    if not history:
        return (entry,)
    entries = sorted((*history, entry), key=lambda kept: (kept.issued_us, kept.job_id))
    surplus = len(entries) - KEPT_JOBS
    return tuple(one for at, one in enumerate(entries) if at >= surplus or one.is_open)


def add_result(history: JobHistory, result: JobResult, us: int) -> JobHistory:
    """The ledger with this result in it. A result for a job it does not hold changes nothing:
    the job was dropped as too old, or was never ours."""
    return tuple(
        _advance(entry, result, us) if entry.job_id == result.job_id else entry for entry in history
    )


def supersede_job(history: JobHistory, job_id: str, us: int) -> JobHistory:
    """The ledger with this job superseded, unless its executor may already be at the Mac. If it
    was and had not said so yet, what it says opens the job again."""
    return tuple(
        replace(entry, outcome=Outcome.SUPERSEDED, outcome_us=us, presumed=True)
        if entry.job_id == job_id and entry.is_open and not entry.may_have_touched
        else entry
        for entry in history
    )


def _advance(entry: JobEntry, result: JobResult, us: int) -> JobEntry:
    outcome = result.outcome
    if outcome is Outcome.SUCCEEDED and result.attempt != INFERRED_ATTEMPT:
        outcome = Outcome.ACTED  # an executor's word is progress; success is read off the Mac
    acted_us = entry.acted_us
    if outcome is Outcome.ACTED:
        acted_us = us if not acted_us else min(acted_us, us)
    updated = replace(
        entry,
        outcome=outcome,
        outcome_us=us,
        acted_us=acted_us,
        error_code=result.error_code,
        presumed=outcome is Outcome.EXPIRED and result.attempt == INFERRED_ATTEMPT,
    )
    if _is_further(updated, entry):
        return updated
    return entry if acted_us == entry.acted_us else replace(entry, acted_us=acted_us)


def _is_further(updated: JobEntry, known: JobEntry) -> bool:
    if updated.rank != known.rank:
        return updated.rank > known.rank
    if updated.outcome_us != known.outcome_us:
        # The first telling of an end is when the job ended; of progress the last counts.
        later = updated.outcome_us > known.outcome_us
        return later is (updated.outcome not in FINAL_OUTCOMES)
    return _tie_breaker(updated) > _tie_breaker(known)


def _tie_breaker(entry: JobEntry) -> tuple[str, str]:
    return entry.outcome or "", entry.error_code or ""


def open_job(history: JobHistory) -> JobEntry | None:
    """The Mac's open job. Of several, one that may have touched the Mac, else the newest."""
    found: JobEntry | None = None
    for entry in reversed(history):
        if entry.is_open:
            if entry.may_have_touched:
                return entry
            found = found or entry
    return found


def extra_open_jobs(history: JobHistory) -> JobHistory:
    """Open jobs beside the open job that no executor has begun: there must be none for long."""
    if sum(entry.is_open for entry in history) < 2:
        return ()
    kept = open_job(history)
    return tuple(
        one for one in history if one is not kept and one.is_open and not one.may_have_touched
    )


def infer_result(entry: JobEntry, device: Device, udid: str, now: datetime) -> JobResult | None:
    """What the Mac's reports, or its silence, make of an open job; None while it is open.

    An update has succeeded when a report made after the job was issued shows the target. A
    reinstall, which may end on the version it began with, when such a report follows the
    executor's part and a boot; one that erases, when the Mac has also enrolled anew. A
    re-enrolment when a fresh Authenticate and TokenUpdate came.
    """
    if not entry.is_open:
        return None
    if _is_fulfilled(entry, device):
        return _result(entry, device, udid, Outcome.SUCCEEDED, None)
    if to_us(now) < entry.times_out_us:
        return None
    if entry.acted_us:
        return _result(entry, device, udid, Outcome.FAILED, ErrorCode.NO_REPORT)
    if entry.may_have_touched:
        return _result(entry, device, udid, Outcome.FAILED, ErrorCode.NOTHING_HAPPENED)
    return _result(entry, device, udid, Outcome.EXPIRED, ErrorCode.EXPIRED)


def _is_fulfilled(entry: JobEntry, device: Device) -> bool:
    if entry.action is Action.REENROLL:
        return device.enrolled_since(entry.since_us)
    if entry.version is None:
        return False
    reported_us = device.reported_us("os_version")
    if reported_us <= entry.since_us or not reaches(
        device.os_version, device.build, entry.version, entry.build
    ):
        return False
    if entry.action in (Action.UPDATE, Action.UPGRADE):
        return True
    if not 0 < entry.acted_us < reported_us:
        return False
    if entry.erases:
        # Setup Assistant runs after a boot; few sources would report that boot itself.
        return device.checkins[AUTHENTICATED] > entry.since_us
    return device.boot_at is not None and to_us(device.boot_at) > entry.since_us


def _result(
    entry: JobEntry, device: Device, udid: str, outcome: Outcome, code: ErrorCode | None
) -> JobResult:
    return JobResult(
        job_id=entry.job_id,
        udid=udid,
        site=entry.site,
        outcome=outcome,
        attempt=INFERRED_ATTEMPT,
        error_code=code,
        detail="read off the Mac's own reports",
        observed_version=device.os_version,
        observed_build=device.build,
        observed_boot_at=device.boot_at,
    )


def attempts(history: JobHistory, action: Action, intent: str) -> JobHistory:
    """The Mac's ended jobs for one intent, oldest first."""
    if not history:
        return ()
    return tuple(
        [
            entry
            for entry in history
            if entry.action is action and entry.intent == intent and not entry.is_open
        ]
    )


def failures(history: JobHistory, action: Action, intent: str) -> JobHistory:
    """Those of them that failed since one last succeeded, oldest first."""
    found: list[JobEntry] = []
    for entry in attempts(history, action, intent):
        if entry.outcome is Outcome.SUCCEEDED:
            found.clear()
        elif entry.failed:
            found.append(entry)
    return tuple(found)


def target_of(entry: JobEntry) -> Target | None:
    """The release the job was for."""
    return None if entry.version is None else Target(version=entry.version, build=entry.build)


def ended_at(entry: JobEntry) -> datetime:
    """When its end was told."""
    return from_us(entry.outcome_us)
