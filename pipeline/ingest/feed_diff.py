"""The documents of a feed one after another: each is compared with all that the feed has said."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline.ingest.translation import Translation
from schemas.feeds import FeedSource, FeedState
from schemas.ids import clean_text


@dataclass(frozen=True, slots=True)
class FeedDiff:
    """What a document says that its feed had not said before, and the feed's state after it; None
    where the document as a whole cannot be read."""

    translation: Translation
    state: FeedState | None


class DiffFeed(Protocol):
    """How a feed is followed. Pure; raises nothing for any bytes."""

    def __call__(
        self,
        raw: bytes,
        *,
        origin: str,
        received_at: datetime,
        state: FeedState,
        fixed: frozenset[str] = frozenset(),
    ) -> FeedDiff:
        """Compare a document with the feed's state. `fixed` are CVEs that releases of Apple's are
        known to fix: a catalogue of many vendors' CVEs cannot tell which of them concern Macs."""


def translate_since(
    diff: DiffFeed,
    raw: bytes,
    previous: bytes | None,
    *,
    source: FeedSource,
    origin: str,
    received_at: datetime,
    fixed: frozenset[str] = frozenset(),
) -> Translation:
    """What a document says anew since another one, or all of it. Where `previous` cannot be read,
    that is a dead letter and all is given: a change told twice does no harm, one never told does.
    """
    state, letters = FeedState(source=source), []
    if previous is not None:
        before = diff(previous, origin=origin, received_at=received_at, state=state, fixed=fixed)
        if before.state is None:
            letters = [
                letter.model_copy(update={"detail": clean_text(f"previous: {letter.detail}")})
                for letter in before.translation.dead_letters
            ]
        else:
            state = before.state
    translation = diff(
        raw, origin=origin, received_at=received_at, state=state, fixed=fixed
    ).translation
    return Translation(translation.events, (*letters, *translation.dead_letters))
