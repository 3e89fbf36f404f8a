"""Rules for an order that the Mac accepted: effect, failure, progress, silence. Pure.

The rules of the phase WATCHING in `agents.lifecycle`.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from agents.attempt_steps import Finish, Wait, finish, result
from agents.journal_entry import JournalEntry
from agents.mac import InstallState, Observation, Progress
from agents.preflight import booted_since, erases, ran_since
from schemas.jobs import MDM_METHODS, Method
from schemas.results import ErrorCode, JobResult, Outcome

WATCH_POLL: Final = timedelta(minutes=10)
ENFORCEMENT_POLL: Final = timedelta(hours=4)
# An accepted order without any effect for this long has failed: Apple's tools can accept an order
# and do nothing. `super` waits 20 minutes for progress, but a download over the shared line of a
# site can need hours.
BEGIN_WITHIN: Final = timedelta(hours=6)
STALLED_AFTER: Final = timedelta(hours=24)
# If a look is this much later than planned, progress in between was not seen: the agent did not
# run, or its clock was set ahead. The wait begins anew.
_UNWATCHED: Final = timedelta(hours=24)
_PERCENT_STEP: Final = 25
_MAX_DETAIL: Final = 200

_IDLE: Final = frozenset({InstallState.NONE, InstallState.WAITING})


def watch(entry: JournalEntry, look: Observation, now: datetime) -> Wait | Finish:
    """Return the step for an accepted order: done, failed, or a wait.

    Finish with the outcome ACTED if the Mac booted into the target, or has the activation. FAILED
    if the Mac reports a failure since the intent, made no progress in time, or left MDM under an
    MDM order that does not erase. Otherwise Wait, with a PROGRESSED result after new progress.
    """
    assert entry.intent_at is not None
    if entry.job.method is Method.INSTALL_PROFILE:
        return _watch_enrollment(entry, look, now)
    if entry.job.method is Method.RESTART_DEVICE:
        return _watch_restart(entry, look)
    if look.is_activated:
        return finish(entry, Outcome.ACTED, None, "the success test passed", look)
    if ran_since(entry.job, look, entry.boot_at, entry.intent_at):
        return finish(entry, Outcome.ACTED, None, "runs the target since a boot", look)
    seen = look.progress
    if seen.state is InstallState.FAILED and (seen.since is None or seen.since >= entry.intent_at):
        code = seen.error_code or ErrorCode.INSTALL_FAILED
        detail = seen.detail or "the Mac reports a failure"
        return finish(entry, Outcome.FAILED, code, detail[:_MAX_DETAIL], look)
    if entry.job.method in MDM_METHODS and look.enrolled is False and not erases(entry.job):
        detail = "left MDM, and the order with it"
        return finish(entry, Outcome.FAILED, ErrorCode.NOT_ENROLLED, detail, look)
    progressed: tuple[JobResult, ...] = ()
    if _has_progressed(entry, seen):
        entry = replace(entry, progress=seen.state, percent=seen.percent, changed_at=now)
        progressed = (result(entry, Outcome.PROGRESSED, None, seen.state.value, look),)
    due, changed_at = due_at(entry), entry.changed_at or due_at(entry)
    idle = seen.state in _IDLE
    limit = BEGIN_WITHIN if idle else STALLED_AFTER
    given_up_at = max(due, changed_at) + limit
    if now >= given_up_at and is_unwatched(entry, now):
        entry, given_up_at = replace(entry, changed_at=now), now + limit
    if now >= given_up_at:
        detail = "nothing to be seen of the order" if idle else f"stuck in {seen.state}"
        return finish(entry, Outcome.FAILED, ErrorCode.NOTHING_HAPPENED, detail, look)
    waiting = due > now and seen.state is not InstallState.DOWNLOADING
    wake_at = min(now + ENFORCEMENT_POLL, due + WATCH_POLL) if waiting else now + WATCH_POLL
    return Wait(replace(entry, wake_at=min(wake_at, given_up_at)), progressed)


def is_unwatched(entry: JournalEntry, now: datetime) -> bool:
    """Return True if this look is so late that the time before it is no evidence of the Mac."""
    return now - entry.wake_at >= _UNWATCHED


def due_at(entry: JournalEntry) -> datetime:
    """Return the time from which the Mac should work on the order.

    It is the time of acceptance, else of the intent, else of the job's arrival. For a touched DDM
    job whose order declares a later time of enforcement it is that.
    """
    start = entry.acted_at or entry.intent_at or entry.accepted_at
    enforce_at = entry.ordered_job.enforce_at
    if entry.touched and entry.job.method is Method.DDM and enforce_at is not None:
        return max(start, enforce_at)
    return start


def has_enrolled_again(entry: JournalEntry, look: Observation) -> bool:
    """Return True if the Mac enrolled after the order. Precondition: `intent_at` is known."""
    assert entry.intent_at is not None
    return look.enrolled_at is not None and look.enrolled_at > entry.intent_at


def _watch_enrollment(entry: JournalEntry, look: Observation, now: datetime) -> Wait | Finish:
    """Return the step for an enrollment profile that the MDM server delivered.

    Only a complete enrollment since the order is a success: the Mac may not answer the command.
    Then user approval and bootstrap token are checked; either may be unknown for 6 h.
    """
    seen = look.progress
    if not has_enrolled_again(entry, look):
        if seen.state is InstallState.FAILED:
            code = seen.error_code or ErrorCode.COMMAND_REJECTED
            return finish(entry, Outcome.FAILED, code, seen.detail[:_MAX_DETAIL], look)
        until = entry.job.report_by or entry.job.expires_at
        if now >= until:
            detail = "no new enrollment since the profile was sent"
            return finish(entry, Outcome.FAILED, ErrorCode.NOT_REENROLLED, detail, look)
        return Wait(replace(entry, wake_at=min(now + WATCH_POLL, until)))
    assert look.enrolled_at is not None
    if look.user_approved is False:
        detail = "enrolled again, without user approval"
        return finish(entry, Outcome.FAILED, ErrorCode.NOT_USER_APPROVED, detail, look)
    if look.bootstrap_token is False:
        detail = "enrolled again, without a bootstrap token"
        return finish(entry, Outcome.FAILED, ErrorCode.NO_BOOTSTRAP_TOKEN, detail, look)
    checks = {"user approval": look.user_approved, "bootstrap token": look.bootstrap_token}
    unknown = [name for name, value in checks.items() if value is None]
    if unknown and now < look.enrolled_at + BEGIN_WITHIN:
        return Wait(replace(entry, wake_at=now + WATCH_POLL))
    detail = f"enrolled again; unknown: {', '.join(unknown)}" if unknown else "enrolled again"
    return finish(entry, Outcome.ACTED, None, detail, look)


def _watch_restart(entry: JournalEntry, look: Observation) -> Finish:
    """Return the end of a restart that the Mac accepted or refused.

    MDM does not report a boot, so the acceptance is the end: the pipeline waits for the report.
    """
    assert entry.intent_at is not None
    if booted_since(look, entry.boot_at, entry.intent_at):
        return finish(entry, Outcome.ACTED, None, "booted since the order", look)
    seen = look.progress
    if seen.state is InstallState.FAILED and (seen.since is None or seen.since >= entry.intent_at):
        code = seen.error_code or ErrorCode.COMMAND_REJECTED
        return finish(entry, Outcome.FAILED, code, seen.detail[:_MAX_DETAIL], look)
    return finish(entry, Outcome.ACTED, None, "accepted; its report must show the boot", look)


def _has_progressed(entry: JournalEntry, seen: Progress) -> bool:
    """Return True for another active state, or 25 percentage points more in the same one.

    False for a state without activity and for a failure. An unknown percentage counts as 0.
    """
    if seen.state in _IDLE or seen.state is InstallState.FAILED:
        return False
    if seen.state is not entry.progress:
        return True
    return (seen.percent or 0) >= (entry.percent or 0) + _PERCENT_STEP
