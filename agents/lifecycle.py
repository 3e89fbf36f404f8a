"""State machine of one attempt. Pure: no I/O, no clock; `now` is a parameter.

    phase     event                                              next phase (outcome)
    ACCEPTED  withdrawn, expired, or its approval expired        DONE (superseded, expired, refused)
    ACCEPTED  the site is in dry run                             DONE (withheld)
    ACCEPTED  the site does not permit the order                 DONE (refused)
    ACCEPTED  Mac unreachable for 24 h, or until a person acts   DONE (failed)
    ACCEPTED  Mac runs the target already                        DONE (acted)
    ACCEPTED  Mac is unfit: disk, power, enrollment, ...         DONE (failed or refused)
    ACCEPTED  Mac is busy, or unreachable for less than 24 h     ACCEPTED
    ACCEPTED  mark of the order is on the Mac                    WATCHING (started), DONE
    ACCEPTED  order is queued at the MDM server                  INTENDED (started)
    ACCEPTED  order may have been given before, and erases       DONE (refused)
    ACCEPTED  Mac is ready: journal the intent, give the order   INTENDED (started)
    INTENDED  Mac accepts, or the mark or an effect is there     WATCHING
    INTENDED  `profiles renew` is accepted                       DONE (acted)
    INTENDED  Mac refuses                                        DONE (failed or refused)
    INTENDED  NotNow over MDM, or queued at the MDM server       INTENDED, DONE (failed) after 48 h
    INTENDED  queued, expired, and it can be withdrawn           DONE (expired)
    INTENDED  the MDM server lost the order; it may be repeated  INTENDED: give the order again
    INTENDED  the MDM server lost the order; it may not          DONE (failed)
    INTENDED  NotNow over SSH, still valid and fit               INTENDED: give the order again
    INTENDED  no sign of the order within IN_FLIGHT              INTENDED
    INTENDED  no sign after that, and still valid and fit        INTENDED: give the order again
    INTENDED  no sign after that, withdrawn, expired or unfit    DONE
    INTENDED  no sign of MAX_SENDS orders                        DONE (failed)
    WATCHING  Mac booted into the target since the order         DONE (acted)
    WATCHING  Mac enrolled again by `install_profile`            DONE (acted or failed)
    WATCHING  the order was to restart                           DONE (acted or failed)
    WATCHING  it did not until `report_by`                       DONE (failed)
    WATCHING  Mac reports a failure, or left MDM                 DONE (failed)
    WATCHING  nothing seen for 6 h, or no progress for 24 h      DONE (failed)
    WATCHING  new state, or 25 % more                            WATCHING (progressed)
    INTENDED  Mac unreachable for 24 h                           DONE (acted: perhaps)
    WATCHING  Mac unreachable for 24 h                           DONE (acted)
    touched   halted or withdrawn; its form can withdraw it      DONE (superseded)
    touched   halted or withdrawn; it may still be delivered     no change (progressed)
    DONE      any                                                DONE

An attempt whose form can withdraw orders goes from its end to WITHDRAWING, and to DONE when nothing
of the order is left: a forgotten declaration installs its release when Apple offers it, and a
command that is still queued may be answered.

Invariant: the entry with phase INTENDED is durable before the order is given. A first order is
given after `agents.first_order` examined the Mac. An order is repeated only if a look at the Mac
shows that it never arrived, or after a NotNow over SSH. A repeated update command can reboot a Mac
during its user's work (openradar 20594), and after a NotNow over MDM the order is still queued at
the server (github.com/micromdm/nanomdm, RetrieveNextCommand).

The last outcome of a good run is ACTED. Only the pipeline decides `succeeded`, from a later report
of the Mac.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from agents.first_order import Done, Doubtful, InFlight, Marked, Queued, earlier_order
from agents.mac import (
    STEPS,
    Ack,
    AckKind,
    InstallState,
    Observation,
    Obstacle,
    Progress,
    order_marker,
)
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

# An order without a response may still arrive: its absence on the Mac proves nothing before this.
IN_FLIGHT: Final = timedelta(minutes=5)
# After this time without contact an untouched job fails and a touched job ends as ACTED. It counts
# from the first failed look, or from the time at which the Mac should begin if that is later.
UNREACHABLE_LIMIT: Final = timedelta(hours=24)
NOT_NOW_LIMIT: Final = timedelta(hours=48)
NOT_NOW_POLL: Final = timedelta(minutes=30)
BUSY_POLL: Final = timedelta(minutes=30)
WATCH_POLL: Final = timedelta(minutes=10)
ENFORCEMENT_POLL: Final = timedelta(hours=4)
_MIN_UNREACHABLE_POLL: Final = timedelta(minutes=5)
_MAX_UNREACHABLE_POLL: Final = timedelta(hours=1)
# An accepted order without any effect for this long has failed: Apple's tools can accept an order
# and do nothing. `super` waits 20 minutes for progress, but a download over the shared line of a
# site can need hours.
BEGIN_WITHIN: Final = timedelta(hours=6)
STALLED_AFTER: Final = timedelta(hours=24)
MAX_SENDS: Final = 3
_PERCENT_STEP: Final = 25
_MAX_DETAIL: Final = 200

_IDLE: Final = frozenset({InstallState.NONE, InstallState.WAITING})
# Methods whose order a Mac may get twice: a declaration that it has already changes nothing.
_REPEATABLE: Final = frozenset({Method.DDM})
_WITHDRAWN: Final = "the declaration is withdrawn"
_NOT_DELIVERED: Final = Obstacle(ErrorCode.NOT_DELIVERED, "still queued at the MDM server")


class Phase(StrEnum):
    """State of an attempt; the table of the module has the transitions."""

    ACCEPTED = "accepted"  # the job is journalled; the Mac is untouched
    INTENDED = "intended"  # the intent is journalled; the order may have arrived
    WATCHING = "watching"  # the Mac accepted the order
    WITHDRAWING = "withdrawing"  # the attempt has an outcome; its order is being withdrawn
    DONE = "done"  # the attempt has an outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """State of one job in the journal.

    `sends` counts the orders given, `unanswered` those after the last response. `declined` is True
    if the response to the last order was NotNow; `held_since` is the time of the first NotNow, or
    the first time at which the order was in the queue of its MDM server. `intent_at` is the time of
    the last intent, `acted_at` the time from which the order counts as accepted. `boot_at` is the
    boot time of the Mac before the order, by the Mac's clock. `away_since` is the time of the first
    failed look of the current series. `progress` and `percent` are the last ones reported,
    `changed_at` is the time of that report or, without one, of the acceptance. `halted` is True if
    a halt covered the job while its order could not be withdrawn. `history_unknown` is True if an
    earlier journal may have given the order.
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
    held_since: datetime | None = None
    progress: InstallState = InstallState.NONE
    percent: int | None = None
    changed_at: datetime | None = None
    superseded: bool = False
    halted: bool = False
    history_unknown: bool = False
    outcome: Outcome | None = None
    error_code: ErrorCode | None = None

    @property
    def touched(self) -> bool:
        """True if an order may have reached the Mac and the attempt has no outcome."""
        return self.phase in (Phase.INTENDED, Phase.WATCHING)

    @property
    def step(self) -> str:
        """Name of the one step that the method has on the Mac."""
        return STEPS[self.job.method]

    @property
    def order_marker(self) -> str:
        """Mark that this attempt's order leaves on the Mac; equal for repeated orders."""
        return order_marker(self.job.job_id, self.attempt, self.step)


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


def next_step(
    entry: JournalEntry, observation: LookResult, now: datetime, limits: Limits | None = None
) -> Step:
    """Return the next step of the attempt. Total: any entry and observation give a step.

    With `observation` None the result is Observe, unless the attempt ends without a look: a job
    that is withdrawn, expired or without a valid approval before its first order. For an entry with
    an outcome the result is Finish with this entry and no results. `limits` None means the
    defaults.
    """
    limits = limits or Limits()
    if entry.phase in (Phase.DONE, Phase.WITHDRAWING):
        return Finish(entry, ())
    if entry.phase is Phase.ACCEPTED:
        ended = _withdrawn(entry, now)
        if ended is not None:
            return ended
    if observation is None:
        return Observe()
    if isinstance(observation, Unreachable):
        return _on_unreachable(entry, observation.obstacle, now)
    entry = replace(entry, away_since=None)
    if entry.phase is Phase.ACCEPTED:
        return _approach(entry, observation, now, limits)
    if entry.phase is Phase.INTENDED:
        return _verify(entry, observation, now, limits)
    return _watch(entry, observation, now)


def apply_ack(entry: JournalEntry, ack: Ack, now: datetime) -> Wait | Finish:
    """Return the step that follows from the Mac's response to an intended order.

    REFUSED: Finish, with the outcome REFUSED for the code `unsupported`, else FAILED. NOT_NOW: Wait
    for 30 minutes in phase INTENDED. QUEUED: Wait for 5 minutes in phase INTENDED. ACCEPTED: Wait
    in phase WATCHING, or Finish with the outcome ACTED for `profiles renew`.
    """
    if ack.kind is AckKind.REFUSED:
        code = ack.error_code or ErrorCode.COMMAND_REJECTED
        # UNSUPPORTED is permanent, so the job is refused. After other codes a new job may succeed.
        outcome = Outcome.REFUSED if code is ErrorCode.UNSUPPORTED else Outcome.FAILED
        return _finish(entry, outcome, code, ack.detail)
    if ack.kind is AckKind.NOT_NOW:
        since = entry.held_since or now
        waiting = replace(
            entry, declined=True, unanswered=0, held_since=since, wake_at=now + NOT_NOW_POLL
        )
        return Wait(waiting)
    if ack.kind is AckKind.QUEUED:
        return Wait(replace(entry, held_since=entry.held_since or now, wake_at=now + IN_FLIGHT))
    return _on_accepted(entry, now)


def supersede(entry: JournalEntry, now: datetime, *, can_withdraw: bool = False) -> Wait | Finish:
    """Return the step that follows from the withdrawal of the job.

    In phase ACCEPTED it is Finish with the outcome SUPERSEDED. With `can_withdraw`, that is if the
    form of the Mac withdraws orders, a touched attempt ends in the same way if its order is a
    declaration. Otherwise it is Wait, due at once: the attempt runs to its end, but its order is
    not repeated; of a queued order a result has the text that it may still be delivered.
    """
    if entry.phase is Phase.ACCEPTED:
        return _finish(entry, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED)
    if can_withdraw and entry.job.method is Method.DDM:
        return _finish(entry, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED, _WITHDRAWN)
    kept = replace(entry, superseded=True, wake_at=min(entry.wake_at, now))
    warned = can_withdraw and not entry.superseded
    return Wait(kept, _may_still_arrive(entry, ErrorCode.SUPERSEDED) if warned else ())


def halt(entry: JournalEntry) -> Wait | Finish | None:
    """Return the step of a touched attempt that a halt covers, if its form withdraws orders.

    A declaration is withdrawn: Finish with the outcome SUPERSEDED and the code `halted`; after the
    halt the pipeline decides again. Of a queued order one result has the text that it may still be
    delivered. None if nothing changes.
    """
    if entry.job.method is Method.DDM:
        return _finish(entry, Outcome.SUPERSEDED, ErrorCode.HALTED, _WITHDRAWN)
    if entry.halted:
        return None
    warning = _may_still_arrive(entry, ErrorCode.HALTED)
    return Wait(replace(entry, halted=True), warning) if warning else None


def withdrawing(ended: JournalEntry, now: datetime) -> JournalEntry:
    """Return the entry of an attempt that has its outcome, and whose order is to be withdrawn."""
    return replace(ended, phase=Phase.WITHDRAWING, wake_at=now)


def withdrawn(entry: JournalEntry, late_answer: str) -> Finish:
    """Return the end of phase WITHDRAWING.

    With the text of an answer that came after the end, the result has it beside the same outcome.
    """
    done = replace(entry, phase=Phase.DONE)
    if not late_answer or entry.outcome is None:
        return Finish(done, ())
    return Finish(done, (result(entry, entry.outcome, entry.error_code, late_answer),))


def _may_still_arrive(entry: JournalEntry, code: ErrorCode) -> tuple[JobResult, ...]:
    """Return one result for an order in the queue of an MDM server, none for another one."""
    if entry.phase is not Phase.INTENDED or entry.job.method not in MDM_METHODS:
        return ()
    detail = "queued at the MDM server: it cannot be withdrawn and may still be delivered"
    return (result(entry, Outcome.PROGRESSED, code, detail),)


def withhold(entry: JournalEntry) -> Finish:
    """Return the end of an untouched attempt in a dry run: the order is not given."""
    return _finish(entry, Outcome.WITHHELD, None, "dry run")


def refuse(entry: JournalEntry, error_code: ErrorCode, detail: str) -> Finish:
    """Return the end of an untouched attempt that the site's access does not permit."""
    return _finish(entry, Outcome.REFUSED, error_code, detail)


def end_dry_run(entry: JournalEntry) -> Finish:
    """Return a second end for a withheld attempt: its site is live, so the job is superseded."""
    return _finish(entry, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED, "the dry run of the site ended")


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


def _finish(
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


def _withdrawn(entry: JournalEntry, now: datetime) -> Finish | None:
    """Return the end of the attempt if its order must not be given now, else None.

    The outcome is SUPERSEDED after a withdrawal, EXPIRED after the expiry, REFUSED if an erasing
    job has no valid approval at `now`.
    """
    if entry.superseded:
        return _finish(entry, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED)
    if now >= entry.job.expires_at:
        return _finish(entry, Outcome.EXPIRED, ErrorCode.EXPIRED)
    if erases(entry.job) and (entry.approved_until is None or now >= entry.approved_until):
        return _finish(entry, Outcome.REFUSED, ErrorCode.NO_APPROVAL, "the approval ran out")
    return None


def _on_unreachable(entry: JournalEntry, obstacle: Obstacle | None, now: datetime) -> Wait | Finish:
    """Return a wait for the next look, or the end after 24 h without contact.

    The outcome is then FAILED for an untouched job and ACTED for a touched one. The 24 h begin at
    the first failed look, or at the time from which the Mac should work on the order if that is
    later. An untouched job with an obstacle fails at once.
    """
    if obstacle is not None and not entry.touched:
        return _finish(entry, Outcome.FAILED, obstacle.error_code, obstacle.detail)
    since = entry.away_since or now
    given_up_at = max(since, _due(entry)) + UNREACHABLE_LIMIT
    if now >= given_up_at:
        if not entry.touched:
            return _finish(entry, Outcome.FAILED, ErrorCode.UNREACHABLE, "never reached")
        # Not FAILED: the order may be under way or complete, and FAILED could lead to a second one.
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
    """Return the order if the Mac is ready, otherwise the step that follows from its fitness.

    Before the first order: the step that follows from evidence of an earlier one. Already there:
    Finish with the outcome ACTED. Busy: Wait for 30 minutes, not past the expiry. Unfit: Finish
    with the outcome REFUSED for the code `unsupported`, else FAILED.
    """
    if entry.sends == 0:
        earlier = _on_earlier_order(entry, look, now)
        if earlier is not None:
            return earlier
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


def _on_earlier_order(
    entry: JournalEntry, look: Observation, now: datetime
) -> Wait | Finish | None:
    """Return the step that follows from evidence of an order before the first; None without any.

    The table is in `agents.first_order`. An order on the Mac or in the queue of its MDM server is
    followed as this attempt's own; the first result is STARTED. A doubtful erase is refused with
    the code `history_unknown`.
    """
    evidence = earlier_order(
        entry.job,
        look,
        now,
        marker=entry.order_marker,
        history_unknown=entry.history_unknown,
        settled_at=entry.accepted_at + IN_FLIGHT,
    )
    match evidence:
        case Marked() | Queued():
            return _follow(entry, look, now, queued=isinstance(evidence, Queued))
        case Done():
            return _finish(entry, Outcome.ACTED, None, "done before, by an earlier order", look)
        case Doubtful(detail):
            detail = f"perhaps given before: {detail}; approve it again"
            return _finish(entry, Outcome.REFUSED, ErrorCode.HISTORY_UNKNOWN, detail, look)
        case InFlight(until):
            return Wait(replace(entry, wake_at=min(until, entry.job.expires_at)))
        case _:
            return None


def _follow(
    entry: JournalEntry, look: Observation, now: datetime, *, queued: bool
) -> Wait | Finish:
    """Return the step for an order of which only the Mac or its MDM server knows.

    The boot time before an order that the Mac took is unknown, so the issue of the job counts.
    """
    since = now if queued else min(entry.job.issued_at, now)
    boot_at = look.boot_at if queued else None
    intended = replace(
        entry, phase=Phase.INTENDED, sends=1, unanswered=1, intent_at=since, boot_at=boot_at
    )
    started = result(intended, Outcome.STARTED, None, "by an earlier order", look)
    if queued:
        waiting = replace(intended, held_since=now, wake_at=now + NOT_NOW_POLL)
        return Wait(waiting, (started,))
    taken = _on_accepted(intended, now)
    step = taken if isinstance(taken, Finish) else _watch(taken.entry, look, now)
    return replace(step, results=(started, *step.results))


def _send(entry: JournalEntry, look: Observation, now: datetime) -> Act:
    """Return the order, with the intent at `now` and the boot time of `look`.

    The first order of an attempt has the result STARTED, a repeated one has no result.
    """
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
    # STARTED is journalled with the intent: from then on the Mac counts as touched.
    return Act(intended, (result(intended, Outcome.STARTED, look=look),) if first else ())


def _verify(entry: JournalEntry, look: Observation, now: datetime, limits: Limits) -> Step:
    """Return the step after a look at the Mac of an intended order.

    With a mark or an effect of the order: the step of an accepted order. Queued at the MDM server,
    or after NotNow over MDM: Wait, and Finish after 48 h, or when the job ends if the order can be
    withdrawn. Lost by the MDM server: Finish, unless the order may be repeated. Without a sign:
    Wait until 5 minutes after the intent. After that, and at once after NotNow over SSH and after a
    loss: Finish if the job is withdrawn, it or its approval expired, NotNow lasted for 48 h, or 3
    orders had no response; otherwise Act, Wait or Finish by the fitness of the Mac.
    """
    assert entry.intent_at is not None
    if entry.order_marker in look.marks or _shows_effect(entry, look):
        # An order that its server held may have reached the Mac long after the intent.
        taken = _on_accepted(entry, now if entry.held_since else entry.intent_at)
        return taken if isinstance(taken, Finish) else _watch(taken.entry, look, now)
    queued, lost = entry.order_marker in look.pending, entry.order_marker in look.lost
    reason = look.not_delivered or _NOT_DELIVERED
    if lost and entry.job.method not in _REPEATABLE:
        return _finish(entry, Outcome.FAILED, reason.error_code, reason.detail, look)
    held = queued or (not lost and entry.declined and entry.job.method in MDM_METHODS)
    if not (held or lost or entry.declined) and now < entry.intent_at + IN_FLIGHT:
        return Wait(replace(entry, wake_at=entry.intent_at + IN_FLIGHT))
    if not held or look.is_revocable:
        ended = _withdrawn(entry, now)
        if ended is not None:
            return ended
    since = entry.held_since or entry.intent_at
    if (held or entry.declined) and now >= since + NOT_NOW_LIMIT:
        if entry.declined:
            code, detail = ErrorCode.COMMAND_REJECTED, "still answers NotNow"
        else:
            code, detail = reason.error_code, reason.detail
        return _finish(entry, Outcome.FAILED, code, detail, look)
    if held:
        # The MDM server offers the order again by itself; a second order would run as well.
        until = entry.job.expires_at if look.is_revocable else now + NOT_NOW_POLL
        wake_at = min(now + NOT_NOW_POLL, until)
        return Wait(replace(entry, held_since=since, wake_at=wake_at))
    if entry.unanswered >= MAX_SENDS:
        cause = reason if lost else Obstacle(ErrorCode.UNREACHABLE, "no response")
        detail = f"no order of {entry.sends} arrived: {cause.detail}"
        return _finish(entry, Outcome.FAILED, cause.error_code, detail, look)
    return _approach(entry, look, now, limits)


def _shows_effect(entry: JournalEntry, look: Observation) -> bool:
    """Return True if the Mac shows an effect of the order, although its mark is missing.

    An erase also deletes the mark. So for an erasing order any boot since the intent, or an unknown
    boot time, counts as an effect.
    """
    assert entry.intent_at is not None
    if entry.job.method is Method.INSTALL_PROFILE:
        return _has_enrolled_again(entry, look)
    if entry.job.method is Method.RESTART_DEVICE:
        return booted_since(look, entry.boot_at, entry.intent_at)
    if erases(entry.job):
        return look.boot_at is None or booted_since(look, entry.boot_at, entry.intent_at)
    return ran_since(entry.job, look, entry.boot_at, entry.intent_at)


def _on_accepted(entry: JournalEntry, at: datetime) -> Wait | Finish:
    """Return a wait in phase WATCHING, for an order that counts as accepted at `at`.

    For `profiles renew` it is Finish with the outcome ACTED.
    """
    watching = replace(
        entry, phase=Phase.WATCHING, acted_at=at, changed_at=at, wake_at=at + WATCH_POLL
    )
    if entry.job.method is Method.PROFILES_RENEW:
        # The command only shows a prompt to a person; a later check-in reports the enrollment.
        return _finish(watching, Outcome.ACTED, None, "requested; a person must answer")
    return Wait(watching)


def _has_enrolled_again(entry: JournalEntry, look: Observation) -> bool:
    assert entry.intent_at is not None
    return look.enrolled_at is not None and look.enrolled_at > entry.intent_at


def _watch_enrollment(entry: JournalEntry, look: Observation, now: datetime) -> Wait | Finish:
    """Return the step for an enrollment profile that the MDM server delivered.

    Only a complete enrollment since the order is a success: the Mac may not answer the command.
    Then user approval and bootstrap token are checked; either may be unknown for 6 h.
    """
    seen = look.progress
    if not _has_enrolled_again(entry, look):
        if seen.state is InstallState.FAILED:
            code = seen.error_code or ErrorCode.COMMAND_REJECTED
            return _finish(entry, Outcome.FAILED, code, seen.detail[:_MAX_DETAIL], look)
        until = entry.job.report_by or entry.job.expires_at
        if now >= until:
            detail = "no new enrollment since the profile was sent"
            return _finish(entry, Outcome.FAILED, ErrorCode.NOT_REENROLLED, detail, look)
        return Wait(replace(entry, wake_at=min(now + WATCH_POLL, until)))
    assert look.enrolled_at is not None
    if look.user_approved is False:
        detail = "enrolled again, without user approval"
        return _finish(entry, Outcome.FAILED, ErrorCode.NOT_USER_APPROVED, detail, look)
    if look.bootstrap_token is False:
        detail = "enrolled again, without a bootstrap token"
        return _finish(entry, Outcome.FAILED, ErrorCode.NO_BOOTSTRAP_TOKEN, detail, look)
    checks = {"user approval": look.user_approved, "bootstrap token": look.bootstrap_token}
    unknown = [name for name, value in checks.items() if value is None]
    if unknown and now < look.enrolled_at + BEGIN_WITHIN:
        return Wait(replace(entry, wake_at=now + WATCH_POLL))
    detail = f"enrolled again; unknown: {', '.join(unknown)}" if unknown else "enrolled again"
    return _finish(entry, Outcome.ACTED, None, detail, look)


def _watch_restart(entry: JournalEntry, look: Observation) -> Finish:
    """Return the end of a restart that the Mac accepted or refused.

    MDM does not report a boot, so the acceptance is the end: the pipeline waits for the report.
    """
    assert entry.intent_at is not None
    if booted_since(look, entry.boot_at, entry.intent_at):
        return _finish(entry, Outcome.ACTED, None, "booted since the order", look)
    seen = look.progress
    if seen.state is InstallState.FAILED and (seen.since is None or seen.since >= entry.intent_at):
        code = seen.error_code or ErrorCode.COMMAND_REJECTED
        return _finish(entry, Outcome.FAILED, code, seen.detail[:_MAX_DETAIL], look)
    return _finish(entry, Outcome.ACTED, None, "accepted; its report must show the boot", look)


def _due(entry: JournalEntry) -> datetime:
    """Return the time from which the Mac should work on the order.

    It is the time of acceptance, else of the intent, else of the job's arrival. For a touched DDM
    job with a later `enforce_at` it is `enforce_at`.
    """
    start = entry.acted_at or entry.intent_at or entry.accepted_at
    enforce_at = entry.job.enforce_at
    if entry.touched and entry.job.method is Method.DDM and enforce_at is not None:
        return max(start, enforce_at)
    return start


def _watch(entry: JournalEntry, look: Observation, now: datetime) -> Wait | Finish:
    """Return the step for an accepted order: done, failed, or a wait.

    Finish with the outcome ACTED if the Mac booted into the target. FAILED if the Mac reports a
    failure since the intent, made no progress in time, or left MDM under an MDM order that does not
    erase. Otherwise Wait, with a PROGRESSED result after new progress.
    """
    assert entry.intent_at is not None
    if entry.job.method is Method.INSTALL_PROFILE:
        return _watch_enrollment(entry, look, now)
    if entry.job.method is Method.RESTART_DEVICE:
        return _watch_restart(entry, look)
    if ran_since(entry.job, look, entry.boot_at, entry.intent_at):
        return _finish(entry, Outcome.ACTED, None, "runs the target since a boot", look)
    seen = look.progress
    if seen.state is InstallState.FAILED and (seen.since is None or seen.since >= entry.intent_at):
        code = seen.error_code or ErrorCode.INSTALL_FAILED
        detail = seen.detail or "the Mac reports a failure"
        return _finish(entry, Outcome.FAILED, code, detail[:_MAX_DETAIL], look)
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
    """Return True for another active state, or 25 percentage points more in the same one.

    False for a state without activity and for a failure. An unknown percentage counts as 0.
    """
    if seen.state in _IDLE or seen.state is InstallState.FAILED:
        return False
    if seen.state is not entry.progress:
        return True
    return (seen.percent or 0) >= (entry.percent or 0) + _PERCENT_STEP
