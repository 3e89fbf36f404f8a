"""Signatures of control events, of withdrawals and of the records of Macs, over all their bytes.

The signature is the last member of the JSON object: `"signature":"<key id>.<base64url>"`. It signs
the bytes before it together with their type, in the encoding of DSSE, so a record is verified
before it is parsed. `pipeline/payload_signing.py` signs. A record that is copied unchanged keeps
its signature; its time is signed, so a copy is never newer than the original.

In a record of a Mac a stamp follows, `"stamp":"<base64url>"` (`pipeline/trust/stamps.py`): workers
have the secret key of stamps, agents have not. They verify the bytes before the stamp.
"""

import base64
import binascii
from typing import Final

from cryptography.exceptions import InvalidSignature

from schemas.signed_payloads import PublicKeys
from schemas.signing import SignatureError, bytes_to_sign

CONTROL_RECORD: Final = "application/vnd.drydock.control.v1+json"
# The halt of an action that Drydock itself sets: the key of jobs signs it, and can clear none.
AUTOMATIC_HALT_RECORD: Final = "application/vnd.drydock.automatic-halt.v1+json"
WITHDRAWAL_RECORD: Final = "application/vnd.drydock.withdrawal.v1+json"
REPORT_RECORD: Final = "application/vnd.drydock.report.v1+json"

_OPENING: Final = b',"signature":"'
_CLOSING: Final = b'"}'
_SEPARATOR: Final = b"."
_KEY_ID_LENGTH: Final = 16
# Base64url of 64 bytes, without its two signs of padding.
_SIGNATURE_LENGTH: Final = 86
SIGNATURE_BYTES: Final = (
    len(_OPENING) + _KEY_ID_LENGTH + len(_SEPARATOR) + _SIGNATURE_LENGTH + len(_CLOSING)
)
STAMP_OPENING: Final = b',"stamp":"'
STAMP_CLOSING: Final = b'"}'
# Base64url of 32 bytes, without its one sign of padding.
STAMP_TAG_LENGTH: Final = 43
STAMP_BYTES: Final = len(STAMP_OPENING) + STAMP_TAG_LENGTH + len(STAMP_CLOSING)


def with_signature(head: bytes, keyid: str, signature: bytes) -> bytes:
    """Return a record: `head` is a JSON object without its last brace, `signature` has 64 bytes."""
    encoded = base64.urlsafe_b64encode(signature)[:_SIGNATURE_LENGTH]
    return head + _OPENING + keyid.encode() + _SEPARATOR + encoded + _CLOSING


def signer_of(raw: bytes) -> str | None:
    """Return the id of the key that the record names as its signer; None without a signature.

    It is not verified.
    """
    member = raw[-SIGNATURE_BYTES:]
    if not member.startswith(_OPENING) or not member.endswith(_CLOSING):
        return None
    end = len(_OPENING) + _KEY_ID_LENGTH
    if member[end : end + 1] != _SEPARATOR:
        return None
    return member[len(_OPENING) : end].decode("ascii", errors="replace")


def without_stamp(raw: bytes) -> bytes:
    """Return a record without its stamp, or the record itself without one.

    The stamp is not checked, so nothing in its place may be parsed.
    """
    stamp = raw[-STAMP_BYTES:]
    has_stamp = stamp.startswith(STAMP_OPENING) and stamp.endswith(STAMP_CLOSING)
    return raw[:-STAMP_BYTES] + b"}" if has_stamp else raw


def verify_record(raw: bytes, record_type: str, keys: PublicKeys) -> str:
    """Return the id of the key that signed a record of this type.

    Raises SignatureError if none of `keys` (by key id) signed these bytes as such a record.
    """
    keyid = signer_of(raw)
    if keyid is None:
        raise SignatureError("the record has no signature")
    public = keys.get(keyid)
    if public is None:
        raise SignatureError("no known key signed the record")
    encoded = raw[-len(_CLOSING) - _SIGNATURE_LENGTH : -len(_CLOSING)]
    try:
        signature = base64.b64decode(encoded + b"==", altchars=b"-_", validate=True)
        # The last sign has four bits that are no part of the 64 bytes.
        if not base64.urlsafe_b64encode(signature).startswith(encoded):
            raise SignatureError("the record's signature is not in its one encoding")
        public.verify(signature, bytes_to_sign(record_type, raw[:-SIGNATURE_BYTES]))
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise SignatureError("the record's signature is not valid") from error
    return keyid
