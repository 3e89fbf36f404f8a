"""Read jobs, approvals and queries back from signed bytes.

An executor acts only on the job in the signed bytes. The readable copy beside them serves people
and logs, and must equal it.
"""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import ValidationError

from schemas.events.control import Approval
from schemas.jobs import Job
from schemas.queries import MacQuery
from schemas.signing import (
    APPROVAL_PAYLOAD,
    JOB_PAYLOAD,
    QUERY_PAYLOAD,
    SignatureError,
    Signed,
    verify,
    verify_signer,
)

PublicKeys = Mapping[str, Ed25519PublicKey]


def verify_job(signed: Signed, keys: PublicKeys) -> Job:
    """Return the job in the envelope.

    Raises SignatureError if none of `keys` (by key id) signed it as a job, or if the signed bytes
    are not a valid job.
    """
    return verify_job_signer(signed, keys)[0]


def verify_job_signer(signed: Signed, keys: PublicKeys) -> tuple[Job, str]:
    """Return the job in the envelope, and the id of the key that signed it.

    Raises SignatureError as `verify_job` does.
    """
    payload, keyid = verify_signer(signed, JOB_PAYLOAD, keys)
    try:
        return Job.model_validate_json(payload), keyid
    except ValidationError as error:
        raise SignatureError("the signed bytes are not a job") from error


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


def verify_query(signed: Signed, keys: PublicKeys) -> MacQuery:
    """Return the query in the envelope.

    Raises SignatureError if none of `keys` (by key id) signed it as a query, or if the signed bytes
    are not a valid query.
    """
    payload = verify(signed, QUERY_PAYLOAD, keys)
    try:
        return MacQuery.model_validate_json(payload)
    except ValidationError as error:
        raise SignatureError("the signed bytes are not a query") from error
