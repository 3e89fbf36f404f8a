"""SOFA's own snapshots: every pair of them, and all of them in sequence."""

from itertools import combinations
from pathlib import Path
from typing import Final

import pytest

from pipeline.ingest.feed_review import review
from pipeline.ingest.translation import Translation
from schemas.envelope import decode, encode
from schemas.feeds import FeedState
from schemas.macos import parse_os_version
from tests.factories.sofa import (
    RECEIVED_AT,
    FeedTranslation,
    changes_in,
    feed_translation,
    translate,
)
from tests.factories.sofa_snapshots import SNAPSHOTS, expected, read_snapshots


@pytest.fixture(scope="module")
def feeds(reference_data: Path) -> dict[str, bytes]:
    return read_snapshots(reference_data)


def uncorrected(changed: FeedTranslation) -> set[tuple[str, str]]:
    """Return the changes but `corrected`, which test_sofa_history.py compares with the feeds."""
    assert len({(event.type, event.subject) for event in changed.events}) == len(changed.events)
    return {change for change in changes_in(changed) if change[0] != "corrected"}


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param(first, last, id=f"{SNAPSHOTS[first]}..{SNAPSHOTS[last]}")
        for first, last in combinations(range(len(SNAPSHOTS)), 2)
    ],
)
def test_two_snapshots_give_the_true_changes_between_them(
    feeds: dict[str, bytes], first: int, last: int
) -> None:
    changed = translate(feeds[SNAPSHOTS[last]], feeds[SNAPSHOTS[first]])
    assert uncorrected(changed) == expected(first, last)
    assert changed.dead_letters == ()


def test_diffs_of_all_snapshots_give_each_change_once(feeds: dict[str, bytes]) -> None:
    state, sizes = FeedState(source="sofa"), set()
    for last, name in enumerate(SNAPSHOTS):
        judged = review(feeds[name], state, origin="feed", now=RECEIVED_AT)
        if last:
            found = Translation(judged.events, judged.dead_letters)
            assert uncorrected(feed_translation(found)) == expected(last - 1, last)
        state = judged.state
        assert review(feeds[name], state, origin="feed", now=RECEIVED_AT).events == ()
        sizes.add(len(state.model_dump_json(exclude_none=True)))
        assert FeedState.model_validate_json(state.model_dump_json(exclude_none=True)) == state
    narrowed = {str(one.os_version): one.device_ids for one in state.snapshots}
    assert narrowed["26.3.2"] == ("J700AP",), "the feed no longer lists its devices"
    assert max(sizes) < 256 * 1024


@pytest.mark.parametrize("name", SNAPSHOTS)
def test_a_feed_compared_with_itself_gives_no_event(feeds: dict[str, bytes], name: str) -> None:
    assert translate(feeds[name], feeds[name]).events == ()


def test_cves_exploited_days_after_the_release_raise_its_severity(feeds: dict[str, bytes]) -> None:
    events = translate(feeds["2025-12-15T1846Z"], feeds["2025-12-12T1908Z"]).events
    (raised,) = [event for event in events if event.subject == "macOS-26.2"]
    assert raised.data.exploited_cves == ("CVE-2025-14174", "CVE-2025-43529")
    assert len(raised.data.cves) == 47
    assert str(raised.time) == "2025-12-15 18:46:06.227863+00:00"


def test_a_release_for_all_is_narrowed_to_one_model(feeds: dict[str, bytes]) -> None:
    (published,) = translate(feeds["2026-03-10T2014Z"], feeds["2026-03-10T1921Z"]).events
    assert published.data.device_ids is None
    (narrowed,) = translate(feeds["2026-03-11T1055Z"], feeds["2026-03-10T2014Z"]).events
    assert narrowed.data.device_ids == ("J700AP",)


def test_a_release_that_was_narrowed_between_two_snapshots_is_published_narrow(
    feeds: dict[str, bytes],
) -> None:
    (published,) = translate(feeds["2026-03-11T1055Z"], feeds["2026-03-10T1921Z"]).events
    assert (published.subject, published.data.device_ids) == ("macOS-26.3.2", ("J700AP",))


def test_an_event_keeps_fields_that_the_feed_no_longer_has(feeds: dict[str, bytes]) -> None:
    events = translate(feeds["2026-07-27T1736Z"], feeds["2026-03-11T1055Z"]).events
    raised = {event.subject: event.data for event in events if "raised" in event.type}
    assert [str(build) for build in raised["macOS-26.1"].builds] == ["25B78"]


WHOLE: Final = (
    ("v1", "2024-06-30", 58),
    ("v1", "2025-02-17", 77),
    ("v1", "2026-08-06", 122),
    ("v2", "2025-09-20", 96),
    ("v2", "2025-12-12T1845Z", 102),
    ("v2", "2025-12-12T1908Z", 105),
    ("v2", "2025-12-15T1846Z", 105),
    ("v2", "2026-03-10T1921Z", 109),
    ("v2", "2026-03-10T2014Z", 110),
    ("v2", "2026-03-11T1055Z", 110),
    ("v2", "2026-07-27T1736Z", 121),
    ("v2", "2026-07-27T1806Z", 124),
    ("v2", "2026-08-06T1306Z", 124),
)


@pytest.mark.parametrize(
    ("form", "name", "count"), [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in WHOLE]
)
def test_a_whole_feed_gives_each_release_once(
    reference_data: Path, form: str, name: str, count: int
) -> None:
    raw = (reference_data / "sofa" / form / f"macos_data_feed.{name}.json").read_bytes()
    translation = translate(raw)
    assert len({event.subject for event in translation.events}) == count
    assert len({event.id for event in translation.events}) == count
    assert {event.type for event in translation.events} == {"drydock.advisory.published.v1"}
    assert translation.dead_letters == ()
    assert translate(raw) == translation
    for event in translation.events:
        assert decode(encode(event)) == event


def test_rapid_security_responses_of_v1_have_their_letter(reference_data: Path) -> None:
    raw = (reference_data / "sofa" / "v1" / "macos_data_feed.2024-06-30.json").read_bytes()
    events = {event.subject: event.data for event in translate(raw).events}
    assert events["macOS-13.4.1 (c)"].exploited_cves == ("CVE-2023-37450",)
    assert events["macOS-13.4.1"].exploited_cves == ("CVE-2023-32434", "CVE-2023-32439")
    assert [str(build) for build in events["macOS-14.5"].builds] == ["23F79"]
    assert events["macOS-14.3.1"].url is None


def test_golden_release_of_the_newest_feed(reference_data: Path) -> None:
    raw = (reference_data / "sofa" / "v2" / "macos_data_feed.2026-08-06T1306Z.json").read_bytes()
    data = {event.subject: event.data for event in translate(raw).events}["macOS-26.2"]
    want = {
        "source": "sofa",
        "platform": "macOS",
        "os_line": "26",
        "os_version": "26.2",
        "builds": [],
        "released_at": "2025-12-12T00:00:00Z",
        "exploited_cves": ["CVE-2025-14174", "CVE-2025-43529"],
        "severity": "critical",
        "url": "https://support.apple.com/en-us/125886",
    }
    assert data.model_dump(mode="json", exclude={"cves"}, exclude_none=True) == want
    assert len(data.cves) == 59


def test_a_supplement_is_only_for_its_listed_devices(reference_data: Path) -> None:
    raw = (reference_data / "sofa" / "v2" / "macos_data_feed.2026-08-06T1306Z.json").read_bytes()
    data = {event.subject: event.data for event in translate(raw).events}
    assert data["macOS-26.3.2 (a)"].device_ids == ("J700AP",)
    assert data["macOS-26.3.1 (a)"].device_ids is None
    assert data["macOS-26.3.1 (a)"].cves == ("CVE-2026-20643",)
    assert data["macOS-26.3.1 (a)"].os_version == parse_os_version("26.3.1 (a)")
