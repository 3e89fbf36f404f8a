"""Which documents of a feed are believed, and what of them is new."""

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


def look(raw: bytes, state: FeedState | None = None, **values: Any) -> ReviewedDocument:
    given = state or FeedState(source="sofa")
    return review(raw, given, origin="feed", now=NOW, **values)


def after(*documents: bytes, source: FeedSource = "sofa") -> FeedState:
    """The state after these; each is believed."""
    state = FeedState(source=source)
    for document in documents:
        judged = look(document, state)
        assert judged.outcome in {FeedOutcome.ACCEPTED, FeedOutcome.UNCHANGED}
        state = judged.state
    return state


def sofa(*versions: Any, day: int = 1, **fields: Any) -> bytes:
    releases = [release(one) if isinstance(one, str) else one for one in versions]
    return feed(line("Tahoe 26", *releases), last_check=f"2026-02-{day:02}T08:00:00Z", **fields)


def subjects(judged: ReviewedDocument) -> list[tuple[str, str]]:
    return [(event.type.split(".")[2], event.subject) for event in judged.events]


ALL = sofa(*VERSIONS)


def test_the_first_document_is_all_new() -> None:
    judged = look(ALL)
    assert (judged.outcome, len(judged.events)) == (FeedOutcome.ACCEPTED, 10)
    assert (judged.state.listed, judged.dead_letters) == (10, ())


def test_a_document_with_a_new_check_time_alone_is_unchanged() -> None:
    judged = look(sofa(*VERSIONS, day=2), after(ALL))
    assert (judged.outcome, judged.events) == (FeedOutcome.UNCHANGED, ())
    assert judged.state.document_at == datetime(2026, 2, 2, 8, tzinfo=UTC)


WRONG = [
    pytest.param(b"", "unreadable", DeadLetterCode.NOT_JSON, id="nothing"),
    pytest.param(b"<html>log in here</html>", "unreadable", DeadLetterCode.NOT_JSON, id="portal"),
    pytest.param(ALL[: len(ALL) // 2], "unreadable", DeadLetterCode.NOT_JSON, id="cut-off"),
    pytest.param(b"{}", "unreadable", DeadLetterCode.BAD_SHAPE, id="another-document"),
    pytest.param(feed(), "unreadable", DeadLetterCode.BAD_SHAPE, id="no-lines"),
    pytest.param(sofa(day=3), "truncated", DeadLetterCode.BAD_VALUE, id="no-releases"),
    pytest.param(
        sofa(*VERSIONS[-4:], day=3), "truncated", DeadLetterCode.BAD_VALUE, id="most-lost"
    ),
    pytest.param(
        sofa(*VERSIONS[4:], day=3), "truncated", DeadLetterCode.BAD_VALUE, id="taken-back"
    ),
    pytest.param(
        sofa(*({"Build": "25A1"} for _ in VERSIONS), day=3),
        "truncated",
        DeadLetterCode.BAD_VALUE,
        id="mandatory-key-gone",
    ),
]


@pytest.mark.parametrize(("raw", "outcome", "code"), WRONG)
def test_a_wrong_document_changes_nothing_and_is_reported_once(
    raw: bytes, outcome: str, code: DeadLetterCode
) -> None:
    before = after(ALL)
    judged = look(raw, before)
    assert (judged.outcome, judged.events) == (outcome, ())
    (letter,) = judged.dead_letters
    assert (letter.code, letter.source, letter.raw_size) == (code, "sofa", len(raw))
    assert letter.detail in judged.detail
    again = look(raw, judged.state)
    assert (again.outcome, again.dead_letters, again.state) == (outcome, (), judged.state)
    assert judged.state.model_copy(update={"dead_letter_digests": ()}) == before
    good = look(sofa("26.10", *VERSIONS, day=3), again.state)
    assert subjects(good) == [("published", "macOS-26.10")]
    assert look(raw, good.state).dead_letters, "another time is another incident"


def test_a_feed_may_be_wrong_from_the_start() -> None:
    judged = look(b"{")
    assert (judged.outcome, len(judged.dead_letters)) == (FeedOutcome.UNREADABLE, 1)
    assert len(look(ALL, judged.state).events) == 10


def test_losses_that_an_operator_accepted_are_accepted() -> None:
    judged = look(sofa(*VERSIONS[-4:], day=2), after(ALL), accept_losses=True)
    assert subjects(judged) == [("retracted", f"macOS-{one}") for one in VERSIONS[5::-1]]
    assert look(ALL, judged.state).outcome is FeedOutcome.STALE


def test_releases_of_one_day_may_be_retracted() -> None:
    judged = look(sofa(*VERSIONS[3:], day=2), after(ALL))
    assert subjects(judged) == [("retracted", f"macOS-{one}") for one in VERSIONS[2::-1]]


def test_a_stale_document_is_refused_without_dead_letter() -> None:
    state = after(sofa(*VERSIONS, day=2))
    judged = look(ALL, state)
    assert (judged.outcome, judged.state, judged.dead_letters) == (FeedOutcome.STALE, state, ())
    assert "2026-02-01" in judged.detail


def test_a_feed_without_a_date_is_never_too_old() -> None:
    """SOFA's first version has none: its newest release may be taken back."""
    state = after(feed(line("26", *map(release, VERSIONS)), last_check=None))
    judged = look(feed(line("26", *map(release, VERSIONS[1:])), last_check=None), state)
    assert subjects(judged) == [("retracted", "macOS-26.9")]


def test_an_older_catalogue_is_refused() -> None:
    state = after(cisa.catalogue(cisa.entry(), released="2026-08-05T16:00:00Z"), source="kev")
    judged = look(cisa.catalogue(cisa.entry(), released="2026-08-04T16:00:00Z"), state)
    assert judged.outcome is FeedOutcome.STALE


def broken(version: str, **fields: Any) -> dict[str, Any]:
    """A release with one CVE id that is none."""
    return release(version, cves={"CVE-26": None}) | fields


def test_an_unusable_part_is_reported_once_and_the_rest_is_used() -> None:
    first = look(sofa(broken("26.9"), *VERSIONS[1:]))
    assert (len(first.events), len(first.dead_letters)) == (10, 2), "listed, and the latest"
    # The same again, at another time and with another expiration date, and something new beside.
    document = sofa(broken("26.9", ExpirationDate="2027-01-01"), *VERSIONS[1:], "26.10", day=2)
    second = look(document, first.state)
    assert (subjects(second), second.dead_letters) == ([("published", "macOS-26.10")], ())
    repaired = look(sofa(*VERSIONS, "26.10", day=3), second.state)
    assert (repaired.outcome, repaired.events) == (FeedOutcome.UNCHANGED, ())
    assert look(sofa(broken("26.9"), *VERSIONS[1:], day=4), repaired.state).dead_letters


def test_a_release_that_cannot_be_read_for_a_while_is_not_published_again() -> None:
    state = after(ALL)
    unreadable = look(sofa(release("26.x"), *VERSIONS[1:], day=2), state)
    assert (unreadable.events, len(unreadable.dead_letters)) == ((), 2)
    assert look(sofa(*VERSIONS, day=3), unreadable.state).events == ()


def test_what_the_feed_forgot_is_known_however_often_it_was_looked_at() -> None:
    """By the hour: the device list goes missing at one look, something happens at the next."""
    one: dict[str, Any] = {"SupportedDevices": ["J700AP"]}
    all_: dict[str, Any] = {"SupportedDevices": [f"J{number}AP" for number in range(5)]}
    listed = sofa(release("26.9", **one), release("26.8", **all_))
    forgotten = sofa(release("26.9"), release("26.8", **all_), day=2)
    exploited = release("26.9", exploited=("CVE-2026-1001",))
    judged = look(sofa(exploited, release("26.8", **all_), day=3), after(listed, forgotten))
    (event,) = judged.events
    assert event.type == "drydock.advisory.severity_raised.v1"
    assert event.data.device_ids == ("J700AP",)


def test_an_offer_that_ended_is_no_news_when_it_comes_back() -> None:
    both = apple.response(apple.offer(), apple.offer("26.1", "25B78"))
    state = after(both, apple.response(apple.offer()), source="gdmf")
    assert look(both, state).events == ()


def test_a_cve_of_another_vendor_counts_once_a_release_is_known_to_fix_it() -> None:
    raw = cisa.catalogue(cisa.entry(), cisa.entry("CVE-2025-14174", vendorProject="Google"))
    state = after(raw, source="kev")
    assert [one.cves for one in state.snapshots] == [("CVE-2025-43529",)]
    judged = look(raw, state, fixed=frozenset({"CVE-2025-14174"}))
    assert subjects(judged) == [("severity_raised", "CVE-2025-14174")]
    assert look(raw, judged.state, fixed=frozenset({"CVE-2025-14174"})).events == ()
    assert look(raw, judged.state).events == ()


def test_our_own_bug_costs_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(feed_review, "FEED_DIFFS", {"sofa": fails})
    judged = look(ALL)
    assert (judged.outcome, judged.detail) == (FeedOutcome.UNREADABLE, "$: RuntimeError: a bug")
    assert judged.dead_letters[0].code is DeadLetterCode.BUG


def test_document_whose_state_is_too_large_is_refused() -> None:
    judged = look(ALL, max_state_bytes=1000)
    assert judged.dead_letters[0].code is DeadLetterCode.TOO_LARGE
    assert judged.state.snapshots == ()


def test_a_feed_that_is_broken_in_ever_new_ways_does_not_fill_its_state() -> None:
    state = after(ALL)
    for size in range(1, 2100):
        state = look(b" " * size, state).state
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
    judged = look(documents[source](NOW.isoformat()), state)
    assert judged.outcome is not FeedOutcome.STALE


def test_a_state_is_the_same_after_it_was_kept() -> None:
    for state in (after(ALL), after(cisa.catalogue(cisa.entry()), source="kev")):
        assert FeedState.model_validate(json.loads(state.model_dump_json())) == state
