"""Acceptance or refusal of a feed's next document. Feeds are sometimes wrong.

| document | outcome | state of the feed |
| --- | --- | --- |
| has events, or dead letters not yet known | `accepted` | replaced |
| has neither | `unchanged` | replaced |
| cannot be read, or its state is too large | `unreadable` | kept |
| lost too many entries | `truncated` | kept |
| is older than the last accepted one | `stale` | kept |

A refused document adds only digests of its dead letters to the state. Each dead letter is returned
once, not again at each fetch. After an accepted or unchanged document without that error it is new
again. A stale document gives no dead letters and leaves the state as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from pipeline.ingest.feed_diff import FeedDiff
from pipeline.ingest.sources import FEED_DIFFS
from pipeline.ingest.translation import PayloadError
from schemas.dead_letters import DeadLetter, DeadLetterCode, make_dead_letter
from schemas.envelope import MAX_EVENT_BYTES, AdvisoryRetractedEvent, Event
from schemas.feeds import FeedState
from schemas.ids import event_id

# Old entries leave a feed one at a time, and Apple retracts at most the releases of one day, one
# for each line. A larger loss means that the feed is broken.
_MIN_LISTED_SHARE: Final = 0.5
_MAX_RETRACTED: Final = 3
# A feed that is broken in a new way at each fetch must not fill its state.
_MAX_DIGESTS: Final = 2_000


class FeedOutcome(StrEnum):
    """The outcome of one fetch of a feed."""

    ACCEPTED = "accepted"
    """The document has news: events, or dead letters that are not known yet."""
    UNCHANGED = "unchanged"
    """The document has no news."""
    UNREADABLE = "unreadable"
    """Refused: this is not a document of the feed, or its state is too large."""
    TRUNCATED = "truncated"
    """Refused: too many entries of the feed are missing."""
    STALE = "stale"
    """Refused: a newer document of the feed was accepted before."""
    UNREACHABLE = "unreachable"
    """No document was received."""


REFUSALS: Final = frozenset({FeedOutcome.UNREADABLE, FeedOutcome.TRUNCATED, FeedOutcome.STALE})


@dataclass(frozen=True, slots=True)
class ReviewedDocument:
    """The outcome for one document, with the events and dead letters to publish.

    `state` is the feed's state from now on; `detail` explains a refusal, and is "" otherwise. A
    refused document has no events, and a stale one no dead letters. `dead_letters` are those that
    the state before did not know.
    """

    outcome: FeedOutcome
    state: FeedState
    events: tuple[Event, ...] = ()
    dead_letters: tuple[DeadLetter, ...] = ()
    detail: str = ""


def review(
    raw: bytes,
    state: FeedState,
    *,
    origin: str,
    now: datetime,
    fixed: frozenset[str] = frozenset(),
    accept_losses: bool = False,
    max_state_bytes: int = MAX_EVENT_BYTES,
) -> ReviewedDocument:
    """Return the outcome for the next document of a feed, with its events and new dead letters.

    The outcome is accepted, unchanged, unreadable, truncated or stale. `state` is the feed's state
    before the document, `now` the time of receipt. `fixed` are the CVEs that Apple's releases are
    known to fix. With `accept_losses` a document is never truncated: an operator has checked that
    the missing entries are gone. A document is unreadable also if the state after it would be over
    `max_state_bytes`, or if its translation fails with a bug. Pure; raises nothing for any bytes.
    """
    source = state.source

    def letter(code: DeadLetterCode, detail: str) -> DeadLetter:
        error = PayloadError(code, detail, "$")
        # Feeds are public: they contain no secrets.
        return make_dead_letter(
            error, raw, source=source, origin=origin, received_at=now, redacted=raw
        )

    try:
        feed_diff = FEED_DIFFS[source](
            raw, origin=origin, received_at=now, state=state, fixed=fixed
        )
    except Exception as error:  # noqa: BLE001 - the handler's top: our bug refuses one document
        bug = letter(DeadLetterCode.BUG, f"{type(error).__name__}: {error}")
        return _refusal(FeedOutcome.UNREADABLE, state, [bug])
    letters = feed_diff.translation.dead_letters
    if feed_diff.state is None:
        return _refusal(FeedOutcome.UNREADABLE, state, letters)
    if _is_stale(feed_diff.state, state):
        detail = (
            f"the document is of {feed_diff.state.document_at}, "
            f"and one of {state.document_at} was accepted before"
        )
        return ReviewedDocument(FeedOutcome.STALE, state, detail=detail)
    truncation = None if accept_losses else _truncation(feed_diff, state)
    if truncation is not None:
        return _refusal(
            FeedOutcome.TRUNCATED, state, [letter(DeadLetterCode.BAD_VALUE, truncation)]
        )
    new = [one for one in letters if _digest(one) not in state.dead_letter_digests]
    after = feed_diff.state.model_copy(update={"dead_letter_digests": _digests(letters)})
    if len(after.model_dump_json()) > max_state_bytes:
        detail = f"the feed's state would take more than {max_state_bytes} bytes"
        large = letter(DeadLetterCode.TOO_LARGE, detail)
        return _refusal(FeedOutcome.UNREADABLE, state, [large])
    events = feed_diff.translation.events
    outcome = FeedOutcome.ACCEPTED if events or new else FeedOutcome.UNCHANGED
    return ReviewedDocument(outcome, after, events, tuple(new))


def _is_stale(new: FeedState, old: FeedState) -> bool:
    """Return True if both states have a `document_at` and that of `new` is earlier."""
    return (
        new.document_at is not None
        and old.document_at is not None
        and new.document_at < old.document_at
    )


def _truncation(feed_diff: FeedDiff, before: FeedState) -> str | None:
    """Return the reason why the document counts as truncated; None if it does not.

    It does if it lists no entries, or less than half of the entries of the document before, or if
    it retracts more than three releases. The reason gives these numbers. The state of `feed_diff`
    must not be None.
    """
    assert feed_diff.state is not None
    listed = feed_diff.state.listed
    if not listed or listed < before.listed * _MIN_LISTED_SHARE:
        return f"the document lists {listed} entries, the one before listed {before.listed}"
    retracted = sum(isinstance(one, AdvisoryRetractedEvent) for one in feed_diff.translation.events)
    if retracted > _MAX_RETRACTED:
        return f"the document retracts {retracted} releases at once"
    return None


def _refusal(
    outcome: FeedOutcome, state: FeedState, letters: Iterable[DeadLetter]
) -> ReviewedDocument:
    """Return a refusal with those of `letters` that the state does not know yet.

    The refusal's state is `state` with the digests of these letters added, at most _MAX_DIGESTS in
    all. Its detail has path and detail of all `letters`, also of the known ones.
    """
    given = tuple(letters)
    new = [one for one in given if _digest(one) not in state.dead_letter_digests]
    # The digests of accepted documents are kept: their dead letters must not be returned again.
    digests = tuple(sorted({*state.dead_letter_digests, *_digests(new)}))[:_MAX_DIGESTS]
    detail = "; ".join(f"{one.where}: {one.detail}" for one in given)
    after = state.model_copy(update={"dead_letter_digests": digests})
    return ReviewedDocument(outcome, after, dead_letters=tuple(new), detail=detail)


def _digests(letters: Iterable[DeadLetter]) -> tuple[str, ...]:
    """Return the digests of these dead letters, sorted and without repeats."""
    return tuple(sorted({_digest(one) for one in letters}))


def _digest(letter: DeadLetter) -> str:
    """Return a digest of code, path and detail; not of the bytes, whose dates always change."""
    return event_id(letter.code, letter.where, letter.detail)
