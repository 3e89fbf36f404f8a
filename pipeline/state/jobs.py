"""The job history of one Mac: its open and ended jobs, folded from jobs and results.

A job is issued once; of its results the one with the highest rank wins, in any order:

| rank | outcome | the job is |
| --- | --- | --- |
| -1 | none | open |
| 0 | accepted | open |
| 1 | withheld | open: the site is in dry run, the Mac is untouched |
| 2 | rehearsed | ended, `EXPECTED_DURATION` after it was withheld |
| 3 | superseded, expired: presumed | ended; a result of its executor can reopen it |
| 4 to 6 | started, progressed, acted | open; the executor may have touched the Mac |
| 7 to 11 | superseded, expired, refused, failed, succeeded | ended |

A rehearsed job is no attempt and no failure. When its site gets an executor that acts, that one
reports the job as superseded: the Mac is decided again at once.

Invariant: a job has succeeded only if later reports of the Mac itself show it (`job_ends`).
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from pipeline.state.device import (
    Device,
    duration_us,
    from_us,
    to_us,
)
from schemas.events.control import AttemptsReset
from schemas.jobs import Action, Job, Method, Target
from schemas.macos import Build, OSVersion, parse_build, parse_os_version
from schemas.results import FINAL_OUTCOMES, ErrorCode, JobResult, Outcome

# Progress of an outcome. Of two final outcomes the one with the better evidence wins: a success is
# proven by the Mac's report, a failure only by an attempt.
_RANK: Final = {
    Outcome.ACCEPTED: 0,
    Outcome.WITHHELD: 1,
    Outcome.REHEARSED: 2,
    Outcome.STARTED: 4,
    Outcome.PROGRESSED: 5,
    Outcome.ACTED: 6,
    Outcome.SUPERSEDED: 7,
    Outcome.EXPIRED: 8,
    Outcome.REFUSED: 9,
    Outcome.FAILED: 10,
    Outcome.SUCCEEDED: 11,
}
# Until its executor confirms it, the end of a job that never began is presumed. A later result that
# shows that it had begun wins.
_PRESUMED_RANK: Final = 3
# The `attempt` of a result that is inferred from state and not reported by an executor.
INFERRED_ATTEMPT: Final = 0
KEPT_JOBS: Final = 32
# The time that a job of this method usually takes, from its order to the Mac's next report: in a
# dry run it uses the capacity of its site for so long. Downloads share the line of the site; for
# `ddm` it includes the hour of notice to the user.
EXPECTED_DURATION: Final[Mapping[Method, timedelta]] = {
    Method.DDM: timedelta(hours=2),
    Method.MDM_COMMAND: timedelta(hours=1),
    Method.SOFTWAREUPDATE: timedelta(hours=1),
    Method.STARTOSINSTALL: timedelta(minutes=90),
    Method.ERASE_DEVICE: timedelta(minutes=30),
    Method.ASR: timedelta(minutes=15),
    Method.PROFILES_RENEW: timedelta(hours=1),
    Method.INSTALL_PROFILE: timedelta(minutes=15),
    Method.RESTART_DEVICE: timedelta(minutes=10),
    Method.RESTART_UPDATE_SERVICE: timedelta(minutes=5),
    Method.ACTIVATION_COMMAND: timedelta(minutes=15),
}
_NEVER_AT_THE_MAC: Final = frozenset(
    {
        ErrorCode.BAD_SIGNATURE,
        ErrorCode.UNREACHABLE,
        ErrorCode.EXPIRED,
        ErrorCode.SUPERSEDED,
        ErrorCode.NEWER_JOB,
        ErrorCode.HISTORY_UNKNOWN,
        ErrorCode.ENROLLMENT_ENDED,
        ErrorCode.METHOD_NOT_ALLOWED,
        ErrorCode.LOCKED,
        ErrorCode.SSH_LOGIN_REFUSED,
        ErrorCode.HOST_KEY_UNKNOWN,
        ErrorCode.WRONG_DEVICE,
        ErrorCode.NO_BACKUP,
        ErrorCode.INSTALLER_UNAVAILABLE,
        ErrorCode.INSTALLER_CORRUPT,
        ErrorCode.MDM_LOGIN_REFUSED,
        ErrorCode.MDM_SERVER_REFUSED,
        ErrorCode.NO_MDM_SERVER,
    }
)


class JobEntry(msgspec.Struct, frozen=True, gc=False):
    """One job with the result of the highest rank.

    `outcome_us` is the time of that result. `acted_us` is the time of the first `acted` result, 0
    if there is none: the executor had done its part. `presumed` is True if the job seems to have
    ended before it began; a result of its executor can still correct that. `reset` is True in a
    history of `reset_attempts` only: an operator chose that this end no longer counts.
    """

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
    reset: bool = False

    @property
    def since_us(self) -> int:
        """The time, in us, after which a report of the Mac can prove that the job was done.

        The later of `issued_us` and `known_until_us`.
        """
        return max(self.issued_us, self.known_until_us)

    @property
    def rank(self) -> int:
        """The rank of the outcome, from 0 (accepted) to 11 (succeeded); -1 without a result.

        A result of a higher rank wins. A presumed end has rank 3.
        """
        if self.outcome is None:
            return -1
        return _PRESUMED_RANK if self.presumed else _RANK[self.outcome]

    @property
    def is_open(self) -> bool:
        """True if the job has no outcome, or one that is not final."""
        return self.outcome not in FINAL_OUTCOMES

    @property
    def may_have_touched(self) -> bool:
        """True if the executor may have begun to act on the Mac: rank 4 or higher.

        True also for every ended job, unless its end is presumed or it was rehearsed.
        """
        return self.outcome is not None and self.rank >= _RANK[Outcome.STARTED]

    @property
    def times_out_us(self) -> int:
        """The time, in us, at which an open job ends by itself.

        It is `report_by_us` if the executor may have begun (not confirmed in time), else
        `expires_us` (not begun in time). For a withheld job it is the end of its rehearsal.
        """
        if self.outcome is Outcome.WITHHELD:
            return self.outcome_us + duration_us(EXPECTED_DURATION[self.method])
        return self.report_by_us if self.may_have_touched else self.expires_us

    @property
    def touched(self) -> bool:
        """True if an ended job reached the Mac: it counts against the limit of attempts.

        False for `expired`, and for an error code that shows that no executor reached the Mac. Only
        for a job that `failed`: a superseded one gives True although it may not have reached it.
        """
        return self.outcome is not Outcome.EXPIRED and self.error_code not in _NEVER_AT_THE_MAC

    @property
    def failed(self) -> bool:
        """True if the outcome is `failed`, `refused` or `expired`.

        `superseded` and `rehearsed` are no failures, and none is one that was reset.
        """
        return not self.reset and self.outcome in (Outcome.FAILED, Outcome.REFUSED, Outcome.EXPIRED)

    def to_wire(self) -> dict[str, Any]:
        """Return the entry as JSON values; enum members are left as they are, they are texts.

        `reset` is left out if it is False, as in every stored history.
        """
        wire = {
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
        return wire | {"reset": True} if self.reset else wire

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> "JobEntry":
        """Return the entry that `to_wire` wrote. Raises ValueError for other input."""
        try:
            version = msgspec.convert(wire["version"], str | None)
            build = msgspec.convert(wire["build"], str | None)
            entry = msgspec.convert({**wire, "version": None, "build": None}, cls)
        except (msgspec.ValidationError, KeyError) as error:
            raise ValueError(str(error)) from error
        return replace(
            entry,
            version=None if version is None else parse_os_version(version),
            build=None if build is None else parse_build(build),
        )


JobHistory = tuple[JobEntry, ...]
"""The jobs of one Mac, oldest first: the last KEPT_JOBS, and older ones that are open."""


def add_job(history: JobHistory, job: Job) -> JobHistory:
    """Return the history with this job; the same object if it has a job of this id already.

    It stays sorted by time of issue. Ended jobs that are older than the last KEPT_JOBS are dropped.
    """
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
    """Return the history with this result, of time `us`, folded into its job by rank.

    A result for a job that is not in the history changes nothing: the job was dropped as too old,
    or Drydock never issued it.
    """
    return tuple(
        _advance(entry, result, us) if entry.job_id == result.job_id else entry for entry in history
    )


def supersede_job(history: JobHistory, job_id: str, us: int) -> JobHistory:
    """Return the history with this job presumed superseded at `us`.

    An equal history if the job is unknown or ended, or its executor may have begun. If the executor
    had begun and its result arrives later, that result reopens the job.
    """
    return tuple(
        replace(entry, outcome=Outcome.SUPERSEDED, outcome_us=us, presumed=True)
        if entry.job_id == job_id and entry.is_open and not entry.may_have_touched
        else entry
        for entry in history
    )


def _advance(entry: JobEntry, result: JobResult, us: int) -> JobEntry:
    """Return the entry after a result of time `us`: with its outcome, if that is further.

    The earliest time of an `acted` result is kept in both cases. An executor's `succeeded` counts
    as `acted`.
    """
    outcome = result.outcome
    if outcome is Outcome.SUCCEEDED and result.attempt != INFERRED_ATTEMPT:
        outcome = Outcome.ACTED  # only a report of the Mac proves success
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
    """Return True if `updated` replaces `known`: by rank, then by time, then by its texts.

    The higher rank wins. Of equal ranks the earlier end wins, and of progress the later one; at
    equal times the greater texts of outcome and error code.
    """
    if updated.rank != known.rank:
        return updated.rank > known.rank
    if updated.outcome_us != known.outcome_us:
        # Of equal ends the first time counts, because the job ended then; of progress the last.
        later = updated.outcome_us > known.outcome_us
        return later is (updated.outcome not in FINAL_OUTCOMES)
    return _tie_breaker(updated) > _tie_breaker(known)


def _tie_breaker(entry: JobEntry) -> tuple[str, str]:
    return entry.outcome or "", entry.error_code or ""


def open_job(history: JobHistory) -> JobEntry | None:
    """Return the open job; None if there is none.

    Of several, the newest that its executor may have begun, else the newest.
    """
    found: JobEntry | None = None
    for entry in reversed(history):
        if entry.is_open:
            if entry.may_have_touched:
                return entry
            found = found or entry
    return found


def extra_open_jobs(history: JobHistory) -> JobHistory:
    """Return the open jobs besides `open_job` that no executor has begun, to be superseded."""
    if sum(entry.is_open for entry in history) < 2:
        return ()
    kept = open_job(history)
    return tuple(
        one for one in history if one is not kept and one.is_open and not one.may_have_touched
    )


def attempts(history: JobHistory, action: Action, intent: str) -> JobHistory:
    """Return the ended jobs for one action and intent, oldest first."""
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
    """Return the jobs for one action and intent that failed after the last success, oldest first.

    All failed ones if none has succeeded. Superseded jobs are left out.
    """
    found: list[JobEntry] = []
    for entry in attempts(history, action, intent):
        if entry.outcome is Outcome.SUCCEEDED:
            found.clear()
        elif entry.failed:
            found.append(entry)
    return tuple(found)


def reset_attempts(
    history: JobHistory, resets: Iterable[tuple[int, AttemptsReset]], device: Device
) -> JobHistory:
    """Return the Mac's history with `reset` in the entries that a reset covers.

    `resets` are resets with their times in us. One covers the failed and rehearsed jobs of its
    scope that ended before it; with a cause, only the jobs that failed with that code. The jobs
    stay in the history: their generations are used.
    """
    covering = [
        (us, one)
        for us, one in resets
        if one.scope.device is None or one.scope.device in (device.udid, device.serial)
    ]
    if not covering:
        return history
    return tuple(
        replace(entry, reset=True)
        if any(_is_reset_by(entry, us, one) for us, one in covering)
        else entry
        for entry in history
    )


def _is_reset_by(entry: JobEntry, us: int, reset: AttemptsReset) -> bool:
    if entry.outcome_us > us or not (entry.failed or entry.outcome is Outcome.REHEARSED):
        return False
    if reset.cause is not None and entry.error_code is not reset.cause:
        return False
    return reset.scope.site is None or reset.scope.site == entry.site


def rehearsals(history: JobHistory) -> JobHistory:
    """Return the jobs that dry runs withheld, at most one of each site and action, oldest first.

    A job counts while it is the newest one of its site and action: if its site went live since, it
    was superseded.
    """
    newest = {(entry.site, entry.action): entry for entry in history}
    return tuple(
        [
            entry
            for entry in newest.values()
            if entry.outcome in (Outcome.WITHHELD, Outcome.REHEARSED)
        ]
    )


def target_of(entry: JobEntry) -> Target | None:
    """Return the job's target; None for a job without one."""
    return None if entry.version is None else Target(version=entry.version, build=entry.build)


def ended_at(entry: JobEntry) -> datetime:
    """Return the time, in UTC, of the result that ended the job; only for an ended job."""
    return from_us(entry.outcome_us)
