"""Acceptance and refusal of a feed's documents, and the news in accepted ones."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.ingest import feed_review
from pipeline.ingest.feed_review import FeedOutcome, ReviewedDocument, review
from schemas.dead_letters import DeadLetterCode
from schemas.feeds import FeedSource, FeedState
from tests.factories.sofa import feed, line, release
from tests.unit.ingest import test_gdmf as apple
from tests.unit.ingest import test_kev as cisa

NOW = datetime(2026, 8, 10, tzinfo=UTC)
VERSIONS = [f"26.{number}" for number in range(9, -1, -1)]


def review_document(raw: bytes, state: FeedState | None = None, **values: Any) -> ReviewedDocument:
    given = state or FeedState(source="sofa")
    return review(raw, given, origin="feed", now=NOW, **values)


def after(*documents: bytes, source: FeedSource = "sofa") -> FeedState:
    """Return the state after these documents, which are all accepted."""
    state = FeedState(source=source)
    for document in documents:
        reviewed = review_document(document, state)
        assert reviewed.outcome in {FeedOutcome.ACCEPTED, FeedOutcome.UNCHANGED}
        state = reviewed.state
    return state


def sofa(*versions: Any, day: int = 1, **fields: Any) -> bytes:
    releases = [release(one) if isinstance(one, str) else one for one in versions]
    return feed(line("Tahoe 26", *releases), last_check=f"2026-02-{day:02}T08:00:00Z", **fields)


def subjects(reviewed: ReviewedDocument) -> list[tuple[str, str]]:
    return [(event.type.split(".")[2], event.subject) for event in reviewed.events]


ALL = sofa(*VERSIONS)


def test_every_release_of_the_first_document_is_published() -> None:
    reviewed = review_document(ALL)
    assert (reviewed.outcome, len(reviewed.events)) == (FeedOutcome.ACCEPTED, 10)
    assert (reviewed.state.listed, reviewed.dead_letters) == (10, ())


def test_a_document_with_only_a_new_check_time_is_unchanged() -> None:
    reviewed = review_document(sofa(*VERSIONS, day=2), after(ALL))
    assert (reviewed.outcome, reviewed.events) == (FeedOutcome.UNCHANGED, ())
    assert reviewed.state.document_at == datetime(2026, 2, 2, 8, tzinfo=UTC)


WRONG = [
    pytest.param(b"", "unreadable", DeadLetterCode.NOT_JSON, id="empty"),
    pytest.param(b"<html>log in here</html>", "unreadable", DeadLetterCode.NOT_JSON, id="portal"),
    pytest.param(ALL[: len(ALL) // 2], "unreadable", DeadLetterCode.NOT_JSON, id="cut-off"),
    pytest.param(b"{}", "unreadable", DeadLetterCode.BAD_SHAPE, id="another-document"),
    pytest.param(feed(), "unreadable", DeadLetterCode.BAD_SHAPE, id="no-lines"),
    pytest.param(sofa(day=3), "truncated", DeadLetterCode.BAD_VALUE, id="no-releases"),
    pytest.param(
        sofa(*VERSIONS[-4:], day=3), "truncated", DeadLetterCode.BAD_VALUE, id="most-lost"
    ),
    pytest.param(sofa(*VERSIONS[4:], day=3), "truncated", DeadLetterCode.BAD_VALUE, id="retracted"),
    pytest.param(
        sofa(*({"Build": "25A1"} for _ in VERSIONS), day=3),
        "truncated",
        DeadLetterCode.BAD_VALUE,
        id="mandatory-key-gone",
    ),
]


@pytest.mark.parametrize(("raw", "outcome", "code"), WRONG)
def test_a_refused_document_changes_nothing_and_is_reported_once(
    raw: bytes, outcome: str, code: DeadLetterCode
) -> None:
    before = after(ALL)
    reviewed = review_document(raw, before)
    assert (reviewed.outcome, reviewed.events) == (outcome, ())
    (letter,) = reviewed.dead_letters
    assert (letter.code, letter.source, letter.raw_size) == (code, "sofa", len(raw))
    assert letter.detail in reviewed.detail
    again = review_document(raw, reviewed.state)
    assert (again.outcome, again.dead_letters, again.state) == (outcome, (), reviewed.state)
    assert reviewed.state.model_copy(update={"dead_letter_digests": ()}) == before
    good = review_document(sofa("26.10", *VERSIONS, day=3), again.state)
    assert subjects(good) == [("published", "macOS-26.10")]
    assert review_document(raw, good.state).dead_letters, "another time is another incident"


def test_a_document_is_accepted_after_a_refused_first_one() -> None:
    reviewed = review_document(b"{")
    assert (reviewed.outcome, len(reviewed.dead_letters)) == (FeedOutcome.UNREADABLE, 1)
    assert len(review_document(ALL, reviewed.state).events) == 10


def test_a_truncated_document_is_accepted_with_accept_losses() -> None:
    reviewed = review_document(sofa(*VERSIONS[-4:], day=2), after(ALL), accept_losses=True)
    assert subjects(reviewed) == [("retracted", f"macOS-{one}") for one in VERSIONS[5::-1]]
    assert review_document(ALL, reviewed.state).outcome is FeedOutcome.STALE


def test_releases_of_one_day_may_be_retracted() -> None:
    reviewed = review_document(sofa(*VERSIONS[3:], day=2), after(ALL))
    assert subjects(reviewed) == [("retracted", f"macOS-{one}") for one in VERSIONS[2::-1]]


def test_a_stale_document_is_refused_without_dead_letter() -> None:
    state = after(sofa(*VERSIONS, day=2))
    reviewed = review_document(ALL, state)
    assert (reviewed.outcome, reviewed.state, reviewed.dead_letters) == (
        FeedOutcome.STALE,
        state,
        (),
    )
    assert "2026-02-01" in reviewed.detail


def test_a_feed_without_a_date_is_never_stale() -> None:
    """SOFA v1 has no date of its own, so its newest release may be retracted."""
    state = after(feed(line("26", *map(release, VERSIONS)), last_check=None))
    reviewed = review_document(
        feed(line("26", *map(release, VERSIONS[1:])), last_check=None), state
    )
    assert subjects(reviewed) == [("retracted", "macOS-26.9")]


def test_an_older_catalogue_is_refused() -> None:
    state = after(cisa.catalogue(cisa.entry(), released="2026-08-05T16:00:00Z"), source="kev")
    reviewed = review_document(cisa.catalogue(cisa.entry(), released="2026-08-04T16:00:00Z"), state)
    assert reviewed.outcome is FeedOutcome.STALE


def broken(version: str, **fields: Any) -> dict[str, Any]:
    """Return a release with an invalid CVE id."""
    return release(version, cves={"CVE-26": None}) | fields


def test_an_unreadable_part_is_reported_once_and_the_rest_is_used() -> None:
    first = review_document(sofa(broken("26.9"), *VERSIONS[1:]))
    assert (len(first.events), len(first.dead_letters)) == (10, 2), "listed, and the latest"
    # The same error again at another time and with another expiration date, and a new error.
    document = sofa(broken("26.9", ExpirationDate="2027-01-01"), *VERSIONS[1:], "26.10", day=2)
    second = review_document(document, first.state)
    assert (subjects(second), second.dead_letters) == ([("published", "macOS-26.10")], ())
    repaired = review_document(sofa(*VERSIONS, "26.10", day=3), second.state)
    assert (repaired.outcome, repaired.events) == (FeedOutcome.UNCHANGED, ())
    assert review_document(sofa(broken("26.9"), *VERSIONS[1:], day=4), repaired.state).dead_letters


def test_a_release_that_cannot_be_read_for_a_while_is_not_published_again() -> None:
    state = after(ALL)
    unreadable = review_document(sofa(release("26.x"), *VERSIONS[1:], day=2), state)
    assert (unreadable.events, len(unreadable.dead_letters)) == ((), 2)
    assert review_document(sofa(*VERSIONS, day=3), unreadable.state).events == ()


def test_a_device_list_that_goes_missing_is_remembered() -> None:
    """The device list is missing in one document, and a CVE is exploited in the next."""
    one: dict[str, Any] = {"SupportedDevices": ["J700AP"]}
    all_: dict[str, Any] = {"SupportedDevices": [f"J{number}AP" for number in range(5)]}
    listed = sofa(release("26.9", **one), release("26.8", **all_))
    forgotten = sofa(release("26.9"), release("26.8", **all_), day=2)
    exploited = release("26.9", exploited=("CVE-2026-1001",))
    reviewed = review_document(
        sofa(exploited, release("26.8", **all_), day=3), after(listed, forgotten)
    )
    (event,) = reviewed.events
    assert event.type == "drydock.advisory.severity_raised.v1"
    assert event.data.device_ids == ("J700AP",)


def test_an_offer_that_returns_gives_no_event() -> None:
    both = apple.response(apple.offer(), apple.offer("26.1", "25B78"))
    state = after(both, apple.response(apple.offer()), source="gdmf")
    assert review_document(both, state).events == ()


def test_a_cve_of_another_vendor_counts_once_a_release_is_known_to_fix_it() -> None:
    raw = cisa.catalogue(cisa.entry(), cisa.entry("CVE-2025-14174", vendorProject="Google"))
    state = after(raw, source="kev")
    assert [one.cves for one in state.snapshots] == [("CVE-2025-43529",)]
    reviewed = review_document(raw, state, fixed=frozenset({"CVE-2025-14174"}))
    assert subjects(reviewed) == [("severity_raised", "CVE-2025-14174")]
    assert review_document(raw, reviewed.state, fixed=frozenset({"CVE-2025-14174"})).events == ()
    assert review_document(raw, reviewed.state).events == ()


def test_a_bug_in_a_translator_refuses_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(feed_review, "FEED_DIFFS", {"sofa": fails})
    reviewed = review_document(ALL)
    assert (reviewed.outcome, reviewed.detail) == (FeedOutcome.UNREADABLE, "$: RuntimeError: a bug")
    assert reviewed.dead_letters[0].code is DeadLetterCode.BUG


def test_document_whose_state_is_too_large_is_refused() -> None:
    reviewed = review_document(ALL, max_state_bytes=1000)
    assert reviewed.dead_letters[0].code is DeadLetterCode.TOO_LARGE
    assert reviewed.state.snapshots == ()


def test_the_digests_of_a_feed_with_ever_new_errors_are_limited() -> None:
    state = after(ALL)
    for size in range(1, 2100):
        state = review_document(b" " * size, state).state
    assert len(state.dead_letter_digests) == 2000


@pytest.mark.parametrize("source", ["sofa", "gdmf", "kev"])
def test_a_date_in_the_future_does_not_lock_a_feed(source: FeedSource) -> None:
    ahead = (NOW + timedelta(days=400)).isoformat()
    documents: dict[FeedSource, Callable[[str], bytes]] = {
        "sofa": lambda at: feed(line("26", release("26.1")), last_check=at),
        "gdmf": lambda at: apple.response(apple.offer(PostingDate=at[:10])),
        "kev": lambda at: cisa.catalogue(cisa.entry(), released=at),
    }
    state = after(documents[source](ahead), source=source)
    reviewed = review_document(documents[source](NOW.isoformat()), state)
    assert reviewed.outcome is not FeedOutcome.STALE


def test_a_state_is_equal_after_a_round_trip_through_json() -> None:
    for state in (after(ALL), after(cisa.catalogue(cisa.entry()), source="kev")):
        assert FeedState.model_validate(json.loads(state.model_dump_json())) == state
