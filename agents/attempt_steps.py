"""Steps of an attempt, and the results that they journal. Pure."""

from dataclasses import dataclass, replace

from agents.journal_entry import JournalEntry, Phase
from agents.mac import Observation, Obstacle
from schemas.results import ErrorCode, JobResult, Outcome


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The result of a look that failed: the Mac did not respond.

    `obstacle` is a reason that a person must remove, None without one.
    """

    obstacle: Obstacle | None = None


@dataclass(frozen=True, slots=True)
class Observe:
    """Look at the Mac, then call `next_step` with the observation."""


@dataclass(frozen=True, slots=True)
class Act:
    """Journal `entry` and `results`, then give the order. The caller checks the halts first."""

    entry: JournalEntry
    results: tuple[JobResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Journal `entry` and `results`, then call `next_step` again at `entry.wake_at`."""

    entry: JournalEntry
    results: tuple[JobResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """Journal `entry` and `results`; the last result has the outcome of the attempt.

    `results` is empty if the attempt had its outcome before this step.
    """

    entry: JournalEntry
    results: tuple[JobResult, ...]


Step = Observe | Act | Wait | Finish
LookResult = Observation | Unreachable | None


def result(
    entry: JournalEntry,
    outcome: Outcome,
    error_code: ErrorCode | None = None,
    detail: str = "",
    look: Observation | None = None,
) -> JobResult:
    """Return a result of this attempt, with version, build and boot time from `look`.

    Without `look` these three are None. `percent` is set for the outcome PROGRESSED only.
    """
    return JobResult(
        job_id=entry.job.job_id,
        udid=entry.job.udid,
        site=entry.job.site,
        outcome=outcome,
        attempt=entry.attempt,
        error_code=error_code,
        detail=detail,
        percent=entry.percent if outcome is Outcome.PROGRESSED else None,
        observed_version=None if look is None else look.os_version,
        observed_build=None if look is None else look.build,
        observed_boot_at=None if look is None else look.boot_at,
    )


def finish(
    entry: JournalEntry,
    outcome: Outcome,
    error_code: ErrorCode | None = None,
    detail: str = "",
    look: Observation | None = None,
) -> Finish:
    """Return the end of the attempt: the entry in phase DONE, and one result with the outcome."""
    final = result(entry, outcome, error_code, detail, look)
    done = replace(entry, phase=Phase.DONE, outcome=outcome, error_code=error_code)
    return Finish(done, (final,))


def withhold(entry: JournalEntry) -> Finish:
    """Return the end of an untouched attempt in a dry run: the order is not given."""
    return finish(entry, Outcome.WITHHELD, None, "dry run")


def refuse(entry: JournalEntry, error_code: ErrorCode, detail: str) -> Finish:
    """Return the end of an untouched attempt that the site's access does not permit."""
    return finish(entry, Outcome.REFUSED, error_code, detail)


def end_dry_run(entry: JournalEntry) -> Finish:
    """Return a second end for a withheld attempt: its site is live, so the job is superseded."""
    return finish(entry, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED, "the dry run of the site ended")
