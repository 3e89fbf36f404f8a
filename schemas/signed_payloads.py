"""Sign jobs and approvals, and read them back from signed bytes.

An executor acts only on the job in the signed bytes. The readable copy beside them serves people
and logs, and must equal it.
"""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from schemas.events.control import Approval, ApprovalGranted
from schemas.fast.models import fast_json
from schemas.jobs import Job, JobIssued, job_fields
from schemas.signing import APPROVAL_PAYLOAD, JOB_PAYLOAD, SignatureError, Signed, sign, verify

PublicKeys = Mapping[str, Ed25519PublicKey]


def sign_job(job: Job, key: Ed25519PrivateKey, *, fast_paths: bool = True) -> JobIssued:
    """Return the job with an envelope that `key` signed.

    The signed bytes equal `job.model_dump_json(exclude_none=True)`, with `fast_paths` or without.
    """
    if fast_paths:
        payload = fast_json(job_fields(job))
    else:
        payload = job.model_dump_json(exclude_none=True).encode()
    return JobIssued(job=job, signed=sign(payload, JOB_PAYLOAD, key))


def verify_job(signed: Signed, keys: PublicKeys) -> Job:
    """Return the job in the envelope.

    Raises SignatureError if none of `keys` (by key id) signed it as a job, or if the signed bytes
    are not a valid job.
    """
    payload = verify(signed, JOB_PAYLOAD, keys)
    try:
        return Job.model_validate_json(payload)
    except ValidationError as error:
        raise SignatureError("the signed bytes are not a job") from error


def sign_approval(approval: Approval, key: Ed25519PrivateKey) -> ApprovalGranted:
    """Return the approval with an envelope that `key`, the approver's, signed."""
    payload = approval.model_dump_json(exclude_none=True).encode()
    return ApprovalGranted(approval=approval, signed=sign(payload, APPROVAL_PAYLOAD, key))


def verify_approval(signed: Signed, keys: PublicKeys) -> Approval:
    """Return the approval in the envelope.

    Raises SignatureError if none of `keys` (by key id) signed it as an approval, or if the signed
    bytes are not a valid approval.
    """
    payload = verify(signed, APPROVAL_PAYLOAD, keys)
    try:
        return Approval.model_validate_json(payload)
    except ValidationError as error:
        raise SignatureError("the signed bytes are not an approval") from error
