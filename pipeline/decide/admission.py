"""Admission: checks of an event beyond its schema, made before the event is folded.

A policy, an approval or a job that is not genuine could change decisions for every Mac. A policy
must match its digest and be valid; an approval and a job must equal the bytes that were signed.
"""

from pipeline.policy.file import PolicyError, policy_digest, read_policy
from schemas.envelope import (
    ApprovalGrantedEvent,
    DeviceEvent,
    Event,
    JobIssuedEvent,
    PolicyChangedEvent,
)
from schemas.signed_payloads import PublicKeys, verify_approval, verify_job
from schemas.signing import SignatureError


def reject_reason(event: Event, *, jobs: PublicKeys, approvals: PublicKeys) -> str | None:
    """Return the reason for which a well-formed event must not be folded; None if it may be.

    `jobs` and `approvals` are the public keys that may sign jobs and approvals. Events of other
    types are always admitted.
    """
    if isinstance(event, DeviceEvent):
        return None
    if isinstance(event, PolicyChangedEvent):
        return _policy_problem(event)
    try:
        if isinstance(event, ApprovalGrantedEvent):
            granted = event.data
            same = verify_approval(granted.signed, approvals) == granted.approval
            return None if same else "the approval differs from the signed bytes"
        if isinstance(event, JobIssuedEvent):
            issued = event.data
            same = verify_job(issued.signed, jobs) == issued.job
            return None if same else "the job differs from the signed bytes"
    except SignatureError as error:
        return str(error)
    return None


def _policy_problem(event: PolicyChangedEvent) -> str | None:
    """Return the reason for which the policy is rejected; None if text and digest are valid."""
    if policy_digest(event.data.text) != event.data.digest:
        return "the policy's digest differs from the digest of its text"
    try:
        read_policy(event.data.text)
    except PolicyError as error:
        return f"the policy is invalid: {error}"
    return None
