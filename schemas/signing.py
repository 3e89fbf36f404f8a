"""Ed25519 signatures over exact bytes, in DSSE envelopes.

DSSE signs the payload's bytes together with its type, so a payload is verified before it is parsed
(github.com/secure-systems-lab/dsse, envelope.md and protocol.md).
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Annotated, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import Field, StringConstraints

from schemas.model import WireModel

JOB_PAYLOAD: Final = "application/vnd.drydock.job.v1+json"
APPROVAL_PAYLOAD: Final = "application/vnd.drydock.approval.v1+json"
QUERY_PAYLOAD: Final = "application/vnd.drydock.query.v1+json"
_MAX_SIGNATURES: Final = 8
_LONGEST_PAYLOAD: Final = 256 * 1024


class SignatureError(ValueError):
    """The envelope has no valid signature of a known key, or another payload than expected."""


class Signature(WireModel):
    """One signature: the key's id, and the signature's 64 bytes in base64."""

    keyid: Annotated[str, StringConstraints(max_length=64)]
    sig: Annotated[str, StringConstraints(max_length=128)]


class Signed(WireModel):
    """A DSSE envelope: the payload in base64, its media type, and its signatures."""

    payloadType: Annotated[str, StringConstraints(max_length=128)]  # noqa: N815 - DSSE's name
    payload: Annotated[str, StringConstraints(max_length=_LONGEST_PAYLOAD)]
    signatures: Annotated[tuple[Signature, ...], Field(min_length=1, max_length=_MAX_SIGNATURES)]


def key_id(public: Ed25519PublicKey) -> str:
    """Return a public key's id: the first 16 hex digits of the SHA-256 of its raw bytes."""
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def bytes_to_sign(payload_type: str, payload: bytes) -> bytes:
    """Return the bytes that DSSE signs: its pre-authentication encoding of type and payload."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def verify(envelope: Signed, payload_type: str, keys: Mapping[str, Ed25519PublicKey]) -> bytes:
    """Return the payload, as `verify_signer` does. Raises SignatureError."""
    return verify_signer(envelope, payload_type, keys)[0]


def verify_signer(
    envelope: Signed, payload_type: str, keys: Mapping[str, Ed25519PublicKey]
) -> tuple[bytes, str]:
    """Return the payload's bytes if one of `keys` (by key id) signed them as `payload_type`.

    One valid signature is enough. Raises SignatureError without one, for another payload type, and
    for a payload that is not base64. The payload is not parsed here.
    """
    if envelope.payloadType != payload_type:
        raise SignatureError(f"payload type is not {payload_type}")
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError("payload is not base64") from error
    message = bytes_to_sign(payload_type, payload)
    for signature in envelope.signatures:
        public = keys.get(signature.keyid)
        if public is None:
            continue
        try:
            public.verify(base64.b64decode(signature.sig, validate=True), message)
        except (InvalidSignature, binascii.Error, ValueError):
            continue
        return payload, signature.keyid
    raise SignatureError("no valid signature of a known key")
