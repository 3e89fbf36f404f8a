"""The last reinstall of a Mac, and the points that a reinstall leaves to confirm."""

from typing import Final

from pipeline.decide.situation import Situation
from pipeline.state.jobs import JobEntry, JobHistory, attempts
from schemas.activations import activation_intent
from schemas.jobs import Action
from schemas.results import ErrorCode, Outcome

_REINSTALLS: Final = (Action.REINSTALL, Action.REIMAGE)
_BY_TIME_ALONE: Final = frozenset({ErrorCode.NO_REPORT, ErrorCode.NOTHING_HAPPENED})


def last_reinstall(s: Situation) -> JobEntry | None:
    """Return the newest reinstall or reimage that succeeded; None if there is none."""
    for entry in reversed(s.job_history):
        if entry.outcome is Outcome.SUCCEEDED and entry.action in _REINSTALLS:
            return entry
    return None


def failed_by_time_alone(s: Situation, entry: JobEntry) -> bool:
    """Return True if a job failed by its time alone, and no source has reported the Mac since.

    Then nothing is known to have gone wrong on the Mac.
    """
    return entry.error_code in _BY_TIME_ALONE and s.device.last_seen_us <= entry.since_us


def count_tried(s: Situation, failed: JobHistory) -> int:
    """Return the number of failed jobs in `failed` that reached the Mac.

    Jobs that did not reach it do not count: a Mac that is off at night gets a job every night.
    """
    return sum(one.touched and not failed_by_time_alone(s, one) for one in failed)


def restarts(s: Situation, intent: str) -> JobHistory:
    """Return the ended restarts for this intent that reached the Mac or were refused, oldest first.

    One that an operator reset does not count.
    """
    return tuple(
        entry for entry in attempts(s.job_history, Action.RESTART, intent) if _is_used(entry)
    )


def _is_used(entry: JobEntry) -> bool:
    if entry.outcome in (Outcome.SUCCEEDED, Outcome.REFUSED):
        return not entry.reset
    return entry.failed and entry.touched


def follow_up_missing(s: Situation) -> tuple[str, ...]:
    """Return the points not yet confirmed after the last successful reinstall or reimage.

    The points are `re-enrolled`, `user-approved`, `bootstrap token`, `activation NAME`, `profile
    IDENTIFIER` and `compliant`. Empty if all are confirmed, or if there was no reinstall.
    """
    last, device, wanted = last_reinstall(s), s.device, s.policy.follow_up
    if last is None:
        return ()
    since_us = last.since_us
    open_points = []
    if not is_enrolled_after(s, last):
        open_points.append("re-enrolled")
    if s.policy.mdm.require_user_approved and not (
        device.user_approved and (not last.erases or device.reported_us("user_approved") > since_us)
    ):
        open_points.append("user-approved")
    token_us = device.reported_us("bootstrap_token_escrowed")
    if wanted.bootstrap_token and not (device.bootstrap_token_escrowed and token_us > since_us):
        open_points.append("bootstrap token")
    open_points += [f"activation {name}" for name in activations_missing(s)]
    open_points += [f"profile {name}" for name in profiles_missing(s)]
    if wanted.compliant and not (device.compliant and device.reported_us("compliant") > since_us):
        open_points.append("compliant")
    return tuple(open_points)


def is_enrolled_after(s: Situation, last: JobEntry) -> bool:
    """Return True unless the last reinstall erased the Mac and no enrollment followed it."""
    return not last.erases or s.device.enrolled_since(last.since_us)


def activations_missing(s: Situation) -> tuple[str, ...]:
    """Return the names of activations not yet confirmed after the last successful reinstall.

    They are those of the policy's `follow_up.activations` that no later report has, and for which
    no job has succeeded since; () without a reinstall.
    """
    last, device = last_reinstall(s), s.device
    if last is None:
        return ()
    confirmed = set(device.activations or ())
    if device.reported_us("activations") <= last.since_us:
        confirmed.clear()
    done = {
        entry.intent
        for entry in s.job_history
        if entry.action is Action.ACTIVATE and entry.outcome is Outcome.SUCCEEDED
    }
    return tuple(
        name
        for name in s.policy.follow_up.activations
        if name not in confirmed and activation_intent(name, last.issued_us) not in done
    )


def profiles_missing(s: Situation) -> tuple[str, ...]:
    """Return the identifiers of profiles not yet confirmed after the last successful reinstall.

    They are those of the policy's `follow_up.profiles` that no later report has; () without a
    reinstall.
    """
    last, device = last_reinstall(s), s.device
    if last is None:
        return ()
    confirmed = device.profiles or () if device.reported_us("profiles") > last.since_us else ()
    return tuple(name for name in s.policy.follow_up.profiles if name not in confirmed)
