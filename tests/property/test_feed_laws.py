"""Laws of the translation of advisory feeds, for generated and for mutated real feeds."""

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.feed_review import review
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import TRANSLATORS, translator_since
from pipeline.ingest.translation import Translation
from schemas.envelope import decode, encode
from schemas.events.advisory import AdvisorySnapshot
from schemas.feeds import FeedSource, FeedState
from tests.factories.sofa import (
    RECEIVED_AT,
    FeedTranslation,
    feed,
    feed_translation,
    line,
    release,
    translate,
)

REDACTOR = Redactor(b"0123456789abcdef")
REAL: dict[FeedSource, tuple[str, ...]] = {
    "sofa": (
        "sofa/v1/macos_data_feed.2024-06-30.json",
        "sofa/v2/macos_data_feed.2025-09-20.json",
        "sofa/v2/macos_data_feed.2026-08-06T1306Z.json",
    ),
    "gdmf": ("sofa/resources/gdmf_cached.json",),
    "kev": ("sofa/resources/kev_catalog.json",),
}
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    10**40,
    1.5,
    "",
    " ",
    "\x00",
    "\ud800",
    "\u202e",
    "26.2 (a)",
    "9999-12-31",
    "0001-01-01T00:00:00+14:00",
    "CVE-2026-1001",
    [],
    [[]],
    {},
    {"": None},
    "x" * 2000,
)


def check(translation: FeedTranslation | Translation) -> None:
    """Assert that events and dead letters are serializable, and none has the code `bug`."""
    for event in translation.events:
        assert decode(encode(event)) == event
    for letter in translation.dead_letters:
        assert letter.code != "bug"
        letter.model_validate_json(letter.model_dump_json())


# --- generated feeds ---

CVES = st.sampled_from([f"CVE-2026-100{number}" for number in range(4)])
VERSIONS = ("26.0", "26.1", "26.2", "26.3", "15.7", "15.7.1", "15.7.2")


@st.composite
def releases(draw: st.DrawFn, version: str) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if draw(st.booleans()):
        fields["DeviceScope"] = draw(st.sampled_from(["universal", "device-specific"]))
    if draw(st.booleans()):
        ids = st.sampled_from([f"J{number}AP" for number in range(100, 106)])
        fields["SupportedDevices"] = sorted(draw(st.sets(ids, max_size=6)))
    return release(
        version,
        cves=draw(st.dictionaries(CVES, st.sampled_from([None, "Low", "High", "Critical"]))),
        exploited=tuple(draw(st.sets(CVES, max_size=2))),
        Build=draw(st.sampled_from(["", "25C56", "25C8057"])),
        **fields,
    )


@st.composite
def feeds(draw: st.DrawFn, last_check: str = "2026-02-01T08:00:00Z") -> bytes:
    lines = []
    for name in ("26", "15"):
        versions = [one for one in VERSIONS if one.startswith(name)]
        listed = draw(st.sets(st.sampled_from(versions)))
        if listed:
            ordered = sorted(listed, key=versions.index, reverse=True)
            title = draw(st.sampled_from([f"macOS {name}", f"Tahoe {name}"]))
            lines.append(line(title, *(draw(releases(version)) for version in ordered)))
    return feed(*(lines or [line("Tahoe 26", draw(releases("26.0")))]), last_check=last_check)


def fold(*translations: FeedTranslation) -> dict[str, AdvisorySnapshot]:
    """Return the newest snapshot of each advisory that is not retracted."""
    known: dict[str, AdvisorySnapshot] = {}
    for translation in translations:
        for event in translation.events:
            if "retracted" in event.type:
                del known[event.subject]
            else:
                known[event.subject] = event.data
    return known


def offered_to_no_more(known: AdvisorySnapshot, narrowed: AdvisorySnapshot) -> bool:
    """Return True if the known release is offered to no device that the feed does not list.

    A feed with an empty list is for hardware that it does not name: then the known devices stay.
    """
    if not narrowed.device_ids:
        return True
    return known.device_ids is not None and set(known.device_ids) <= set(narrowed.device_ids)


def urgency(data: AdvisorySnapshot) -> float:
    if data.exploited_cves:
        return 4
    rated = {None: 2.5 if data.cves else 0, "low": 1, "medium": 2, "high": 3, "critical": 4}
    return rated[data.severity]


@given(feeds("2026-01-20T08:00:00Z"), feeds())
def test_the_old_feed_and_the_difference_describe_the_new_one(old: bytes, new: bytes) -> None:
    """All releases of the new feed are known, none with a lower severity or for more devices.

    A rating that the new feed lacks for the same CVEs is kept. A release that the new feed no
    longer lists stays only if it is older than all listed releases of its line.
    """
    changed = translate(new, old)
    check(changed)
    before = fold(translate(old))
    known, want = fold(translate(old), changed), fold(translate(new))
    assert known.keys() >= want.keys()
    for subject, data in want.items():
        assert set(known[subject].exploited_cves) >= set(data.exploited_cves)
        earlier = before.get(subject)
        if data.severity is None and earlier is not None and earlier.cves == data.cves:
            assert known[subject].severity == earlier.severity
        else:
            assert urgency(known[subject]) >= urgency(data)
        assert offered_to_no_more(known[subject], data)
    for subject in known.keys() - want.keys():
        gone = known[subject]
        listed = [data.os_version for data in want.values() if data.os_line == gone.os_line]
        assert all(version > gone.os_version for version in listed if gone.os_version and version)


@given(feeds())
def test_feed_without_a_change_gives_no_events(raw: bytes) -> None:
    assert translate(raw, raw).events == ()


@given(feeds("2026-01-20T08:00:00Z"), feeds())
def test_the_same_difference_gives_the_same_events(old: bytes, new: bytes) -> None:
    assert translate(new, old) == translate(new, old)


@given(st.lists(feeds(), min_size=1, max_size=4))
def test_diffs_of_a_feed_publish_all_of_it_once(documents: list[bytes]) -> None:
    """After each review the events so far describe the newest document."""
    state, published = FeedState(source="sofa"), []
    for raw in documents:
        judged = review(raw, state, origin="feed", now=RECEIVED_AT, accept_losses=True)
        state = judged.state
        published.append(feed_translation(Translation(judged.events, judged.dead_letters)))
        assert review(raw, state, origin="feed", now=RECEIVED_AT, accept_losses=True).events == ()
        assert FeedState.model_validate_json(state.model_dump_json(exclude_none=True)) == state
        known, want = fold(*published), fold(translate(raw))
        assert known.keys() >= want.keys()
        for subject, data in want.items():
            assert set(known[subject].exploited_cves) >= set(data.exploited_cves)
            assert offered_to_no_more(known[subject], data)


@given(feeds(), st.randoms())
def test_order_of_releases_in_a_feed_does_not_matter(raw: bytes, rng: random.Random) -> None:
    document = json.loads(raw)
    for entry in document["OSVersions"]:
        rng.shuffle(entry["SecurityReleases"])
    rng.shuffle(document["OSVersions"])
    shuffled = json.dumps(document).encode()
    assert [one.data for one in translate(shuffled).events] == [
        one.data for one in translate(raw).events
    ]


# --- mutated real feeds ---


def test_order_of_releases_in_a_real_feed_does_not_matter(reference_data: Path) -> None:
    for path in REAL["sofa"]:
        document = json.loads((reference_data / path).read_bytes())
        want = [event.id for event in translate(json.dumps(document).encode()).events]
        document["OSVersions"].reverse()
        for entry in document["OSVersions"]:
            entry["SecurityReleases"].reverse()
        assert [one.id for one in translate(json.dumps(document).encode()).events] == want


def mutate(value: Any, rng: random.Random) -> None:
    """Change up to five values of a JSON document, in place."""
    for _ in range(rng.randrange(1, 6)):
        node = value
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = rng.choice(keys)
            inner = node[key]
            if isinstance(inner, dict | list) and inner and rng.random() < 0.85:
                node = inner
                continue
            kind = rng.randrange(4)
            if kind == 0 and isinstance(node, dict):
                del node[key]
            elif kind == 1 and isinstance(node, list):
                node.insert(key, node[rng.randrange(len(node))])
            elif kind == 2 and isinstance(inner, str) and inner:
                at = rng.randrange(len(inner))
                node[key] = inner[:at] + rng.choice(["", "é", "\x00", "9", "-"]) + inner[at + 1 :]
            else:
                node[key] = rng.choice(ODD)
            break


def part(document: Any) -> Any:
    """Return a part of a feed that is small enough for many mutations; changes `document`."""
    for entry in document.get("OSVersions", []):
        entry["SecurityReleases"] = entry["SecurityReleases"][:2]
    if "vulnerabilities" in document:
        document["vulnerabilities"] = [
            one for one in document["vulnerabilities"] if one["vendorProject"] == "Apple"
        ][:20]
    document.pop("Models", None)
    document.pop("Devices", None)
    return document


@pytest.mark.parametrize(
    ("source", "path"),
    [pytest.param(name, path, id=path) for name, paths in REAL.items() for path in paths],
)
def test_mutated_feeds_give_events_or_dead_letters(
    reference_data: Path, source: FeedSource, path: str
) -> None:
    original = (reference_data / path).read_text()
    rng = random.Random(path)
    small = json.dumps(part(json.loads(original)))
    before = small.encode()
    for _ in range(60):
        document = json.loads(small)
        mutate(document, rng)
        raw = json.dumps(document).encode()
        if rng.random() < 0.2:
            at = rng.randrange(len(raw))
            raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + rng.randrange(3) :]
        check(
            TRANSLATORS[source](raw, origin="mutated", received_at=RECEIVED_AT, redactor=REDACTOR)
        )
        for new, old in ((raw, before), (before, raw)):
            translate_change = translator_since(source, old, frozenset({"CVE-2025-14174"}))
            check(
                translate_change(new, origin="mutated", received_at=RECEIVED_AT, redactor=REDACTOR)
            )


@pytest.mark.parametrize("source", sorted(REAL))
@given(st.binary(max_size=200))
def test_any_bytes_give_a_dead_letter(source: str, raw: bytes) -> None:
    translation = TRANSLATORS[source](
        raw, origin="noise", received_at=datetime(2026, 1, 1, tzinfo=UTC), redactor=REDACTOR
    )
    assert translation.events == ()
    assert len(translation.dead_letters) == 1
