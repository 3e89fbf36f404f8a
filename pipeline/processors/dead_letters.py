"""Dead letters of a worker: the bytes of a record, and the offset where it was read. Pure."""

import base64
import hashlib
from datetime import datetime
from typing import Final

from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.ids import clean_text

# Events were redacted before they were published: their bytes can be kept.
MAX_KEPT_BYTES: Final = 256 * 1024
SOURCE: Final = "/drydock/worker"


def make_dead_letter(
    raw: bytes,
    code: DeadLetterCode,
    detail: str,
    *,
    origin: str,
    now: datetime,
    where: str = "",
) -> DeadLetter:
    """Return a dead letter of the record `raw`, received at `now`.

    If `raw` is longer than MAX_KEPT_BYTES, the letter has its size and SHA-256 only. `origin` is
    `topic/partition/offset`, or the UDID if deciding failed. `where` is the JSON path of the
    invalid part, or empty.
    """
    kept = len(raw) <= MAX_KEPT_BYTES
    return DeadLetter(
        code=code,
        detail=clean_text(detail),
        where=clean_text(where),
        source=SOURCE,
        origin=clean_text(origin),
        received_at=now,
        raw=base64.b64encode(raw).decode() if kept else None,
        raw_sha256=hashlib.sha256(raw).hexdigest(),
        raw_size=len(raw),
    )
