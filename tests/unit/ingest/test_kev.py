"""CISA's catalogue: only entries about Apple's CVEs become events."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest import kev, sofa
from tests.factories.sofa import FeedTranslation, feed_translation

RECEIVED_AT = datetime(2026, 11, 23, tzinfo=UTC)


def entry(cve: Any = "CVE-2025-43529", **fields: Any) -> dict[str, Any]:
    return {
        "cveID": cve,
        "vendorProject": "Apple",
        "product": "Multiple Products",
        "dateAdded": "2025-12-15",
        "dueDate": "2026-01-05",
    } | fields


def catalogue(*entries: Any, released: str = "2026-08-05T16:50:38.6458Z") -> bytes:
    return json.dumps({"dateReleased": released, "vulnerabilities": list(entries)}).encode()


def translate(raw: bytes, previous: bytes | None = None) -> FeedTranslation:
    return feed_translation(
        kev.translate(raw, origin="kev.json", received_at=RECEIVED_AT, previous=previous)
    )


def test_an_entry_is_a_severity_raised_until_the_end_of_its_due_day() -> None:
    (event,) = translate(catalogue(entry())).events
    assert event.type == "drydock.advisory.severity_raised.v1"
    assert event.subject == "CVE-2025-43529"
    assert event.time == datetime(2025, 12, 15, tzinfo=UTC)
    assert event.data.model_dump(mode="json", exclude_none=True) == {
        "source": "kev",
        "platform": "macOS",
        "builds": [],
        "cves": ["CVE-2025-43529"],
        "exploited_cves": ["CVE-2025-43529"],
        "kev_due_at": "2026-01-05T23:59:59Z",
    }


def test_entries_of_other_vendors_are_ignored() -> None:
    assert translate(catalogue(entry(vendorProject="Microsoft"), {"vendorProject": "Cisco"})) == (
        FeedTranslation((), ())
    )


FIXED = frozenset({"CVE-2025-14174"})


def test_an_entry_of_another_vendor_counts_if_apple_fixed_its_cve() -> None:
    raw = catalogue(
        entry("CVE-2025-14174", vendorProject="Google"),
        entry("CVE-2026-1", vendorProject="Google"),
        entry(["CVE-2025-14174"], vendorProject="Google"),
    )
    done = kev.translate(raw, origin="kev.json", received_at=RECEIVED_AT, fixed=FIXED)
    assert [event.subject for event in done.events] == ["CVE-2025-14174"]
    assert done.dead_letters == ()


def test_an_unreadable_entry_of_another_vendor_that_counts_is_a_dead_letter() -> None:
    raw = catalogue(entry("CVE-2025-14174", vendorProject="Google", dueDate="soon"))
    done = kev.translate(raw, origin="kev.json", received_at=RECEIVED_AT, fixed=FIXED)
    assert [letter.where for letter in done.dead_letters] == ["$.vulnerabilities[0].dueDate"]


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        pytest.param(5, "", id="not-an-object"),
        pytest.param({}, ".vendorProject", id="no-vendor"),
        pytest.param(entry(vendorProject=5), ".vendorProject", id="vendor-as-number"),
        pytest.param(entry("CVE-26-1"), ".cveID", id="not-a-cve"),
        pytest.param(entry("CVE-٢٠٢٥-43529"), ".cveID", id="other-digits"),
        pytest.param(entry(dateAdded=""), ".dateAdded", id="never-added"),
        pytest.param(entry(dateAdded="2025-13-15"), ".dateAdded", id="no-such-day"),
        pytest.param(entry(dueDate="soon"), ".dueDate", id="no-due-date"),
        pytest.param(entry(dueDate="9999-12-31"), ".dueDate", id="never-due"),
    ],
)
def test_a_malformed_entry_loses_only_that_entry(wrong: Any, where: str) -> None:
    translation = translate(catalogue(wrong, entry("CVE-2026-20700")))
    assert [event.subject for event in translation.events] == ["CVE-2026-20700"]
    (letter,) = translation.dead_letters
    assert letter.where == f"$.vulnerabilities[0]{where}"


@pytest.mark.parametrize(
    ("new", "subjects"),
    [
        pytest.param([entry()], [], id="same"),
        pytest.param([entry(notes="more")], [], id="other-notes"),
        pytest.param([entry(), entry("CVE-2026-20700")], ["CVE-2026-20700"], id="added"),
        pytest.param([entry(dueDate="2025-12-20")], ["CVE-2025-43529"], id="due-earlier"),
        pytest.param([], [], id="removed"),
    ],
)
def test_with_previous_only_new_or_changed_entries_give_events(
    new: list[Any], subjects: list[str]
) -> None:
    translation = translate(catalogue(*new), catalogue(entry()))
    assert [event.subject for event in translation.events] == subjects
    assert translation.dead_letters == ()


def test_a_changed_entry_outranks_the_earlier_one() -> None:
    """Its time is the release of the catalogue: both events have the same day of addition."""
    (before,) = translate(catalogue(entry())).events
    (changed,) = translate(catalogue(entry(dueDate="2025-12-20")), catalogue(entry())).events
    assert changed.time > before.time
    assert changed.time == datetime(2026, 8, 5, 16, 50, 38, 645800, tzinfo=UTC)


def test_a_cve_that_is_listed_twice_has_its_earlier_due_date() -> None:
    twice = catalogue(entry(), entry(dueDate="2025-12-20"))
    (event,) = translate(twice).events
    assert str(event.data.kev_due_at) == "2025-12-20 23:59:59+00:00"


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        pytest.param(b"[]", "$", id="array"),
        pytest.param(b"{}", "$.vulnerabilities", id="other-document"),
        pytest.param(b'{"vulnerabilities": {}}', "$.vulnerabilities", id="no-list"),
    ],
)
def test_another_document_is_one_dead_letter(raw: bytes, where: str) -> None:
    translation = translate(raw)
    assert translation.events == ()
    assert [letter.where for letter in translation.dead_letters] == [where]


def test_an_unreadable_previous_gives_all_and_a_dead_letter() -> None:
    translation = translate(catalogue(entry()), b"{")
    assert len(translation.events) == 1
    assert translation.dead_letters[0].detail.startswith("previous: ")


def test_golden_catalogue(reference_data: Path) -> None:
    raw = (reference_data / "sofa" / "resources" / "kev_catalog.json").read_bytes()
    translation = translate(raw)
    assert (len(translation.events), translation.dead_letters) == (93, ())
    events = {event.subject: event for event in translation.events}
    assert "CVE-2025-14174" not in events  # CISA lists it as Google's
    assert str(events["CVE-2025-43529"].data.kev_due_at) == "2026-01-05 23:59:59+00:00"
    assert translate(raw) == translation
    assert translate(raw, raw).events == ()


def test_golden_catalogue_with_cves_that_apple_fixed(reference_data: Path) -> None:
    folder = reference_data / "sofa"
    feed = (folder / "v2" / "macos_data_feed.2026-08-06T1306Z.json").read_bytes()
    releases = feed_translation(
        sofa.translate(feed, origin="feed.json", received_at=RECEIVED_AT)
    ).events
    fixed = frozenset(cve for event in releases for cve in event.data.cves)
    raw = (folder / "resources" / "kev_catalog.json").read_bytes()
    done = kev.translate(raw, origin="kev.json", received_at=RECEIVED_AT, fixed=fixed)
    more = {event.subject for event in done.events} - {one.subject for one in translate(raw).events}
    assert "CVE-2025-14174" in more
    assert more <= fixed
    assert done.dead_letters == ()
