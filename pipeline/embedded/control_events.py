"""The control events of operators: policy, halts, approvals, resets, identities, strikes. Pure."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.payload_signing import sign_approval
from pipeline.policy.file import policy_digest
from schemas.decisions import Decision, Reason
from schemas.envelope import (
    ApprovalDeniedEvent,
    ApprovalGrantedEvent,
    AttemptsResetEvent,
    HaltClearedEvent,
    HaltSetEvent,
    IdentitySettledEvent,
    InventoryEvent,
    PolicyChangedEvent,
    StrikeClearedEvent,
    StrikeSetEvent,
)
from schemas.events.control import (
    Approval,
    ApprovalDenied,
    AttemptsReset,
    HaltCleared,
    HaltScope,
    HaltSet,
    IdentitySettled,
    PolicyChanged,
    StrikeCleared,
    StrikeSet,
)
from schemas.events.inventory import InventoryReported
from schemas.ids import event_id
from schemas.jobs import Action

_SOURCE: Final = "/drydock/people"
DESTROYS: Final = "all data on the Mac"


def policy_changed(text: str, by: str, now: datetime, why: str | None = None) -> PolicyChangedEvent:
    """Return the event that puts the policy with this text in force.

    `by` and `why` are the name and reason of the person who changes it. The text is not checked
    here.
    """
    digest = policy_digest(text)
    return PolicyChangedEvent(
        id=event_id("policy", digest, now.isoformat()),
        source=_SOURCE,
        subject="policy",
        time=now,
        data=PolicyChanged(digest=digest, text=text, by=by, why=why),
    )


def halt_set(
    scope: HaltScope, by: str, why: str, until: datetime | None, now: datetime
) -> HaltSetEvent:
    """Return the event that halts new jobs in this scope.

    `by` and `why` are the person's name and reason, for the record. The halt ends at `until`; with
    None it lasts until it is cleared.
    """
    return HaltSetEvent(
        id=event_id("halt", scope.key, by, now.isoformat()),
        source=_SOURCE,
        subject=scope.key,
        time=now,
        data=HaltSet(scope=scope, by=by, why=why, until=until),
    )


def halt_cleared(
    scope: HaltScope, by: str, now: datetime, why: str | None = None
) -> HaltClearedEvent:
    """Return the event that clears the halt of exactly this scope.

    `by` and `why` are the person's name and reason, for the record.
    """
    return HaltClearedEvent(
        id=event_id("resume", scope.key, by, now.isoformat()),
        source=_SOURCE,
        subject=scope.key,
        time=now,
        data=HaltCleared(scope=scope, by=by, why=why),
    )


def attempts_reset(reset: AttemptsReset, now: datetime) -> AttemptsResetEvent:
    """Return the event that resets attempts as of `now`."""
    return AttemptsResetEvent(
        id=event_id("attempts reset", reset.key, reset.by, now.isoformat()),
        source=_SOURCE,
        subject=reset.scope.key,
        time=now,
        data=reset,
    )


def identity_settled(settled: IdentitySettled, now: datetime) -> IdentitySettledEvent:
    """Return the event that settles the identity of a Mac, by its reports up to `now`."""
    return IdentitySettledEvent(
        id=event_id("identity", settled.settlement, settled.key, settled.by, now.isoformat()),
        source=_SOURCE,
        subject=settled.key,
        time=now,
        data=settled,
    )


def strikes_set(struck: StrikeSet, now: datetime) -> StrikeSetEvent:
    """Return the event that strikes statements about advisories."""
    keys = [one.scope.key for one in struck.strikes]
    return StrikeSetEvent(
        id=event_id("strike", *keys, struck.by, now.isoformat()),
        source=_SOURCE,
        subject="strikes",
        time=now,
        data=struck,
    )


def strikes_cleared(cleared: StrikeCleared, now: datetime) -> StrikeClearedEvent:
    """Return the event that ends strikes."""
    keys = [one.key for one in cleared.scopes]
    return StrikeClearedEvent(
        id=event_id("strike ended", *keys, cleared.by, now.isoformat()),
        source=_SOURCE,
        subject="strikes",
        time=now,
        data=cleared,
    )


def described(udid: str, stated: Mapping[str, Any], by: str, now: datetime) -> InventoryEvent:
    """Return the inventory report in which a person states these fields of a Mac.

    `by` is the person's name, which becomes the end of the event's source.
    """
    return InventoryEvent(
        id=event_id("described", udid, by, now.isoformat()),
        source=f"{_SOURCE}/{by}",
        subject=udid,
        time=now,
        data=InventoryReported(source="admin", udid=udid, **stated),
    )


def approval_granted(
    decision: Decision,
    by: str,
    now: datetime,
    lasts: timedelta,
    key: Ed25519PrivateKey,
    why: str | None = None,
) -> ApprovalGrantedEvent:
    """Return the event that approves this decision's erasing job, signed with `key`.

    `by` and `why` are the approver's name and reason. The approval expires `lasts` after `now`.
    Raises ValueError if the decision does not wait for approval or its job erases nothing.
    """
    if decision.reason is not Reason.AWAITING_APPROVAL or decision.job_id is None:
        raise ValueError(
            f"{decision.udid} awaits no approval: its decision has reason {decision.reason}"
        )
    action: Action | None = decision.action
    if action is not Action.REINSTALL and action is not Action.REIMAGE:
        raise ValueError(f"{decision.udid} awaits no approval: {action} erases nothing")
    granted = sign_approval(
        Approval(
            udid=decision.udid,
            job_id=decision.job_id,
            action=action.value,
            by=by,
            expires_at=now + lasts,
            serial=decision.serial,
            method=None if decision.method is None else decision.method.value,
            destroys=DESTROYS,
            why=why,
        ),
        key,
    )
    return ApprovalGrantedEvent(
        id=event_id("approval", decision.job_id, by, now.isoformat()),
        source=_SOURCE,
        subject=decision.udid,
        time=now,
        data=granted,
    )


def approval_withdrawn(approval: Approval, by: str, why: str, now: datetime) -> ApprovalDeniedEvent:
    """Return the event that withdraws this approval; `by` and `why` are for the record."""
    return ApprovalDeniedEvent(
        id=event_id("approval withdrawn", approval.job_id, by, now.isoformat()),
        source=_SOURCE,
        subject=approval.udid,
        time=now,
        data=ApprovalDenied(udid=approval.udid, job_id=approval.job_id, by=by, why=why),
    )
