"""What could not be used, as dead letters with the coordinates it was read at. Pure."""

import base64
import hashlib
from datetime import datetime
from typing import Final

from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.ids import clean_text

# Events were redacted before they were published: their bytes may be kept.
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
    """A dead letter of these bytes; `origin` is `topic/partition/offset`."""
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
