"""The need to enroll again.

| enrollment fault, in order | cause |
| --- | --- |
| `checked_out` | a CheckOut, or a report of "not enrolled" by a Mac that MDM knew |
| `never_enrolled` | a report of "not enrolled" by a Mac that MDM never knew |
| `enrollment_incomplete` | no TokenUpdate within 4 hours after an Authenticate |
| `reenroll_after_reinstall` | no enrollment within 12 hours after an erase |
| `mdm_silent` | inventory reports arrive, MDM messages do not |
| `wrong_mdm_server` | the MDM server is not the policy's |
| `identity_expiring` | the MDM identity certificate ends soon |
| `not_user_approved` | the enrollment is not user-approved, and the policy requires it |

Invariant: the defects of the last three come from reports, so they count only if they were reported
after the last Authenticate; an older report describes an earlier enrollment.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Final
from urllib.parse import urlsplit

from pipeline.decide.needs.need import Need
from pipeline.decide.needs.reinstall_history import last_reinstall
from pipeline.decide.situation import Situation
from pipeline.policy.model import Policy
from pipeline.state.compact.seen_days import first_later_day_end_us
from pipeline.state.device import (
    AUTHENTICATED,
    CHECKED_OUT,
    INDEX,
    TOKEN_UPDATED,
    Device,
    duration_us,
    to_us,
)
from pipeline.state.jobs import JobEntry
from schemas.decisions import Reason
from schemas.jobs import Action

# Fields that end with the enrollment.
ENROLLMENT_FIELDS: Final = ("supervised", "bootstrap_token_escrowed")
# After an erase the Mac enrolls by itself in Setup Assistant. A re-enrollment is needed only if it
# has not done so after this time.
_ADE_GRACE: Final = timedelta(hours=12)
# The server cannot push to a Mac before the TokenUpdate, which follows an Authenticate at once. A
# Mac in Setup Assistant can stop in between until its user continues.
_COMPLETION_GRACE: Final = timedelta(hours=4)
# APNs wakes a Mac within minutes, but an MDM server may query it only once a day.
_MDM_GRACE: Final = timedelta(hours=24)


def needs_reenrollment(s: Situation) -> Need | None:
    """Return the need to enroll again, or None if the enrollment has no fault.

    Its reason is the fault. For `mdm_silent`, `not_before_us` is the end of the time that MDM has
    to contact a returned Mac; for other faults it is None.
    """
    reason = _enrollment_fault(s)
    if reason is None:
        return None
    # One intent for each enrollment: a fault of a later enrollment starts a new series of attempts.
    checkins = s.device.checkins
    intent = f"{reason.value}@{max(checkins[AUTHENTICATED], checkins[CHECKED_OUT])}"
    confirmed_us = _mdm_grace_ends_us(s) if reason is Reason.MDM_SILENT else None
    return Need(Action.REENROLL, reason, intent, timed=False, not_before_us=confirmed_us)


def _mdm_grace_ends_us(s: Situation) -> int:
    """Return the time from which a Mac without MDM contact counts as silent, in us since 1970.

    It is 24 hours after the end of the first day (UTC) that has an inventory report and is later
    than the day of the last MDM contact, or 24 hours after the newest inventory report if that is
    earlier or there is no such day. After weeks of absence the first inventory report can arrive
    before the first MDM message.
    """
    device = s.device
    first_day_us = first_later_day_end_us(device.inventory_days, device.mdm_seen_us)
    back_us = min(first_day_us or device.inventory_seen_us, device.inventory_seen_us)
    return back_us + duration_us(_MDM_GRACE)


def _enrollment_fault(s: Situation) -> Reason | None:
    """Return the first enrollment fault of the table at the top; None if there is none."""
    device = s.device
    if device.checked_out:
        return Reason.CHECKED_OUT
    if device.mdm_enrolled is False and not device.enrolled:
        return Reason.NEVER_ENROLLED if device.mdm_seen_us == 0 else Reason.CHECKED_OUT
    if device.enrolling and s.now_us >= _completion_due_us(s):
        return Reason.ENROLLMENT_INCOMPLETE
    erased = _erase_without_reenrollment(s)
    if erased is not None and s.now_us >= _ade_grace_ends_us(erased):
        return Reason.REENROLL_AFTER_REINSTALL
    if mdm_is_silent(s):
        return Reason.MDM_SILENT
    defects = [name for name in _enrollment_defects(s) if _is_of_present_enrollment(s, name)]
    if "mdm_server" in defects:
        return Reason.WRONG_MDM_SERVER
    renew_us = renewal_us(s)
    if renew_us is not None and s.now_us >= renew_us:
        return Reason.IDENTITY_EXPIRING
    return Reason.NOT_USER_APPROVED if "user_approved" in defects else None


def _completion_due_us(s: Situation) -> int:
    return s.device.checkins[AUTHENTICATED] + duration_us(_COMPLETION_GRACE)


def _enrollment_defects(s: Situation) -> Iterator[str]:
    """Yield the fields that show an enrollment fault, or can show one later.

    They may be reports of an earlier enrollment. `mdm_server`: its host is not that of the policy's
    server; not yielded if either is None. `identity_expires_at`: the time is known, however far
    away. `user_approved`: it is False, and the policy requires approval.
    """
    device, mdm = s.device, s.policy.mdm
    if mdm.server is not None and device.mdm_server is not None:
        wanted, found = urlsplit(mdm.server).hostname, urlsplit(device.mdm_server).hostname
        if (wanted or mdm.server) != (found or device.mdm_server):
            yield "mdm_server"
    if device.identity_expires_at is not None:
        yield "identity_expires_at"
    if mdm.require_user_approved and device.user_approved is False:
        yield "user_approved"


def _is_of_present_enrollment(s: Situation, name: str) -> bool:
    """Return True if the newest report of the field is not older than the last Authenticate.

    True without an Authenticate. An Authenticate begins a new enrollment, with a new identity
    certificate.
    """
    return s.device.reported_us(name) >= s.device.checkins[AUTHENTICATED]


def field_of_enrollment(s: Situation, name: str) -> bool | None:
    """Return a field that belongs to the enrollment; None if it was reported before it began.

    The MDM server forgets the bootstrap token of an earlier enrollment, and a Mac can come back
    without supervision (github.com/micromdm/nanomdm, issue 71).
    """
    value: bool | None = getattr(s.device, name)
    return value if _is_of_present_enrollment(s, name) else None


def has_earlier_enrollment_field(s: Situation) -> bool:
    """Return True if a defect, or a field of the enrollment, is older than the last Authenticate.

    Such a report does not count. A new report of the same value makes it count, although no value
    changes, so the Mac must be decided again.
    """
    began_us = s.device.checkins[AUTHENTICATED]
    if not began_us:
        return False
    names = [*_enrollment_defects(s)]
    names += [name for name in ENROLLMENT_FIELDS if getattr(s.device, name) is not None]
    reported = s.device.fields_since(began_us)
    return any(not reported >> INDEX[name] & 1 for name in names)


def renewal_us(s: Situation) -> int | None:
    """Return the time from which the MDM identity must be renewed, in us since 1970.

    It is `identity_renew_before` of the policy before the certificate ends. None if the end is
    unknown, or was reported for an earlier enrollment.
    """
    expires_at = s.device.identity_expires_at
    if expires_at is None or not _is_of_present_enrollment(s, "identity_expires_at"):
        return None
    if _was_renewed_since(s, s.device.reported_us("identity_expires_at")):
        return None
    return to_us(expires_at) - duration_us(s.policy.mdm.identity_renew_before)


def _was_renewed_since(s: Situation, reported_us: int) -> bool:
    """Return True if a job that renews the identity was followed by a TokenUpdate after the report.

    A profile that replaces itself sends a TokenUpdate and no Authenticate
    (github.com/zentralopensource/zentral, issue 1661); the identity must be reported again.
    """
    token_us = s.device.checkins[TOKEN_UPDATED]
    return token_us > reported_us and any(
        entry.action is Action.REENROLL
        and entry.intent.startswith(Reason.IDENTITY_EXPIRING)
        and token_us > entry.since_us
        for entry in s.job_history
    )


def next_enrollment_fault_us(s: Situation) -> int | None:
    """Return the first time after now at which an enrollment fault begins without an event.

    In us since 1970; None if no such time is known. A Mac becomes `mdm_silent` by a report, not by
    time.
    """
    erased, renew_us = _erase_without_reenrollment(s), renewal_us(s)
    times = (
        renew_us,
        None if erased is None else _ade_grace_ends_us(erased),
        _completion_due_us(s) if s.device.enrolling else None,
    )
    return min((us for us in times if us is not None and us > s.now_us), default=None)


def mdm_silent_from_us(device: Device, policy: Policy) -> int:
    """Return the time after which an inventory report shows that MDM is silent, in us since 1970.

    It is the last MDM contact and the policy's `silent_after`; 0 for a Mac that MDM never knew.
    """
    mdm_us = device.mdm_seen_us
    return mdm_us and mdm_us + duration_us(policy.mdm.silent_after)


def mdm_is_silent(s: Situation) -> bool:
    """Return True if inventory reports go on and MDM contact has ended."""
    return 0 < mdm_silent_from_us(s.device, s.policy) < s.device.inventory_seen_us


def _ade_grace_ends_us(erased: JobEntry) -> int:
    return erased.outcome_us + duration_us(_ADE_GRACE)


def _erase_without_reenrollment(s: Situation) -> JobEntry | None:
    """Return the last successful reinstall or reimage, if it erased and no enrollment followed.

    None otherwise, also if there was none.
    """
    last = last_reinstall(s)
    if last is None or not last.erases or s.device.enrolled_since(last.since_us):
        return None
    return last
