"""The result of a translation: events, and dead letters for the parts that cannot be used."""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.envelope import Event
from schemas.ids import clean_text

MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024
MAX_KEPT_BYTES: Final = 256 * 1024


class PayloadError(ValueError):
    """A payload, or a part of it, that cannot be translated.

    `code` and `detail` give the reason. `where` is the path in the payload (`$.udid`, `line 3`); it
    is empty if the error has no path.
    """

    def __init__(self, code: DeadLetterCode, detail: str, where: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.where = where


@dataclass(frozen=True, slots=True)
class Translation:
    """The events to publish and the dead letters to keep.

    Every entry of a payload gives one of them, except in a feed the entries about other systems or
    vendors and those without news. An idle poll of a user channel is a dead letter `user_channel`.
    """

    events: tuple[Event, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()

    @staticmethod
    def join(parts: "Iterable[Translation]") -> "Translation":
        """Return the events and dead letters of all parts, in order."""
        kept = list(parts)
        return Translation(
            tuple(event for part in kept for event in part.events),
            tuple(letter for part in kept for letter in part.dead_letters),
        )

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)


def dead_letter(
    error: PayloadError,
    raw: bytes,
    *,
    source: str,
    origin: str,
    received_at: datetime,
    redacted: bytes | None = None,
) -> DeadLetter:
    """Return a dead letter for these bytes, with the code, detail and path of `error`.

    The result has the hash and size of `raw`, and as its own `raw` the base64 of `redacted`, the
    bytes without secrets. That is None if `redacted` is None, because the bytes could not be
    searched for secrets, or is over MAX_KEPT_BYTES. Texts are cleaned and cut to 1,024 characters.
    """
    kept = redacted if redacted is not None and len(redacted) <= MAX_KEPT_BYTES else None
    return DeadLetter(
        code=error.code,
        detail=clean_text(error.detail),
        where=clean_text(error.where),
        source=source,
        origin=clean_text(origin),
        received_at=received_at,
        raw=None if kept is None else base64.b64encode(kept).decode(),
        raw_sha256=hashlib.sha256(raw).hexdigest(),
        raw_size=len(raw),
    )
