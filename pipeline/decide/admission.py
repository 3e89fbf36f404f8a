"""Which well-formed events are believed at all: those that would change what everybody is told
to do must be what they claim."""

from pipeline.decide.policy_file import PolicyError, policy_digest, read_policy
from schemas.envelope import ApprovalGrantedEvent, Event, JobIssuedEvent, PolicyChangedEvent
from schemas.signed_payloads import PublicKeys, verify_approval, verify_job
from schemas.signing import SignatureError


def reject_reason(event: Event, *, jobs: PublicKeys, approvals: PublicKeys) -> str | None:
    """What is wrong with an event that no schema sees; None if it may be folded. The keys are
    those that are believed for orders and for approvals."""
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
    if policy_digest(event.data.text) != event.data.digest:
        return "the policy's digest is not that of its text"
    try:
        read_policy(event.data.text)
    except PolicyError as error:
        return f"the policy is invalid: {error}"
    return None
