"""Apple's software lookup service: the versions that MDM may ask a Mac to install."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest import gdmf
from schemas.feeds import FeedState
from tests.factories.sofa import FeedTranslation, feed_translation

RECEIVED_AT = datetime(2026, 11, 23, tzinfo=UTC)
EMPTY = FeedState(source="gdmf")


def offer(version: str = "26.2", build: str = "25C56", **fields: Any) -> dict[str, Any]:
    return {
        "ProductVersion": version,
        "Build": build,
        "PostingDate": "2025-12-12",
        "ExpirationDate": "2026-03-15",
        "SupportedDevices": ["J314sAP"],
    } | fields


def response(*offers: Any, **sets: Any) -> bytes:
    return json.dumps({"AssetSets": {"macOS": list(offers)}} | sets).encode()


def translate(raw: bytes) -> FeedTranslation:
    return feed_translation(gdmf.translate(raw, origin="gdmf.json", received_at=RECEIVED_AT))


def test_an_offer_is_a_published_advisory() -> None:
    (event,) = translate(response(offer())).events
    assert event.subject == "macOS-26.2"
    assert event.time == datetime(2025, 12, 12, tzinfo=UTC)
    assert event.data.model_dump(mode="json", exclude_none=True) == {
        "source": "gdmf",
        "platform": "macOS",
        "os_line": "26",
        "os_version": "26.2",
        "builds": ["25C56"],
        "released_at": "2025-12-12T00:00:00Z",
        "expires_at": "2026-03-15T00:00:00Z",
        "cves": [],
        "exploited_cves": [],
        "device_ids": ["J314sAP"],
    }


def test_entries_of_a_version_are_merged() -> None:
    public = {"macOS": [offer(PostingDate="2026-01-11", SupportedDevices=["VMA2MACOSAP"])]}
    other = offer(build="25C8057", ExpirationDate="2026-04-01", SupportedDevices=["J700AP"])
    (event,) = translate(response(offer(), other, PublicAssetSets=public)).events
    assert [str(build) for build in event.data.builds] == ["25C56", "25C8057"]
    assert event.data.device_ids == ("J314sAP", "J700AP", "VMA2MACOSAP")
    assert str(event.data.released_at) == "2025-12-12 00:00:00+00:00"
    assert str(event.data.expires_at) == "2026-04-01 00:00:00+00:00"
    assert event.time == datetime(2026, 1, 11, tzinfo=UTC)


def test_a_supplement_is_its_own_advisory() -> None:
    sets = {"macOS": [offer("26.3.2", "25D771400a", ProductVersionExtra="(a)")]}
    raw = response(PublicBackgroundSecurityImprovements=sets)
    assert [event.subject for event in translate(raw).events] == ["macOS-26.3.2 (a)"]


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        pytest.param(None, "", id="null"),
        pytest.param(offer("iOS 26.2"), ".ProductVersion", id="not-macos"),
        pytest.param(offer(build="soon"), ".Build", id="build"),
        pytest.param(offer(PostingDate="soon"), ".PostingDate", id="posted"),
        pytest.param(offer(SupportedDevices=None), ".SupportedDevices", id="no-devices"),
        pytest.param(offer(SupportedDevices=[1]), ".SupportedDevices[0]", id="device"),
        pytest.param(offer(ProductVersionExtra="beta"), ".ProductVersionExtra", id="extra"),
    ],
)
def test_a_malformed_offer_loses_only_that_offer(wrong: Any, where: str) -> None:
    translation = translate(response(wrong, offer()))
    assert [event.subject for event in translation.events] == ["macOS-26.2"]
    assert [letter.where for letter in translation.dead_letters] == [f"$.AssetSets.macOS[0]{where}"]


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        pytest.param(b"[]", "$", id="array"),
        pytest.param(b"{}", "$", id="other-document"),
        pytest.param(b'{"data": {"etag": ""}}', "$.data", id="wrapped-other-document"),
        pytest.param(b'{"AssetSets": 5}', "$.AssetSets", id="sets-not-an-object"),
        pytest.param(b'{"AssetSets": {"macOS": {}}}', "$.AssetSets.macOS", id="no-list"),
    ],
)
def test_another_document_is_one_dead_letter(raw: bytes, where: str) -> None:
    translation = translate(raw)
    assert translation.events == ()
    assert [letter.where for letter in translation.dead_letters] == [where]


@pytest.mark.parametrize(
    ("path", "versions"),
    [
        pytest.param(
            "sofa/resources/gdmf_cached.json",
            "11.7.11 12.7.6 13.7.8 14.8.5 14.8.7 14.8.8 15.7.5 15.7.7 15.7.8 26.3.1_(a) 26.3.2_(a)"
            " 26.4.1 26.5 26.5.1 26.5.2 26.6",
            id="under-data",
        ),
        pytest.param(
            "mdm/zentral/software_lookup_service_response.json",
            "12.6.2 13.0.1 13.1 13.3.1_(a)",
            id="bare",
        ),
    ],
)
def test_golden_responses(reference_data: Path, path: str, versions: str) -> None:
    translation = translate((reference_data / path).read_bytes())
    assert translation.dead_letters == ()
    assert [event.subject for event in translation.events] == [
        f"macOS-{version.replace('_', ' ')}" for version in versions.split()
    ]


def test_golden_offer(reference_data: Path) -> None:
    raw = (reference_data / "sofa" / "resources" / "gdmf_cached.json").read_bytes()
    data = {event.subject: event.data for event in translate(raw).events}["macOS-12.7.6"]
    assert data.device_ids is not None
    assert len(data.device_ids) == 58
    assert [str(build) for build in data.builds] == ["21H1320"]
    assert (
        str(data.released_at) == "2026-04-09 00:00:00+00:00"
    )  # Apple posted it again on this day; the release is older


CHANGES = [
    pytest.param([offer()], [], id="same"),
    pytest.param([offer(ExpirationDate="2027-01-01")], [], id="offered-longer"),
    pytest.param([offer(PostingDate="2026-01-11")], [], id="posted-again"),
    pytest.param([offer(), offer("26.3", "25D125")], ["published macOS-26.3"], id="new"),
    pytest.param([], [], id="no-longer-offered"),
    pytest.param([offer(build="25C8057")], ["published macOS-26.2"], id="another-build"),
    pytest.param(
        [offer(SupportedDevices=["J314sAP", "J700AP"])], ["published macOS-26.2"], id="for-more"
    ),
    pytest.param([offer(SupportedDevices=[])], [], id="for-none-is-unreadable"),
    pytest.param([offer(SupportedDevices=["J700AP"])], ["published macOS-26.2"], id="for-others"),
]


@pytest.mark.parametrize(("new", "expected"), CHANGES)
def test_with_previous_only_changes_give_events(new: list[Any], expected: list[str]) -> None:
    other = offer("15.7.3", "24G419", PostingDate="2025-12-20")
    changed = feed_translation(
        gdmf.translate(
            response(*new, other),
            origin="gdmf.json",
            received_at=RECEIVED_AT,
            previous=response(offer(), other),
        )
    )
    assert [f"{one.type.split('.')[2]} {one.subject}" for one in changed.events] == expected
    for event in changed.events:
        assert event.time > datetime(2025, 12, 20, tzinfo=UTC), "or it would not outrank the first"


def test_a_real_response_compared_with_itself_gives_no_event(reference_data: Path) -> None:
    raw = (reference_data / "sofa" / "resources" / "gdmf_cached.json").read_bytes()
    done = gdmf.translate(raw, origin="gdmf.json", received_at=RECEIVED_AT, previous=raw)
    assert (done.events, done.dead_letters) == ((), ())


EARLY, LATE = "2026-01-10", "2026-06-01"
TWO = [
    offer(build="25C56", SupportedDevices=["J314sAP"], ExpirationDate=EARLY),
    offer(build="25C8057", SupportedDevices=["J700AP"], ExpirationDate=LATE),
]


@pytest.mark.parametrize(
    ("before", "after", "day", "expected"),
    [
        pytest.param(TWO, TWO[1:], 12, [], id="a-part-expired"),
        pytest.param(TWO, TWO[1:], 8, ["narrowed macOS-26.2"], id="a-part-went-before"),
        pytest.param(TWO, TWO[:1], 12, ["narrowed macOS-26.2"], id="the-other-part-went"),
        pytest.param(TWO[:1], [], 12, [], id="all-expired"),
        pytest.param(
            [offer(SupportedDevices=["J314sAP", "J316sAP"], ExpirationDate=LATE)],
            [offer(SupportedDevices=["J314sAP"], ExpirationDate=LATE)],
            12,
            ["narrowed macOS-26.2"],
            id="one-device-went",
        ),
    ],
)
def test_an_expired_entry_is_no_news(
    before: list[Any], after: list[Any], day: int, expected: list[str]
) -> None:
    other = offer("15.7.3", "24G419", PostingDate="2025-12-20")
    changed = gdmf.translate(
        response(*after, other),
        origin="gdmf.json",
        received_at=datetime(2026, 1, day, tzinfo=UTC),
        previous=response(*before, other),
    )
    assert [f"{one.type.split('.')[2]} {one.subject}" for one in changed.events] == expected


NEWER = offer("26.2.1", "25C60", ExpirationDate=LATE)
WITHDRAWN = [
    pytest.param(offer(ExpirationDate=LATE), [NEWER], ["26.2.1", "26.2"], id="for-a-newer-one"),
    pytest.param(offer(ExpirationDate=EARLY), [NEWER], ["26.2.1"], id="expired-before"),
    pytest.param(offer(ExpirationDate=LATE), [], [], id="without-a-newer-one"),
    pytest.param(offer(ExpirationDate=None), [NEWER], ["26.2.1", "26.2"], id="without-an-end"),
    pytest.param(
        offer(ExpirationDate=LATE),
        [offer(build="25C771280a", ProductVersionExtra="(a)", ExpirationDate=LATE)],
        ["26.2 (a)"],
        id="for-its-own-supplement",
    ),
    pytest.param(
        offer(build="25C771280a", ProductVersionExtra="(a)", ExpirationDate=LATE),
        [offer(build="25C771290b", ProductVersionExtra="(b)", ExpirationDate=LATE)],
        ["26.2 (b)", "26.2 (a)"],
        id="supplement-for-the-next",
    ),
]


@pytest.mark.parametrize(("before", "after", "expected"), WITHDRAWN)
def test_version_that_leaves_before_it_expires_is_offered_no_more(
    before: Any, after: list[Any], expected: list[str]
) -> None:
    at = datetime(2026, 1, 12, tzinfo=UTC)
    other = offer("15.7.3", "24G419", PostingDate="2025-12-20")
    first = gdmf.diff(
        response(before, other), origin="a", received_at=at - timedelta(1), state=EMPTY
    )
    assert first.state is not None
    second = gdmf.diff(response(*after, other), origin="b", received_at=at, state=first.state)
    changed = feed_translation(second.translation)
    assert [str(one.data.os_version) for one in changed.events] == expected
    for event in changed.events[1:]:
        assert (event.data.expires_at, event.type.split(".")[2]) == (at, "narrowed")
        assert event.time > first.translation.events[0].time
    assert second.state is not None
    third = gdmf.diff(response(*after, other), origin="c", received_at=at, state=second.state)
    assert third.translation.events == ()
    back = gdmf.diff(
        response(before, *after, other), origin="d", received_at=at, state=second.state
    )
    again = [one.type.split(".")[2] for one in feed_translation(back.translation).events]
    assert again == ["published"] * (len(expected) > 1)


@pytest.mark.parametrize("build", ["25C5000a", "24C56"])
def test_an_offer_of_a_beta_or_of_another_train_is_refused(build: str) -> None:
    translation = translate(response(offer(build=build), offer("15.7.3", "24G419")))
    assert [event.subject for event in translation.events] == ["macOS-15.7.3"]
    assert [letter.where for letter in translation.dead_letters] == ["$.AssetSets.macOS[0].Build"]
