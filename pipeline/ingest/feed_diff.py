"""Comparison of a feed's next document with the state that earlier documents left."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline.ingest.translation import Translation
from schemas.feeds import FeedSource, FeedState
from schemas.ids import clean_text


@dataclass(frozen=True, slots=True)
class FeedDiff:
    """The news in one document of a feed, and the feed's state after that document.

    `translation` has the events and the dead letters. `state` is None if the document as a whole
    cannot be read. The `dead_letter_digests` of `state` are empty: `feed_review.review` sets them.
    """

    translation: Translation
    state: FeedState | None


class DiffFeed(Protocol):
    """The function that compares one feed's documents. Pure; it raises nothing for any bytes."""

    def __call__(
        self,
        raw: bytes,
        *,
        origin: str,
        received_at: datetime,
        state: FeedState,
        fixed: frozenset[str] = frozenset(),
    ) -> FeedDiff:
        """Return the news of the document `raw`, and the feed's state after this document.

        `state` is the feed's state before the document. The state after it is None if the document
        as a whole cannot be read; then there are only dead letters. `fixed` are the CVEs that
        Apple's releases are known to fix: a catalogue with CVEs of many vendors does not show which
        of them concern Macs.
        """


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
    """Return the news of the document `raw` since `previous`, with the dead letters of `raw`.

    `raw` and `previous` are the bytes of two documents of the feed that `diff` compares. Without
    `previous`, every entry of `raw` is news. If `previous` as a whole cannot be read, every entry
    is news too, and the dead letters of `previous` come first, each with a detail that starts with
    `previous: `. A repeated change is harmless, a missed change is not.
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
