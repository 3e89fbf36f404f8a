"""Jobs and approvals as signed bytes, and back.

What an executor does is what it read out of the signed bytes; the readable copy beside them is
for people and for the log, and must say the same.
"""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from schemas.events.control import Approval, ApprovalGranted
from schemas.jobs import Job, JobIssued, job_fields
from schemas.model import fast_json
from schemas.signing import APPROVAL_PAYLOAD, JOB_PAYLOAD, SignatureError, Signed, sign, verify

PublicKeys = Mapping[str, Ed25519PublicKey]


def sign_job(job: Job, key: Ed25519PrivateKey, *, fast_paths: bool = True) -> JobIssued:
    """The job with its signature, ready to be published. The signed bytes are those of pydantic."""
    if fast_paths:
        payload = fast_json(job_fields(job))
    else:
        payload = job.model_dump_json(exclude_none=True).encode()
    return JobIssued(job=job, signed=sign(payload, JOB_PAYLOAD, key))


def verify_job(signed: Signed, keys: PublicKeys) -> Job:
    """The job that one of these keys signed. Raises SignatureError."""
    payload = verify(signed, JOB_PAYLOAD, keys)
    try:
        return Job.model_validate_json(payload)
    except ValidationError as error:
        raise SignatureError("the signed bytes are not a job") from error


def sign_approval(approval: Approval, key: Ed25519PrivateKey) -> ApprovalGranted:
    """The approval with its approver's signature."""
    payload = approval.model_dump_json(exclude_none=True).encode()
    return ApprovalGranted(approval=approval, signed=sign(payload, APPROVAL_PAYLOAD, key))


def verify_approval(signed: Signed, keys: PublicKeys) -> Approval:
    """The approval that one of these keys signed. Raises SignatureError."""
    payload = verify(signed, APPROVAL_PAYLOAD, keys)
    try:
        return Approval.model_validate_json(payload)
    except ValidationError as error:
        raise SignatureError("the signed bytes are not an approval") from error
