"""The need to restart a Mac whose update keeps failing, before its system is installed again.

| restarts for this update | attempts left | next |
| --- | --- | --- |
| none has ended yet | one, or more and each method is spent | the first restart that is possible |
| ended, no update failed since | at least one | the update |
| ended, an update failed since, or refused | as for none | the next restart, if one is left |
| ended, an update failed since, none left | any | a method that is not spent, else the reinstall |
| any | none | the reinstall |

A stuck update service is the usual cause of an update that every method fails to install. A restart
of the service alone ends it without loss for the user (`launchctl kickstart -k
system/com.apple.softwareupdated`, as github.com/Macjutsu/super does), a restart of the Mac for
certain. A restart counts also if it failed: few sources report a boot, and a site can forbid the
method. Each method has one turn.
"""

from collections.abc import Sequence

from pipeline.decide.methods import choose_method
from pipeline.decide.needs.enrollment import needs_reenrollment
from pipeline.decide.needs.need import Need
from pipeline.decide.needs.reinstall_history import restarts
from pipeline.decide.situation import Situation
from pipeline.state.jobs import JobEntry
from schemas.decisions import Reason
from schemas.jobs import Action
from schemas.results import Outcome


def failing_intent(update: Need) -> str:
    """Return the intent of the restart and of the reinstall for an update that keeps failing."""
    return f"failing:{update.intent}"


def last_restart(s: Situation, update: Need) -> JobEntry | None:
    """Return the newest restart for this update that reached the Mac or was refused, or None."""
    ended = restarts(s, failing_intent(update))
    return ended[-1] if ended else None


def needs_restart(s: Situation, update: Need, evidence: tuple[str, ...]) -> Need | None:
    """Return the need to restart the Mac; None if no method for it is free.

    Each method of the policy is used once.
    """
    need = Need(
        Action.RESTART,
        Reason.UPDATE_KEEPS_FAILING,
        failing_intent(update),
        exclusive=True,
        evidence=evidence,
    )
    choice = choose_method(s, need)
    if choice.method is None or choice.reason is not None or needs_reenrollment(s) is not None:
        return None
    return need


def is_over(restart: JobEntry | None, failed: Sequence[JobEntry]) -> bool:
    """Return True if the next restart may follow: none ended, it was refused, or without effect."""
    return (
        restart is None or restart.outcome is Outcome.REFUSED or has_failed_since(restart, failed)
    )


def has_failed_since(restart: JobEntry, failed: Sequence[JobEntry]) -> bool:
    """Return True if one of these updates was issued after the restart ended."""
    return any(entry.issued_us >= restart.outcome_us for entry in failed)
