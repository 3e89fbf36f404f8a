"""Sign jobs, approvals, queries and records, as the deciding side: a site has no code that signs.

`schemas/signed_payloads.py` and `schemas/signed_records.py` read the signed bytes back.
"""

import base64
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.events.control import Approval, ApprovalGranted
from schemas.fast.json_bytes import job_json
from schemas.jobs import Job, JobIssued
from schemas.queries import MacQuery
from schemas.signed_records import with_signature
from schemas.signing import (
    APPROVAL_PAYLOAD,
    JOB_PAYLOAD,
    QUERY_PAYLOAD,
    Signature,
    Signed,
    bytes_to_sign,
    key_id,
)


def sign_job(job: Job, key: Ed25519PrivateKey, *, fast_paths: bool = True) -> JobIssued:
    """Return the job with an envelope that `key` signed.

    The signed bytes equal `job.model_dump_json(exclude_none=True)`, with `fast_paths` or without.
    """
    payload = job_json(job) if fast_paths else job.model_dump_json(exclude_none=True).encode()
    return JobIssued(job=job, signed=sign(payload, JOB_PAYLOAD, key))


def sign_approval(approval: Approval, key: Ed25519PrivateKey) -> ApprovalGranted:
    """Return the approval with an envelope that `key`, the approver's, signed."""
    payload = approval.model_dump_json(exclude_none=True).encode()
    return ApprovalGranted(approval=approval, signed=sign(payload, APPROVAL_PAYLOAD, key))


def sign_query(query: MacQuery, key: Ed25519PrivateKey) -> Signed:
    """Return an envelope with the query that `key`, the one that signs jobs, signed."""
    return sign(query.model_dump_json(exclude_none=True).encode(), QUERY_PAYLOAD, key)


def sign_record(raw: bytes, record_type: str, key: Ed25519PrivateKey) -> bytes:
    """Return these bytes of a JSON object that is not empty, with a signature of `key`.

    `record_type` is that of `schemas/signed_records.py`.
    """
    head = raw.removesuffix(b"}")
    assert len(head) == len(raw) - 1, "a JSON object"
    return with_signature(head, _key_id_of(key), key.sign(bytes_to_sign(record_type, head)))


def sign(payload: bytes, payload_type: str, private: Ed25519PrivateKey) -> Signed:
    """Return an envelope with these bytes, their type, and one signature of `private` over both."""
    signature = private.sign(bytes_to_sign(payload_type, payload))
    sig = base64.b64encode(signature).decode()
    own = Signature(keyid=_key_id_of(private), sig=sig)
    return Signed(
        payloadType=payload_type, payload=base64.b64encode(payload).decode(), signatures=(own,)
    )


@lru_cache(maxsize=8)
def _key_id_of(private: Ed25519PrivateKey) -> str:
    """Return the `key_id` of the public half of `private`.

    Cached: one or two keys sign thousands of payloads.
    """
    return key_id(private.public_key())
