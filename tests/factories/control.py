"""Policies, halts, approvals and resets of attempts, and their events."""

from datetime import datetime
from typing import Any

from pipeline.policy.file import policy_digest
from pipeline.policy.model import Policy
from schemas.envelope import (
    ApprovalDeniedEvent,
    ApprovalGrantedEvent,
    AttemptsResetEvent,
    HaltClearedEvent,
    HaltSetEvent,
    IdentitySettledEvent,
    PolicyChangedEvent,
)
from schemas.events.control import (
    ApprovalGranted,
    AttemptsReset,
    HaltScope,
    HaltSet,
    IdentitySettled,
    ResetScope,
)
from schemas.results import ErrorCode
from schemas.signing import Signature, Signed
from tests.factories.devices import UDID
from tests.factories.events import make_event
from tests.factories.times import DAY, NOW

SIGNED = Signed(
    payloadType="application/x-test", payload="e30=", signatures=(Signature(keyid="k", sig="cw=="),)
)


def policy(**settings: Any) -> Policy:
    """Return a policy with one site, London, without windows, and without the compliance check.

    `settings` replace whole top-level parts.
    """
    given = {
        "sites": {"london": {"time_zone": "Europe/London"}},
        "follow_up": {"compliant": False},
    } | settings
    return Policy.model_validate(given, by_alias=True)


NIGHTS = ({"from": "22:00", "to": "04:00"},)
POLICY_TEXT = """\
version: 1
sites:
  london: {time_zone: Europe/London, max_jobs: 2}
  tokyo: {time_zone: Asia/Tokyo, max_jobs: 2}
default_site: london
follow_up: {compliant: false}
"""


def halt(
    *,
    site: str | None = None,
    advisory: str | None = None,
    until: datetime | None = None,
) -> HaltSet:
    """Return a halt of everything, or of a site or an advisory."""
    everything = site is None and advisory is None
    scope = HaltScope(everything=everything, site=site, advisory_id=advisory)
    return HaltSet(scope=scope, by="ops", until=until)


def approval(
    job_id: str, *, action: str = "reinstall", udid: str = UDID, expires_at: datetime = NOW + DAY
) -> ApprovalGranted:
    """Return an approval of an erasing job; its signature is not valid."""
    return ApprovalGranted.model_validate(
        {
            "approval": {
                "udid": udid,
                "job_id": job_id,
                "action": action,
                "by": "ada",
                "expires_at": expires_at,
            },
            "signed": SIGNED,
        }
    )


def policy_changed(text: str = POLICY_TEXT, when: datetime = NOW - 50 * DAY) -> PolicyChangedEvent:
    """Return the event that puts a policy in force."""
    data = {"digest": policy_digest(text), "text": text, "by": "ada"}
    event: PolicyChangedEvent = make_event(PolicyChangedEvent, "policy", when, data)
    return event


def halted(when: datetime = NOW, **scope: Any) -> HaltSetEvent:
    """Return the event that sets a halt."""
    event: HaltSetEvent = make_event(HaltSetEvent, "halt", when, halt(**scope))
    return event


def halt_cleared(when: datetime = NOW, **scope: Any) -> HaltClearedEvent:
    """Return the event that clears a halt."""
    data = {"scope": halt(**scope).scope, "by": "ops"}
    event: HaltClearedEvent = make_event(HaltClearedEvent, "halt", when, data)
    return event


def granted(job_id: str, when: datetime = NOW, **values: Any) -> ApprovalGrantedEvent:
    """Return the event that grants an approval."""
    data = approval(job_id, **values)
    event: ApprovalGrantedEvent = make_event(ApprovalGrantedEvent, job_id, when, data)
    return event


def denied(job_id: str, udid: str = UDID, when: datetime = NOW) -> ApprovalDeniedEvent:
    """Return the event that denies an approval."""
    data = {"udid": udid, "job_id": job_id, "by": "ada"}
    event: ApprovalDeniedEvent = make_event(ApprovalDeniedEvent, job_id, when, data)
    return event


def reset(cause: ErrorCode | None = None, **scope: Any) -> AttemptsReset:
    """Return a reset of all failed attempts, or of those of a site or a Mac."""
    scope = scope or {"everything": True}
    return AttemptsReset(scope=ResetScope(**scope), cause=cause, by="ada", why="cable replaced")


def settled(
    settlement: str, device: str, other: str | None = None, when: datetime = NOW
) -> IdentitySettledEvent:
    """Return the event in which an operator settles the identity of a Mac."""
    data = IdentitySettled.model_validate(
        {"settlement": settlement, "device": device, "other": other, "by": "ada", "why": "seen it"}
    )
    event: IdentitySettledEvent = make_event(IdentitySettledEvent, data.key, when, data)
    return event


def attempts_reset(
    when: datetime = NOW, cause: ErrorCode | None = None, **scope: Any
) -> AttemptsResetEvent:
    """Return the event of a reset of failed attempts."""
    data = reset(cause, **scope)
    event: AttemptsResetEvent = make_event(AttemptsResetEvent, data.scope.key, when, data)
    return event
