"""What an attempt does next. Pure: no I/O, no clock; `now` is a parameter.

verify, look, intend, act, watch, tell. An intent is journalled before the Mac is touched. One
without an answer is verified on the Mac by its mark and never repeated blindly: a repeated update
command can reboot a Mac under its user's hands (openradar 20594), and a NotNow is still queued at
the MDM server (github.com/micromdm/nanomdm, RetrieveNextCommand).

The executor's own last word on a good run is ACTED: only the pipeline, from the Mac's later
report, says `succeeded`.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from agents.mac import Ack, AckKind, InstallState, Observation, Progress, order_marker
from agents.preflight import (
    AlreadyThere,
    Busy,
    Limits,
    Unfit,
    booted_since,
    erases,
    fitness,
    ran_since,
)
from schemas.jobs import MDM_METHODS, Job, Method
from schemas.results import ErrorCode, JobResult, Outcome

# An order without an answer may still be on its way; before this its absence proves nothing.
IN_FLIGHT: Final = timedelta(minutes=5)
# How long a Mac may be away before it is given up (untouched) or left to its own report (touched).
UNREACHABLE_LIMIT: Final = timedelta(hours=24)
NOT_NOW_LIMIT: Final = timedelta(hours=48)
NOT_NOW_POLL: Final = timedelta(minutes=30)
BUSY_POLL: Final = timedelta(minutes=30)
WATCH_POLL: Final = timedelta(minutes=10)
ENFORCEMENT_POLL: Final = timedelta(hours=4)
_MIN_UNREACHABLE_POLL: Final = timedelta(minutes=5)
_MAX_UNREACHABLE_POLL: Final = timedelta(hours=1)
# Nothing to be seen of an accepted order for this long: nothing happens (Apple's tools answer
# "accepted" and do nothing). `super` waits 20 minutes for progress; a download on a thin line
# shared by a site needs hours.
BEGIN_WITHIN: Final = timedelta(hours=6)
STALLED_AFTER: Final = timedelta(hours=24)
MAX_SENDS: Final = 3
_PERCENT_STEP: Final = 25

_STEPS: Final = {
    Method.DDM: "declare",
    Method.MDM_COMMAND: "schedule",
    Method.SOFTWAREUPDATE: "install",
    Method.STARTOSINSTALL: "install",
    Method.ERASE_DEVICE: "erase",
    Method.ASR: "restore",
    Method.PROFILES_RENEW: "renew",
}
_IDLE: Final = frozenset({InstallState.NONE, InstallState.WAITING})


class Phase(StrEnum):
    """How far an attempt is: untouched, order perhaps given, order taken, over."""

    ACCEPTED = "accepted"
    INTENDED = "intended"
    WATCHING = "watching"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """A job in the journal.

    `sends` are the orders given, `unanswered` those of them since the last answer, `declined`
    whether that answer to the last one was NotNow (the first of them came at `not_now_since`).
    `boot_at` is the Mac's boot time before the order, on its own clock; `away_since` when it was
    first missed; `progress` what it last showed, since `changed_at`.
    """

    job: Job
    phase: Phase = Phase.ACCEPTED
    accepted_at: datetime
    wake_at: datetime
    approved_until: datetime | None = None
    attempt: int = 1
    sends: int = 0
    unanswered: int = 0
    declined: bool = False
    intent_at: datetime | None = None
    acted_at: datetime | None = None
    boot_at: datetime | None = None
    away_since: datetime | None = None
    not_now_since: datetime | None = None
    progress: InstallState = InstallState.NONE
    percent: int | None = None
    changed_at: datetime | None = None
    superseded: bool = False
    outcome: Outcome | None = None

    @property
    def touched(self) -> bool:
        """Whether the Mac may have been touched and the end is not known."""
        return self.phase in (Phase.INTENDED, Phase.WATCHING)

    @property
    def step(self) -> str:
        """The name of its one step on the Mac."""
        return _STEPS[self.job.method]

    @property
    def order_marker(self) -> str:
        """The name under which its order is known on the Mac."""
        return order_marker(self.job.job_id, self.attempt, self.step)


@dataclass(frozen=True, slots=True)
class Unreachable:
    """The Mac could not be reached."""


@dataclass(frozen=True, slots=True)
class Observe:
    """Look at the Mac, then ask again."""


@dataclass(frozen=True, slots=True)
class Act:
    """Journal `entry` and `results`, then give the order. Not while a halt covers the job."""

    entry: JournalEntry
    results: tuple[JobResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Wait:
    """Journal `entry` and `results`, come back at `entry.wake_at`."""

    entry: JournalEntry
    results: tuple[JobResult, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """Journal the end; the last of `results` says how it ended."""

    entry: JournalEntry
    results: tuple[JobResult, ...]


Step = Observe | Act | Wait | Finish
LookResult = Observation | Unreachable | None


def next_step(
    entry: JournalEntry, observation: LookResult, now: datetime, limits: Limits | None = None
) -> Step:
    """What the attempt does next. `sight` None asks whether a look is needed at all.

    Total: a finished entry stays finished.
    """
    limits = limits or Limits()
    if entry.phase is Phase.DONE:
        return Finish(entry, ())
    if entry.phase is Phase.ACCEPTED:
        withdrawn = _withdrawn(entry, now)
        if withdrawn is not None:
            return withdrawn
    if observation is None:
        return Observe()
    if isinstance(observation, Unreachable):
        return _on_unreachable(entry, now)
    entry = replace(entry, away_since=None)
    if entry.phase is Phase.ACCEPTED:
        return _approach(entry, observation, now, limits)
    if entry.phase is Phase.INTENDED:
        return _verify(entry, observation, now, limits)
    return _watch(entry, observation, now)


def apply_ack(entry: JournalEntry, ack: Ack, now: datetime) -> Wait | Finish:
    """What the Mac's answer makes of an intended order."""
    if ack.kind is AckKind.REFUSED:
        code = ack.error_code or ErrorCode.COMMAND_REJECTED
        # What cannot be done at all is refused; the rest the Mac may take another time.
        outcome = Outcome.REFUSED if code is ErrorCode.UNSUPPORTED else Outcome.FAILED
        return _finish(entry, outcome, code, ack.detail)
    if ack.kind is AckKind.NOT_NOW:
        since = entry.not_now_since or now
        waiting = replace(
            entry, declined=True, unanswered=0, not_now_since=since, wake_at=now + NOT_NOW_POLL
        )
        return Wait(waiting)
    return _on_accepted(entry, now)


def supersede(entry: JournalEntry, now: datetime) -> Wait | Finish:
    """The job's intent no longer stands: dropped if untouched, else it runs out and tells."""
    if entry.phase is Phase.ACCEPTED:
        return _finish(entry, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED)
    return Wait(replace(entry, superseded=True, wake_at=min(entry.wake_at, now)))


def result(
    entry: JournalEntry,
    outcome: Outcome,
    error_code: ErrorCode | None = None,
    detail: str = "",
    look: Observation | None = None,
) -> JobResult:
    """A result of this attempt, with what was seen of the Mac."""
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


def _finish(
    entry: JournalEntry,
    outcome: Outcome,
    error_code: ErrorCode | None = None,
    detail: str = "",
    look: Observation | None = None,
) -> Finish:
    final = result(entry, outcome, error_code, detail, look)
    return Finish(replace(entry, phase=Phase.DONE, outcome=outcome), (final,))


def _withdrawn(entry: JournalEntry, now: datetime) -> Finish | None:
    """The end of an order that must not be given (any more)."""
    if entry.superseded:
        return _finish(entry, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED)
    if now >= entry.job.expires_at:
        return _finish(entry, Outcome.EXPIRED, ErrorCode.EXPIRED)
    if erases(entry.job) and (entry.approved_until is None or now >= entry.approved_until):
        return _finish(entry, Outcome.REFUSED, ErrorCode.NO_APPROVAL, "the approval ran out")
    return None


def _on_unreachable(entry: JournalEntry, now: datetime) -> Wait | Finish:
    since = entry.away_since or now
    given_up_at = max(since, _due(entry)) + UNREACHABLE_LIMIT
    if now >= given_up_at:
        if not entry.touched:
            return _finish(entry, Outcome.FAILED, ErrorCode.UNREACHABLE, "never reached")
        # It may be done or half-way: to call it failed would invite a second order.
        known = entry.phase is Phase.WATCHING
        detail = "out of reach since; left to the Mac's report"
        return _finish(
            entry, Outcome.ACTED, None, detail if known else f"perhaps arrived; {detail}"
        )
    pause = min(max(now - since, _MIN_UNREACHABLE_POLL), _MAX_UNREACHABLE_POLL)
    wake_at = min(now + pause, given_up_at)
    if not entry.touched:
        wake_at = min(wake_at, entry.job.expires_at)
    return Wait(replace(entry, away_since=since, wake_at=wake_at))


def _approach(entry: JournalEntry, look: Observation, now: datetime, limits: Limits) -> Step:
    """Before the first order: act, or say why not without touching the Mac."""
    match fitness(entry.job, look, limits):
        case AlreadyThere():
            return _finish(entry, Outcome.ACTED, None, "already there", look)
        case Busy():
            wake_at = min(now + BUSY_POLL, entry.job.expires_at)
            return Wait(replace(entry, wake_at=wake_at))
        case Unfit(code, detail):
            outcome = Outcome.REFUSED if code is ErrorCode.UNSUPPORTED else Outcome.FAILED
            return _finish(entry, outcome, code, detail, look)
        case _:
            return _send(entry, look, now)


def _send(entry: JournalEntry, look: Observation, now: datetime) -> Act:
    first = entry.sends == 0
    intended = replace(
        entry,
        phase=Phase.INTENDED,
        sends=entry.sends + 1,
        unanswered=entry.unanswered + 1,
        declined=False,
        intent_at=now,
        boot_at=look.boot_at,
        wake_at=now + IN_FLIGHT,
    )
    # Told with the intent: from here on nobody may take the Mac for untouched.
    return Act(intended, (result(intended, Outcome.STARTED, look=look),) if first else ())


def _verify(entry: JournalEntry, look: Observation, now: datetime, limits: Limits) -> Step:
    """An order was intended and no answer is known: ask the Mac, repeat only what never arrived."""
    assert entry.intent_at is not None
    if entry.order_marker in look.marks or _shows_effect(entry, look):
        taken = _on_accepted(entry, entry.intent_at)
        return taken if isinstance(taken, Finish) else _watch(taken.entry, look, now)
    queued = entry.order_marker in look.pending
    held = queued or (entry.declined and entry.job.method in MDM_METHODS)
    if not held and not entry.declined and now < entry.intent_at + IN_FLIGHT:
        return Wait(replace(entry, wake_at=entry.intent_at + IN_FLIGHT))
    if not held:
        withdrawn = _withdrawn(entry, now)
        if withdrawn is not None:
            return withdrawn
    since = entry.not_now_since or entry.intent_at
    if (held or entry.declined) and now >= since + NOT_NOW_LIMIT:
        detail = "still answers NotNow" if entry.declined else "still queued at the MDM server"
        return _finish(entry, Outcome.FAILED, ErrorCode.COMMAND_REJECTED, detail, look)
    if held:
        # The server offers it again by itself; a second order would be carried out as well.
        return Wait(replace(entry, not_now_since=since, wake_at=now + NOT_NOW_POLL))
    if entry.unanswered >= MAX_SENDS:
        detail = f"no order of {entry.sends} arrived"
        return _finish(entry, Outcome.FAILED, ErrorCode.UNREACHABLE, detail, look)
    return _approach(entry, look, now, limits)


def _shows_effect(entry: JournalEntry, look: Observation) -> bool:
    """Whether the Mac shows the order's work although its mark is not there: an erase takes the
    mark with it, so after a boot nothing proves that an erasing order never arrived."""
    assert entry.intent_at is not None
    if erases(entry.job):
        return look.boot_at is None or booted_since(look, entry.boot_at, entry.intent_at)
    return ran_since(entry.job, look, entry.boot_at, entry.intent_at)


def _on_accepted(entry: JournalEntry, at: datetime) -> Wait | Finish:
    watching = replace(
        entry, phase=Phase.WATCHING, acted_at=at, changed_at=at, wake_at=at + WATCH_POLL
    )
    if entry.job.method is Method.PROFILES_RENEW:
        # It only raised a prompt that a person must answer; check-ins will tell.
        return _finish(watching, Outcome.ACTED, None, "requested; a person must answer")
    return Wait(watching)


def _due(entry: JournalEntry) -> datetime:
    """From when the Mac can be expected to work on the order."""
    start = entry.acted_at or entry.intent_at or entry.accepted_at
    enforce_at = entry.job.enforce_at
    if entry.touched and entry.job.method is Method.DDM and enforce_at is not None:
        return max(start, enforce_at)
    return start


def _watch(entry: JournalEntry, look: Observation, now: datetime) -> Wait | Finish:
    """The order was taken: done, failed, getting on, or nothing happening."""
    assert entry.intent_at is not None
    if ran_since(entry.job, look, entry.boot_at, entry.intent_at):
        return _finish(entry, Outcome.ACTED, None, "runs the target since a boot", look)
    seen = look.progress
    if seen.state is InstallState.FAILED and (seen.since is None or seen.since >= entry.intent_at):
        code = seen.error_code or ErrorCode.INSTALL_FAILED
        return _finish(entry, Outcome.FAILED, code, "the Mac reports a failure", look)
    if entry.job.method in MDM_METHODS and look.enrolled is False and not erases(entry.job):
        detail = "left MDM, and the order with it"
        return _finish(entry, Outcome.FAILED, ErrorCode.NOT_ENROLLED, detail, look)
    progressed: tuple[JobResult, ...] = ()
    if _has_progressed(entry, seen):
        entry = replace(entry, progress=seen.state, percent=seen.percent, changed_at=now)
        progressed = (result(entry, Outcome.PROGRESSED, None, seen.state.value, look),)
    due, changed_at = _due(entry), entry.changed_at or _due(entry)
    idle = seen.state in _IDLE
    given_up_at = max(due, changed_at) + (BEGIN_WITHIN if idle else STALLED_AFTER)
    if now >= given_up_at:
        detail = "nothing to be seen of the order" if idle else f"stuck in {seen.state}"
        return _finish(entry, Outcome.FAILED, ErrorCode.NOTHING_HAPPENED, detail, look)
    waiting = due > now and seen.state is not InstallState.DOWNLOADING
    wake_at = min(now + ENFORCEMENT_POLL, due + WATCH_POLL) if waiting else now + WATCH_POLL
    return Wait(replace(entry, wake_at=min(wake_at, given_up_at)), progressed)


def _has_progressed(entry: JournalEntry, seen: Progress) -> bool:
    """Whether it got on enough to be told: another state, or a quarter more."""
    if seen.state in _IDLE or seen.state is InstallState.FAILED:
        return False
    if seen.state is not entry.progress:
        return True
    return (seen.percent or 0) >= (entry.percent or 0) + _PERCENT_STEP
