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
    ACCEPTED  the same, declared for a time: give it again       INTENDED (started)
    ACCEPTED  the same, and the Mac runs the target              DONE (acted)
    ACCEPTED  halted; a lost journal may have declared it        DONE (superseded)
    ACCEPTED  order is queued at the MDM server                  INTENDED (started)
    ACCEPTED  order may have been given before, and erases       DONE (refused)
    ACCEPTED  Mac is ready: journal the intent, give the order   INTENDED (started)
    INTENDED  Mac accepts, or the mark or an effect is there     WATCHING
    INTENDED  accepted, and the command ends at once             DONE (acted)
    INTENDED  Mac refuses                                        DONE (failed or refused)
    INTENDED  NotNow over MDM, or queued at the MDM server       INTENDED, DONE (failed) after 48 h
    INTENDED  the same, and not looked at for 24 h               INTENDED, for 48 h again
    INTENDED  queued, expired, and it can be withdrawn           DONE (expired)
    INTENDED  the MDM server lost the order; it may be repeated  INTENDED: give the order again
    INTENDED  the MDM server lost the order; it may not          DONE (failed)
    INTENDED  NotNow over SSH, still valid and fit               INTENDED: give the order again
    INTENDED  no sign of the order within IN_FLIGHT              INTENDED
    INTENDED  no sign after that, and still valid and fit        INTENDED: give the order again
    INTENDED  no sign after that, withdrawn, expired or unfit    DONE
    INTENDED  no sign of MAX_SENDS orders                        DONE (failed)
    INTENDED  the same over MDM, no erase, for less than 24 h    INTENDED: give the order again
    WATCHING  Mac booted into the target since the order         DONE (acted)
    WATCHING  Mac enrolled again by `install_profile`            DONE (acted or failed)
    WATCHING  the order was to restart                           DONE (acted or failed)
    WATCHING  success test of the activation passed              DONE (acted)
    WATCHING  it did not until `report_by`                       DONE (failed)
    WATCHING  Mac reports a failure, or left MDM                 DONE (failed)
    WATCHING  nothing seen for 6 h, or no progress for 24 h      DONE (failed)
    WATCHING  the same, and not looked at for 24 h               WATCHING, for as long again
    WATCHING  new state, or 25 % more                            WATCHING (progressed)
    INTENDED  Mac unreachable for 24 h                           DONE (acted: perhaps)
    WATCHING  Mac unreachable for 24 h                           DONE (acted)
    touched   the same, and the order was an activation          DONE (failed)
    touched   halted or withdrawn; its form can withdraw it      DONE (superseded)
    touched   halted or withdrawn; it may still be delivered     no change (progressed)
    DONE      any                                                DONE

An attempt whose form can withdraw orders goes from its end to WITHDRAWING, and to DONE when nothing
of the order is left: a forgotten declaration installs its release when Apple offers it, and a
command that is still queued may be answered. So does an untouched attempt whose declaration a lost
journal may have given (`leaves_an_order`).

Invariant: the entry with phase INTENDED is durable before the order is given. A first order is
given after `agents.first_order` examined the Mac. An order is repeated only if a look at the Mac
shows that it never arrived, or after a NotNow over SSH. A repeated update command can reboot a Mac
during its user's work (openradar 20594), and after a NotNow over MDM the order is still queued at
the server (github.com/micromdm/nanomdm, RetrieveNextCommand).

The last outcome of a good run is ACTED. Only the pipeline decides `succeeded`, from a later report
of the Mac.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from agents.attempt_steps import (
    Act,
    Finish,
    LookResult,
    Observe,
    Step,
    Unreachable,
    Wait,
    finish,
    result,
)
from agents.first_order import Done, Doubtful, InFlight, Marked, Queued, earlier_order
from agents.journal_entry import JournalEntry, Phase
from agents.mac import (
    Ack,
    AckKind,
    InstallState,
    Observation,
    Obstacle,
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
from agents.watching import WATCH_POLL, due_at, has_enrolled_again, is_unwatched, watch
from schemas.jobs import ENFORCEMENT_NOTICE, MDM_METHODS, Job, Method
from schemas.results import ErrorCode, JobResult, Outcome

# An order without a response may still arrive: its absence on the Mac proves nothing before this.
IN_FLIGHT: Final = timedelta(minutes=5)
# After this time without contact an untouched job fails and a touched job ends as ACTED. It counts
# from the first failed look, or from the time at which the Mac should begin if that is later.
UNREACHABLE_LIMIT: Final = timedelta(hours=24)
NOT_NOW_LIMIT: Final = timedelta(hours=48)
NOT_NOW_POLL: Final = timedelta(minutes=30)
BUSY_POLL: Final = timedelta(minutes=30)
_MIN_UNREACHABLE_POLL: Final = timedelta(minutes=5)
_MAX_UNREACHABLE_POLL: Final = timedelta(hours=1)
MAX_SENDS: Final = 3

_ENDS_AT_ONCE: Final = {
    # The command only shows a prompt to a person; a later check-in reports the enrollment.
    Method.PROFILES_RENEW: "requested; a person must answer",
    Method.RESTART_UPDATE_SERVICE: "the update service was restarted",
}
# Methods whose order a Mac may get twice: a declaration that it has already changes nothing.
_REPEATABLE: Final = frozenset({Method.DDM})
_WITHDRAWN: Final = "the declaration is withdrawn"
_NOT_DELIVERED: Final = Obstacle(ErrorCode.NOT_DELIVERED, "still queued at the MDM server")


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
    return watch(entry, observation, now)


def apply_ack(entry: JournalEntry, ack: Ack, now: datetime) -> Wait | Finish:
    """Return the step that follows from the Mac's response to an intended order.

    REFUSED: Finish, with the outcome REFUSED for the code `unsupported`, else FAILED. NOT_NOW: Wait
    for 30 minutes in phase INTENDED. QUEUED: Wait for 5 minutes in phase INTENDED. ACCEPTED: Wait
    in phase WATCHING, or Finish with the outcome ACTED for a command that ends at once.
    """
    if ack.kind is AckKind.REFUSED:
        code = ack.error_code or ErrorCode.COMMAND_REJECTED
        # UNSUPPORTED is permanent, so the job is refused. After other codes a new job may succeed.
        outcome = Outcome.REFUSED if code is ErrorCode.UNSUPPORTED else Outcome.FAILED
        return finish(entry, outcome, code, ack.detail)
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
        return finish(entry, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED)
    if can_withdraw and entry.job.method is Method.DDM:
        return finish(entry, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED, _WITHDRAWN)
    kept = replace(entry, superseded=True, wake_at=min(entry.wake_at, now))
    warned = can_withdraw and not entry.superseded
    return Wait(kept, _may_still_arrive(entry, ErrorCode.SUPERSEDED) if warned else ())


def halt(entry: JournalEntry) -> Wait | Finish | None:
    """Return the step of an attempt that a halt covers, if its form withdraws orders.

    A declaration that the Mac may have is withdrawn: Finish with the outcome SUPERSEDED and the
    code `halted`; after the halt the pipeline decides again. Of a queued order one result has the
    text that it may still be delivered. None if nothing changes.
    """
    if entry.may_be_declared:
        return finish(entry, Outcome.SUPERSEDED, ErrorCode.HALTED, _WITHDRAWN)
    if entry.halted:
        return None
    warning = _may_still_arrive(entry, ErrorCode.HALTED)
    return Wait(replace(entry, halted=True), warning) if warning else None


def leaves_an_order(before: JournalEntry, ended: JournalEntry) -> bool:
    """Return True if the attempt may leave an order on the Mac or its server at its end.

    `before` is its entry before the step that ended it.
    """
    return before.touched or before.may_be_declared or ended.sends > 0


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


def _withdrawn(entry: JournalEntry, now: datetime) -> Finish | None:
    """Return the end of the attempt if its order must not be given now, else None.

    The outcome is SUPERSEDED after a withdrawal, EXPIRED after the expiry, REFUSED if an erasing
    job has no valid approval at `now`.
    """
    if entry.superseded:
        return finish(entry, Outcome.SUPERSEDED, ErrorCode.SUPERSEDED)
    if now >= entry.job.expires_at:
        return finish(entry, Outcome.EXPIRED, ErrorCode.EXPIRED)
    if erases(entry.job) and (entry.approved_until is None or now >= entry.approved_until):
        return finish(entry, Outcome.REFUSED, ErrorCode.NO_APPROVAL, "the approval ran out")
    return None


def _on_unreachable(entry: JournalEntry, obstacle: Obstacle | None, now: datetime) -> Wait | Finish:
    """Return a wait for the next look, or the end after 24 h without contact.

    The outcome is then FAILED for an untouched job and for an activation, and ACTED for another
    touched one. The 24 h begin at the first failed look, or when the Mac should work on the order
    if that is later. An untouched job with an obstacle fails at once.
    """
    if obstacle is not None and not entry.touched:
        return finish(entry, Outcome.FAILED, obstacle.error_code, obstacle.detail)
    since = entry.away_since or now
    given_up_at = max(since, due_at(entry)) + UNREACHABLE_LIMIT
    if now >= given_up_at:
        if not entry.touched:
            return finish(entry, Outcome.FAILED, ErrorCode.UNREACHABLE, "never reached")
        if entry.job.method is Method.ACTIVATION_COMMAND:
            # No report shows its work; a repeat begins with the success test.
            return finish(entry, Outcome.FAILED, ErrorCode.UNREACHABLE, "success test not seen")
        # Not FAILED: the order may be under way or complete, and FAILED could lead to a second one.
        known = entry.phase is Phase.WATCHING
        detail = "out of reach since; left to the Mac's report"
        return finish(entry, Outcome.ACTED, None, detail if known else f"perhaps arrived; {detail}")
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
        earlier = _on_earlier_order(entry, look, now, limits)
        if earlier is not None:
            return earlier
    match fitness(entry.job, look, limits, now):
        case AlreadyThere():
            return finish(entry, Outcome.ACTED, None, "already there", look)
        case Busy():
            wake_at = min(now + BUSY_POLL, entry.job.expires_at)
            return Wait(replace(entry, wake_at=wake_at))
        case Unfit(code, detail):
            outcome = Outcome.REFUSED if code is ErrorCode.UNSUPPORTED else Outcome.FAILED
            return finish(entry, outcome, code, detail, look)
        case _:
            return _send(entry, look, now)


def _on_earlier_order(
    entry: JournalEntry, look: Observation, now: datetime, limits: Limits
) -> Act | Wait | Finish | None:
    """Return the step that follows from evidence of an order before the first; None without any.

    The table is in `agents.first_order`. An order on the Mac or in the queue of its MDM server is
    followed as this attempt's own; the first result is STARTED. A declaration with a time
    of enforcement is given again whatever the fitness of the Mac, unless it failed or the Mac runs
    the target. A doubtful erase is refused with the code `history_unknown`.
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
        case Marked() if _may_be_enforced_otherwise(entry, look):
            if isinstance(fitness(entry.job, look, limits, now), AlreadyThere):
                # Counted as given, so that the declaration is withdrawn.
                given = replace(entry, sends=1)
                return finish(given, Outcome.ACTED, None, "already there", look)
            # Not judged by its fitness: a Mac that carries it out can be busy or low on disk.
            return _send(entry, look, now)
        case Marked() | Queued():
            return _follow(entry, look, now, queued=isinstance(evidence, Queued))
        case Done():
            return finish(entry, Outcome.ACTED, None, "done before, by an earlier order", look)
        case Doubtful(detail):
            detail = f"perhaps given before: {detail}; approve it again"
            return finish(entry, Outcome.REFUSED, ErrorCode.HISTORY_UNKNOWN, detail, look)
        case InFlight(until):
            return Wait(replace(entry, wake_at=min(until, entry.job.expires_at)))
        case _:
            return None


def _may_be_enforced_otherwise(entry: JournalEntry, look: Observation) -> bool:
    """Return True if the Mac may have this order with another time of enforcement, unfinished.

    A job that was issued again, as after a restored backup, has its id and a later time.
    """
    is_timed = entry.job.method in _REPEATABLE and entry.job.enforce_at is not None
    return (
        is_timed
        and entry.order_marker in look.marks
        and look.progress.state is not InstallState.FAILED
    )


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
    step = taken if isinstance(taken, Finish) else watch(taken.entry, look, now)
    return replace(step, results=(started, *step.results))


def _send(entry: JournalEntry, look: Observation, now: datetime) -> Act:
    """Return the order, with the intent at `now` and the boot time of `look`.

    The first order of an attempt has the result STARTED, a repeated one has no result and declares
    the time of the first, until MAX_SENDS orders had no response.
    """
    first = entry.sends == 0
    is_timed_anew = first or entry.unanswered >= MAX_SENDS
    intended = replace(
        entry,
        phase=Phase.INTENDED,
        sends=entry.sends + 1,
        unanswered=entry.unanswered + 1,
        declined=False,
        enforce_at=_enforce_at(entry.job, now) if is_timed_anew else entry.enforce_at,
        intent_at=now,
        boot_at=look.boot_at,
        wake_at=now + IN_FLIGHT,
    )
    # STARTED is journalled with the intent: from then on the Mac counts as touched.
    return Act(intended, (result(intended, Outcome.STARTED, look=look),) if first else ())


def _enforce_at(job: Job, now: datetime) -> datetime | None:
    """Return the time of enforcement that an order at `now` declares, None without one.

    A job can wait for hours before its order, and its user gets the whole notice.
    """
    if job.enforce_at is None:
        return None
    return min(max(job.enforce_at, now + ENFORCEMENT_NOTICE), job.expires_at)


def _verify(entry: JournalEntry, look: Observation, now: datetime, limits: Limits) -> Step:
    """Return the step after a look at the Mac of an intended order, by the table at the top.

    With a mark or an effect of the order it is the step of an accepted order.
    """
    assert entry.intent_at is not None
    if entry.order_marker in look.marks or _shows_effect(entry, look):
        # An order that its server held may have reached the Mac long after the intent.
        taken = _on_accepted(entry, now if entry.held_since else entry.intent_at)
        return taken if isinstance(taken, Finish) else watch(taken.entry, look, now)
    queued, lost = entry.order_marker in look.pending, entry.order_marker in look.lost
    reason = look.not_delivered or _NOT_DELIVERED
    if lost and entry.job.method not in _REPEATABLE:
        return finish(entry, Outcome.FAILED, reason.error_code, reason.detail, look)
    held = queued or (not lost and entry.declined and entry.job.method in MDM_METHODS)
    if not (held or lost or entry.declined) and now < entry.intent_at + IN_FLIGHT:
        return Wait(replace(entry, wake_at=entry.intent_at + IN_FLIGHT))
    if not held or look.is_revocable:
        ended = _withdrawn(entry, now)
        if ended is not None:
            return ended
    since = entry.held_since or entry.intent_at
    if (held or entry.declined) and now >= since + NOT_NOW_LIMIT:
        if not is_unwatched(entry, now):
            declined = Obstacle(ErrorCode.COMMAND_REJECTED, "still answers NotNow")
            cause = declined if entry.declined else reason
            return finish(entry, Outcome.FAILED, cause.error_code, cause.detail, look)
        since, entry = now, replace(entry, held_since=now)
    if held:
        # The MDM server offers the order again by itself; a second order would run as well.
        until = entry.job.expires_at if look.is_revocable else now + NOT_NOW_POLL
        wake_at = min(now + NOT_NOW_POLL, until)
        return Wait(replace(entry, held_since=since, wake_at=wake_at))
    return _give_again(entry, look, now, limits, lost=lost)


def _give_again(
    entry: JournalEntry, look: Observation, now: datetime, limits: Limits, *, lost: bool
) -> Step:
    """Return the step for an order that did not arrive, by the fitness of the Mac.

    After MAX_SENDS orders it is the end of the attempt. Only an order that no MDM server took is
    given again each half hour for a day: the server can be ill for hours. If it took the order
    without a response, it refuses the second one, for both have the same CommandUUID. An erase
    needs a new approval instead.
    """
    if entry.unanswered < MAX_SENDS:
        return _approach(entry, look, now, limits)
    assert entry.intent_at is not None
    since = entry.held_since or entry.intent_at
    given_up = now >= since + UNREACHABLE_LIMIT
    keeps_on = entry.job.method in MDM_METHODS and not erases(entry.job)
    if lost or given_up or not keeps_on:
        away = Obstacle(ErrorCode.UNREACHABLE, "no response")
        cause = (look.not_delivered or _NOT_DELIVERED) if lost else away
        detail = f"no order of {entry.sends} arrived: {cause.detail}"
        return finish(entry, Outcome.FAILED, cause.error_code, detail, look)
    again_at = entry.intent_at + NOT_NOW_POLL
    held = replace(entry, held_since=since)
    if now < again_at:
        return Wait(replace(held, wake_at=again_at))
    return _approach(held, look, now, limits)


def _shows_effect(entry: JournalEntry, look: Observation) -> bool:
    """Return True if the Mac shows an effect of the order, although its mark is missing.

    An erase also deletes the mark. So for an erasing order any boot since the intent, or an unknown
    boot time, counts as an effect.
    """
    assert entry.intent_at is not None
    if entry.job.method is Method.INSTALL_PROFILE:
        return has_enrolled_again(entry, look)
    if entry.job.method is Method.RESTART_DEVICE:
        return booted_since(look, entry.boot_at, entry.intent_at)
    if erases(entry.job):
        return look.boot_at is None or booted_since(look, entry.boot_at, entry.intent_at)
    return ran_since(entry.job, look, entry.boot_at, entry.intent_at)


def _on_accepted(entry: JournalEntry, at: datetime) -> Wait | Finish:
    """Return a wait in phase WATCHING, for an order that counts as accepted at `at`.

    For a command that ends at once it is Finish with the outcome ACTED.
    """
    watching = replace(
        entry, phase=Phase.WATCHING, acted_at=at, changed_at=at, wake_at=at + WATCH_POLL
    )
    if entry.job.method in _ENDS_AT_ONCE:
        return finish(watching, Outcome.ACTED, None, _ENDS_AT_ONCE[entry.job.method])
    return Wait(watching)
