"""Policies, halts, approvals and resets of attempts, and their events."""

from datetime import datetime
from typing import Any, Literal

from pipeline.policy.file import policy_digest
from pipeline.policy.model import Policy
from pipeline.state.statements import identity_of
from pipeline.state.strikes import content_sha256
from schemas.envelope import (
    AdvisoryEvent,
    ApprovalDeniedEvent,
    ApprovalGrantedEvent,
    AttemptsResetEvent,
    HaltClearedEvent,
    HaltSetEvent,
    IdentitySettledEvent,
    PolicyChangedEvent,
    StrikeClearedEvent,
    StrikeSetEvent,
)
from schemas.events.control import (
    ApprovalGranted,
    AttemptsReset,
    HaltScope,
    HaltSet,
    IdentitySettled,
    ResetScope,
    Strike,
    StrikeCleared,
    StrikeSet,
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

    It trusts inventory reports alone (`blast_radius.confirmed_only`).
    `settings` replace whole top-level parts.
    """
    given = {
        "sites": {"london": {"time_zone": "Europe/London"}},
        "follow_up": {"compliant": False},
        "blast_radius": {"confirmed_only": False},
    } | settings
    return Policy.model_validate(given, by_alias=True)


NIGHTS = ({"from": "22:00", "to": "04:00"},)
POLICY_TEXT = """\
version: 1
blast_radius: {jobs_per_hour: null, confirmed_only: false}
sites:
  london: {time_zone: Europe/London, max_jobs: 2}
  tokyo: {time_zone: Asia/Tokyo, max_jobs: 2}
default_site: london
follow_up: {compliant: false}
"""


def halt(
    *,
    site: str | None = None,
    action: Literal["update", "reinstall", "reenroll"] | None = None,
    advisory: str | None = None,
    until: datetime | None = None,
) -> HaltSet:
    """Return a halt of everything, of a site, an action at a site, or an advisory."""
    everything = site is None and advisory is None
    scope = HaltScope(everything=everything, site=site, action=action, advisory_id=advisory)
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


def strike_of(stated: AdvisoryEvent, field: str | None = None, value: str | None = None) -> Strike:
    """Return the strike of what an advisory event states, or of a part of it."""
    given = {
        "advisory_id": identity_of(stated.data),
        "source": stated.data.source,
        "field": field,
        "value": value,
        "sha256": content_sha256(stated.data, field) if value is None else None,
    }
    return Strike.model_validate(given)


def struck(stated: AdvisoryEvent, when: datetime = NOW, **part: str) -> StrikeSetEvent:
    """Return the event that strikes what an advisory event states, or a part of it."""
    data = StrikeSet(strikes=(strike_of(stated, **part),), by="ada", why="invented")
    event: StrikeSetEvent = make_event(StrikeSetEvent, "strikes", when, data)
    return event


def restored(stated: AdvisoryEvent, when: datetime = NOW, **part: str) -> StrikeClearedEvent:
    """Return the event that ends such a strike."""
    data = StrikeCleared(scopes=(strike_of(stated, **part).scope,), by="ada", why="confirmed")
    event: StrikeClearedEvent = make_event(StrikeClearedEvent, "strikes", when, data)
    return event
