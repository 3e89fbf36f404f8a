"""The end of a job that follows from the Mac's own reports and from the time."""

from datetime import datetime
from typing import Final, NamedTuple

from pipeline.state.device import AUTHENTICATED, CHECKED_OUT, TOKEN_UPDATED, Device, to_us
from pipeline.state.jobs import INFERRED_ATTEMPT, JobEntry
from schemas.decisions import Reason
from schemas.jobs import MDM_METHODS, Action, Method
from schemas.macos import reaches
from schemas.results import FINAL_OUTCOMES, ErrorCode, JobResult, Outcome

_RENEWAL: Final = Reason.IDENTITY_EXPIRING.value


class End(NamedTuple):
    """The final outcome of a job; the code is None unless it failed or expired."""

    outcome: Outcome
    error_code: ErrorCode | None = None


def infer_result(entry: JobEntry, device: Device, udid: str, now: datetime) -> JobResult | None:
    """Return the final result of an open job that follows from the Mac's reports and the time.

    None if the job stays open, or has ended already. The result has `attempt` 0 and this `udid`.

    A job has succeeded if records after `since_us` show:

    | job | required records |
    | --- | --- |
    | update, upgrade | a report with the target's version and build, or a later one |
    | reinstall | such a report from after the executor acted; a boot |
    | reinstall, reimage, erasing | such a report from after the executor acted; an Authenticate |
    | restart | a boot |
    | activate | a contact after the executor acted, which the success test had to prove |
    | reenroll | an Authenticate and a TokenUpdate; to renew an identity the second |

    A begun job of MDM has failed if the Mac left the enrollment that had the order: after a
    CheckOut or another Authenticate the server has it no more. A job that is open at `times_out_us`
    has failed if it was begun, else it has expired. A withheld job was rehearsed: then, or if such
    records show that others did its work.
    """
    end = infer_end(entry, device, to_us(now))
    if end is None:
        return None
    is_rehearsed = end.outcome is Outcome.REHEARSED
    return JobResult(
        job_id=entry.job_id,
        udid=udid,
        site=entry.site,
        outcome=end.outcome,
        attempt=INFERRED_ATTEMPT,
        error_code=end.error_code,
        detail="dry run: would have ended by now"
        if is_rehearsed
        else "read off the Mac's own reports",
        observed_version=device.os_version,
        observed_build=device.build,
        observed_boot_at=device.boot_at,
    )


def infer_end(entry: JobEntry, device: Device, now_us: int) -> End | None:
    """Return how an open job ends by the table of `infer_result`, or None if it gives None.

    Hot path: most reports of a Mac with an open job do not end it. `now_us` is in us since 1970.
    """
    outcome = entry.outcome
    if outcome in FINAL_OUTCOMES:
        return None
    if outcome is Outcome.WITHHELD:
        is_over = now_us >= entry.times_out_us or _is_fulfilled(entry, device)
        return End(Outcome.REHEARSED) if is_over else None
    if _is_fulfilled(entry, device):
        return End(Outcome.SUCCEEDED)
    is_begun = outcome is not None and entry.may_have_touched
    if is_begun and _lost_its_enrollment(entry, device):
        return End(Outcome.FAILED, ErrorCode.ENROLLMENT_ENDED)
    if now_us < (entry.report_by_us if is_begun else entry.expires_us):  # `times_out_us`
        return None
    if entry.acted_us:
        return End(Outcome.FAILED, ErrorCode.NO_REPORT)
    if is_begun:
        return End(Outcome.FAILED, ErrorCode.NOTHING_HAPPENED)
    return End(Outcome.EXPIRED, ErrorCode.EXPIRED)


def _lost_its_enrollment(entry: JobEntry, device: Device) -> bool:
    """Return True if the enrollment that has the order of a begun job of MDM has ended.

    False for an erase and a re-enrollment, which end the enrollment themselves: the Mac's check-in
    can arrive before the executor's result.
    """
    if entry.method not in MDM_METHODS or entry.action is Action.REENROLL or entry.erases:
        return False
    return max(device.checkins[AUTHENTICATED], device.checkins[CHECKED_OUT]) > entry.since_us


def _is_fulfilled(entry: JobEntry, device: Device) -> bool:
    """Return True if the Mac's records show that the job was done: the table of `infer_result`."""
    if entry.action is Action.REENROLL:
        # A profile that replaces itself in place sends a TokenUpdate and no Authenticate.
        renewed = entry.intent.startswith(_RENEWAL) and (
            device.checkins[TOKEN_UPDATED] > entry.since_us
        )
        return renewed or device.enrolled_since(entry.since_us)
    if entry.action in (Action.RESTART, Action.ACTIVATE):
        return _is_carried_out(entry, device)
    if entry.version is None:
        return False
    version = device.os_version
    if version is None or version[:3] < entry.version[:3]:
        return False  # most often; `reaches` gives it too, but the build takes a search of times
    if not reaches(version, device.build, entry.version, entry.build):
        return False
    reported_us = device.reported_us("os_version")
    if reported_us <= entry.since_us:
        return False
    if entry.action in (Action.UPDATE, Action.UPGRADE):
        return True
    if not 0 < entry.acted_us < reported_us:
        return False
    if entry.erases:
        # Setup Assistant enrolls the Mac after a boot, so the boot itself need not be reported: few
        # sources report it.
        return device.checkins[AUTHENTICATED] > entry.since_us
    return _has_booted(entry, device)


def _is_carried_out(entry: JobEntry, device: Device) -> bool:
    """Return True if the Mac booted, or was seen after the command of its executor.

    No source reports a service or what a site activates: the executor waits for the end of the
    command, of an activation for its success test, and a later contact shows that the Mac works.
    """
    if entry.method in (Method.RESTART_UPDATE_SERVICE, Method.ACTIVATION_COMMAND):
        return 0 < entry.acted_us < device.last_seen_us
    return _has_booted(entry, device)


def _has_booted(entry: JobEntry, device: Device) -> bool:
    """Return True if the Mac reported a boot, by its own clock, after `since_us` of the job."""
    return device.boot_at is not None and to_us(device.boot_at) > entry.since_us
