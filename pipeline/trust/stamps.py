"""Stamps of records: an HMAC that shows which programs admitted an event, over all of its bytes.

The gateway and the feeds write the input topics; workers accept only records with a valid stamp.
The stamp is the last member of the JSON object, so that it covers `sender` and `receivedat`, and a
record that is copied unchanged keeps it.
"""

import base64
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from schemas.signed_records import STAMP_BYTES, STAMP_CLOSING, STAMP_OPENING, STAMP_TAG_LENGTH

_DIGEST: Final = "sha256"


@dataclass(frozen=True, slots=True)
class Stamps:
    """The keys of stamps. The first one stamps; all are valid, so that a key can be replaced."""

    keys: Sequence[bytes]

    def __repr__(self) -> str:
        """Return the number of keys; they are not shown."""
        return f"Stamps({len(self.keys)} keys)"

    def stamp(self, raw: bytes) -> bytes:
        """Return these bytes of a JSON object that is not empty, with a stamp."""
        head = raw.removesuffix(b"}")
        assert len(head) == len(raw) - 1, "a JSON object"
        return head + STAMP_OPENING + _tag(self.keys[0], head) + STAMP_CLOSING

    def is_valid(self, raw: bytes) -> bool:
        """Return True if the bytes end with a stamp under one of the keys."""
        head, stamp = raw[:-STAMP_BYTES], raw[-STAMP_BYTES:]
        return any(
            hmac.compare_digest(STAMP_OPENING + _tag(key, head) + STAMP_CLOSING, stamp)
            for key in self.keys
        )


def _tag(key: bytes, head: bytes) -> bytes:
    digest = hmac.digest(key, head, _DIGEST)
    return base64.urlsafe_b64encode(digest)[:STAMP_TAG_LENGTH]
