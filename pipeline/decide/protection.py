"""Macs that Drydock leaves alone, and what protects the others from some jobs.

| the Mac is | it gets |
| --- | --- |
| known by serial number only | nothing: `udid_unknown` |
| retired, or replaced by another Mac with its serial number | nothing: `retired` |
| enrolled by its owner | nothing: `user_enrolled` |
| stated to be personal | nothing: `personal` |
| enrolled, but not by an MDM server that reports here, and by nothing the company's | no job |
| never to be erased | no job that erases |
| excluded by the policy (`sites.*.destructive`) | no reinstall and no job that erases |
| returned as a loan, but stated to be the company's | no erase for the return |
| in conflict with another Mac about an identifier | no reinstall and no job that erases |

Ownership, retirement and `never_erase` count from the source `admin` only (`InventoryReported`).
"""

from typing import Final

from pipeline.decide.needs.need import Need
from pipeline.decide.situation import Situation
from schemas.decisions import Reason
from schemas.jobs import SSH_METHODS, Action, Method, Permit, is_destructive

# The reason for which a job must not be sent, and the detail of its gate; None for no objection.
Objection = tuple[Reason, str] | None
_DESTRUCTIVE: Final = frozenset({Action.REINSTALL, Action.REIMAGE})
OBJECTIONS: Final = frozenset(
    {
        Reason.OWNER_UNKNOWN,
        Reason.NEVER_ERASE,
        Reason.NOT_A_LOAN,
        Reason.IDENTITY_CONFLICT,
    }
)
LEFT_ALONE: Final = frozenset(
    {Reason.UDID_UNKNOWN, Reason.RETIRED, Reason.USER_ENROLLED, Reason.PERSONAL}
)


def left_alone(s: Situation) -> Reason | None:
    """Return the reason for which this Mac gets nothing, whatever it lacks; None for most Macs."""
    device = s.device
    if device.is_partial:
        return Reason.UDID_UNKNOWN
    if is_retired(s):
        return Reason.RETIRED
    if device.is_user_enrolled:
        return Reason.USER_ENROLLED
    return Reason.PERSONAL if device.is_personal else None


def is_retired(s: Situation) -> bool:
    """Return True if a person retired the Mac, or another Mac replaced it."""
    return s.device.retired is True or s.identity.replaced_by is not None


def was_seen_after_retirement(s: Situation) -> bool:
    """Return True if a source reported a Mac after a person had retired it."""
    device = s.device
    return device.retired is True and device.last_seen_us > device.reported_us("retired")


def is_owner_unknown(s: Situation) -> bool:
    """Return True if the Mac is enrolled, but no known MDM server has it, nor is it the company's.

    A Mac enrolled by its owner gives the MDM server neither UDID nor serial number, so the record
    of its enrollment cannot be joined to its inventory reports. False if the policy excludes that.
    """
    device = s.device
    if not s.policy.mdm.user_enrollment:
        return False
    return bool(device.mdm_enrolled and not device.mdm_seen_us and not device.is_of_company)


def is_no_loan(s: Situation) -> bool:
    """Return True for a returned loan unit that is stated to be an ordinary Mac of the company."""
    return s.device.loan_returned_at is not None and s.device.ownership == "company"


def owner_objection(s: Situation, need: Need, *, erases: bool) -> Objection:
    """Return the objection of the Mac's owner to a job for this need."""
    if is_owner_unknown(s):
        return Reason.OWNER_UNKNOWN, "enrolled, but not by an MDM server that reports here"
    if erases and s.device.never_erase:
        return Reason.NEVER_ERASE, "never_erase was stated for this Mac"
    if need.reason is Reason.LOAN_RETURNED and is_no_loan(s):
        return Reason.NOT_A_LOAN, "ownership is company"
    return None


def permit_of(
    s: Situation, action: Action, method: Method | None, *, erases: bool
) -> Permit | None:
    """Return why the policy permits this work on the Mac.

    None for work that destroys nothing, if the policy excludes the Mac, and if it leaves the choice
    to the site's file.
    """
    rule = None if s.site is None else s.site.destructive
    if rule is None or not is_destructive(action, method, erases=erases):
        return None
    return rule.permit(s.device.udid, s.device.serial)


def is_locked(s: Situation, action: Action, method: Method | None, *, erases: bool) -> bool:
    """Return True for work that erases or reinstalls a Mac which the policy excludes from that."""
    if s.site is None or s.site.destructive is None:
        return False
    destroys = is_destructive(action, method, erases=erases)
    return destroys and permit_of(s, action, method, erases=erases) is None


def identity_objection(
    s: Situation, need: Need, method: Method | None, *, erases: bool
) -> Objection:
    """Return the objection to this job on a Mac whose identity is in conflict.

    Objectionable are destructive jobs, and those over SSH, which finds a Mac by its serial number.
    """
    conflicts = s.identity.conflicts
    if not conflicts or not (erases or need.action in _DESTRUCTIVE or method in SSH_METHODS):
        return None
    return Reason.IDENTITY_CONFLICT, "; ".join(f"{code}: {other}" for code, other in conflicts)
