"""Whether a feed's next document is believed, and what of it is new. Feeds are sometimes wrong.

A document that is refused changes nothing: the one before it stays in force. What could not be
used is told once, not at every look at the same feed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from pipeline.ingest import gdmf, kev, sofa
from pipeline.ingest.feed_diff import DiffFeed, FeedDiff
from pipeline.ingest.translation import PayloadError, dead_letter
from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.envelope import MAX_EVENT_BYTES, AdvisoryRetractedEvent, Event
from schemas.feeds import FeedSource, FeedState
from schemas.ids import event_id

FEED_DIFFS: Final[Mapping[FeedSource, DiffFeed]] = {
    "sofa": sofa.diff,
    "gdmf": gdmf.diff,
    "kev": kev.diff,
}
# Entries fall off a feed's end one at a time, and Apple takes back at most what it released on one
# day, one for each line: what goes further is a broken feed.
_MIN_LISTED_SHARE: Final = 0.5
_MAX_RETRACTED: Final = 3
# A feed that is broken in another way at every look must not fill its state.
_MAX_DIGESTS: Final = 2_000


class FeedOutcome(StrEnum):
    """What became of a look at a feed."""

    ACCEPTED = "accepted"
    """It says something new, or holds something new that cannot be used."""
    UNCHANGED = "unchanged"
    """It says nothing new."""
    UNREADABLE = "unreadable"
    """Refused: not a document of this feed."""
    TRUNCATED = "truncated"
    """Refused: too much of what the feed listed is gone."""
    STALE = "stale"
    """Refused: the feed has said later things already."""
    UNREACHABLE = "unreachable"
    """No document came."""


REFUSALS: Final = frozenset({FeedOutcome.UNREADABLE, FeedOutcome.TRUNCATED, FeedOutcome.STALE})


@dataclass(frozen=True, slots=True)
class ReviewedDocument:
    """`state` is the feed's from now on; `detail` says why a document was refused."""

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
    """Take or refuse the next document of a feed. Pure; raises nothing for any bytes.

    `fixed` are CVEs that releases of Apple's are known to fix. `accept_losses`: somebody looked,
    and what is gone is gone. A document whose state is over `max_state_bytes` is refused.
    """
    source = state.source

    def letter(code: DeadLetterCode, detail: str) -> DeadLetter:
        error = PayloadError(code, detail, "$")
        # Feeds are public: nothing to cut out.
        return dead_letter(error, raw, source=source, origin=origin, received_at=now, redacted=raw)

    try:
        feed_diff = FEED_DIFFS[source](
            raw, origin=origin, received_at=now, state=state, fixed=fixed
        )
    except Exception as error:  # noqa: BLE001 - the handler's top: our bug costs one document
        bug = letter(DeadLetterCode.BUG, f"{type(error).__name__}: {error}")
        return _refusal(FeedOutcome.UNREADABLE, state, [bug])
    letters = feed_diff.translation.dead_letters
    if feed_diff.state is None:
        return _refusal(FeedOutcome.UNREADABLE, state, letters)
    if _is_stale(feed_diff.state, state):
        detail = f"of {feed_diff.state.document_at}, and one of {state.document_at} was taken"
        return ReviewedDocument(FeedOutcome.STALE, state, detail=detail)
    truncation = None if accept_losses else _truncation(feed_diff, state)
    if truncation is not None:
        return _refusal(
            FeedOutcome.TRUNCATED, state, [letter(DeadLetterCode.BAD_VALUE, truncation)]
        )
    new = [one for one in letters if _digest(one) not in state.dead_letter_digests]
    after = feed_diff.state.model_copy(update={"dead_letter_digests": _digests(letters)})
    if len(after.model_dump_json()) > max_state_bytes:
        large = letter(DeadLetterCode.TOO_LARGE, f"says more than {max_state_bytes} bytes can keep")
        return _refusal(FeedOutcome.UNREADABLE, state, [large])
    events = feed_diff.translation.events
    outcome = FeedOutcome.ACCEPTED if events or new else FeedOutcome.UNCHANGED
    return ReviewedDocument(outcome, after, events, tuple(new))


def _is_stale(new: FeedState, old: FeedState) -> bool:
    return (
        new.document_at is not None
        and old.document_at is not None
        and new.document_at < old.document_at
    )


def _truncation(feed_diff: FeedDiff, before: FeedState) -> str | None:
    assert feed_diff.state is not None
    listed = feed_diff.state.listed
    if not listed or listed < before.listed * _MIN_LISTED_SHARE:
        return f"lists {listed} entries, and {before.listed} before"
    retracted = sum(isinstance(one, AdvisoryRetractedEvent) for one in feed_diff.translation.events)
    if retracted > _MAX_RETRACTED:
        return f"takes {retracted} releases back at once"
    return None


def _refusal(
    outcome: FeedOutcome, state: FeedState, letters: Iterable[DeadLetter]
) -> ReviewedDocument:
    given = tuple(letters)
    new = [one for one in given if _digest(one) not in state.dead_letter_digests]
    # What was set aside of documents that were taken is still told.
    digests = tuple(sorted({*state.dead_letter_digests, *_digests(new)}))[:_MAX_DIGESTS]
    detail = "; ".join(f"{one.where}: {one.detail}" for one in given)
    after = state.model_copy(update={"dead_letter_digests": digests})
    return ReviewedDocument(outcome, after, dead_letters=tuple(new), detail=detail)


def _digests(letters: Iterable[DeadLetter]) -> tuple[str, ...]:
    return tuple(sorted({_digest(one) for one in letters}))


def _digest(letter: DeadLetter) -> str:
    """By what is wrong and where: a feed's dates move on with nothing mended."""
    return event_id(letter.code, letter.where, letter.detail)
