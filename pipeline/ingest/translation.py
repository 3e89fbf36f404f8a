"""The result of a translation: events, and dead letters for the parts that cannot be used."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.envelope import Event

MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024


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
