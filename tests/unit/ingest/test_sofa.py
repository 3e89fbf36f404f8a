"""Translation of SOFA feeds, each rule with a feed written for it."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.ingest.advisory_feed import MAX_DEAD_LETTERS, MAX_LISTED
from pipeline.ingest.translation import MAX_PAYLOAD_BYTES
from tests.factories.sofa import RECEIVED_AT, changes_in, feed, line, release, translate

ALL = [f"J{number}AP" for number in range(100, 160)]
ONE = ["J700AP"]


def data_of(raw: bytes, subject: str = "macOS-26.2") -> Any:
    return {event.subject: event.data for event in translate(raw).events}[subject]


def test_a_release_is_published_with_all_its_fields() -> None:
    raw = feed(
        line(
            "Tahoe 26",
            release(
                "26.2",
                Build="25C56",
                AllBuilds=["25C56", "25C8057", ""],
                ReleaseDate="2025-12-12T00:00:00Z",
                ExpirationDate="2026-03-15",
                cves={"CVE-2026-1002": "Medium", "CVE-2026-1001": "HIGH"},
                exploited=("CVE-2026-1003",),
                SecurityInfo="https://support.apple.com/en-us/125886",
            ),
        )
    )
    (event,) = translate(raw).events
    assert event.subject == "macOS-26.2"
    assert event.time == datetime(2026, 2, 1, 8, tzinfo=UTC)
    assert event.data.model_dump(mode="json") == {
        "source": "sofa",
        "platform": "macOS",
        "os_line": "26",
        "os_version": "26.2",
        "builds": ["25C56", "25C8057"],
        "released_at": "2025-12-12T00:00:00Z",
        "expires_at": "2026-03-15T00:00:00Z",
        "cves": ["CVE-2026-1001", "CVE-2026-1002", "CVE-2026-1003"],
        "exploited_cves": ["CVE-2026-1003"],
        "severity": "high",
        "device_ids": None,
        "url": "https://support.apple.com/en-us/125886",
        "kev_due_at": None,
    }


@pytest.mark.parametrize(
    ("cves", "listed", "want"),
    [
        pytest.param({"CVE-2024-1111": True}, [], ["CVE-2024-1111"], id="v1-flag"),
        pytest.param({"CVE-2024-1111": False}, [], [], id="v1-no-flag"),
        pytest.param({"CVE-2024-1111": {}}, ["CVE-2024-1111"], ["CVE-2024-1111"], id="list-only"),
        pytest.param(
            {"CVE-2024-1111": {"ActivelyExploited": True}}, [], ["CVE-2024-1111"], id="v2-flag"
        ),
        pytest.param({"CVE-2024-1111": {"InKEV": True}}, [], ["CVE-2024-1111"], id="in-kev"),
        pytest.param({}, ["CVE-2024-1111"], ["CVE-2024-1111"], id="not-among-its-cves"),
    ],
)
def test_exploited_is_the_union_of_list_and_flags(
    cves: dict[str, Any], listed: list[str], want: list[str]
) -> None:
    raw = feed(line("Tahoe 26", release("26.2") | {"CVEs": cves, "ActivelyExploitedCVEs": listed}))
    assert list(data_of(raw).exploited_cves) == want
    assert set(want) <= set(data_of(raw).cves)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://support.apple.com/en-us/100100", id="page-of-all-notes"),
        pytest.param("This update has no published CVE entries.", id="v1-sentence"),
        pytest.param("", id="blank"),
        pytest.param("javascript:alert(1)", id="not-a-web-page"),
        pytest.param("https://support.apple.com/\u202e", id="hidden-characters"),
    ],
)
def test_no_security_notes_is_no_url(url: str) -> None:
    assert data_of(feed(line("Tahoe 26", release("26.2", SecurityInfo=url)))).url is None


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        pytest.param({}, None, id="no-fields"),
        pytest.param({"SupportedDevices": ALL[:57]}, None, id="about-as-many-as-the-line"),
        pytest.param({"SupportedDevices": ALL[:45]}, None, id="older-than-some-models"),
        pytest.param({"SupportedDevices": ONE}, ONE, id="one-model"),
        pytest.param({"SupportedDevices": ONE, "DeviceScope": "universal"}, None, id="universal"),
        pytest.param({"SupportedDevices": [], "DeviceScope": None}, None, id="empty-list"),
        pytest.param(
            {"SupportedDevices": ALL[:50], "DeviceScope": "device-specific"},
            ALL[:50],
            id="specific-to-many",
        ),
        pytest.param({"DeviceScope": "device-specific"}, [], id="specific-without-a-list"),
        pytest.param({"DeviceScope": "regional", "SupportedDevices": ONE}, ONE, id="new-scope"),
    ],
)
def test_a_release_has_the_devices_of_its_scope_and_list(
    fields: dict[str, Any], want: list[str] | None
) -> None:
    raw = feed(line("Tahoe 26", release("26.2", **fields), release("26.1", SupportedDevices=ALL)))
    found = data_of(raw).device_ids
    assert found == (None if want is None else tuple(sorted(want)))


def test_a_release_newer_than_latest_is_not_for_every_mac() -> None:
    older, newest = release("26.1", SupportedDevices=ALL), release("26.2")
    assert data_of(feed(line("Tahoe 26", newest, older, latest=older))).device_ids == ()
    wide = release("26.2", SupportedDevices=ALL[:50])
    raw = feed(line("Tahoe 26", wide, older, latest=older))
    assert data_of(raw).device_ids == tuple(ALL[:50])


def test_latest_and_its_entry_in_the_list_are_merged() -> None:
    """v1 has builds, and v2 has devices, only in Latest."""
    latest = release("26.2", Build="25C56", ExpirationDate="2026-03-15")
    raw = feed(line("Tahoe 26", release("26.2"), latest=latest))
    assert [str(build) for build in data_of(raw).builds] == ["25C56"]


def test_latest_alone_is_a_release() -> None:
    raw = feed({"OSVersion": "Tahoe 26", "Latest": release("26.2")})
    assert changes_in(translate(raw)) == {("published", "macOS-26.2")}


def supplement(**fields: Any) -> dict[str, Any]:
    return {
        "Version": "26.2",
        "VersionExtra": "(a)",
        "Build": "25C771280a",
        "PostingDate": "2026-01-17",
        "SupportedDevices": ONE,
        "DeviceScope": "device-specific",
        "CVEs": ["CVE-2026-20643"],
    } | fields


def test_a_background_security_improvement_is_published() -> None:
    raw = feed(
        line("Tahoe 26", release("26.2")), BackgroundSecurityImprovements={"26": [supplement()]}
    )
    data = data_of(raw, "macOS-26.2 (a)")
    assert data.os_version.supplement == "a"
    assert (data.os_line, data.device_ids, data.cves) == ("26", ("J700AP",), ("CVE-2026-20643",))
    assert str(data.released_at) == "2026-01-17 00:00:00+00:00"


# --- changes between two feeds ---

BEFORE = feed(
    line("macOS 26", release("26.2", Build="25C56", cves={"CVE-2026-1001": None}), release("26.1")),
    line("Sequoia 15", release("15.7.3"), release("15.7.2"), release("15.7.1")),
    last_check="2026-01-20T08:00:00Z",
)


def after(*first: Any, second: Any = None, **fields: Any) -> bytes:
    lines = [line("Tahoe 26", *first)]
    if second is None:
        second = [release("15.7.3"), release("15.7.2"), release("15.7.1")]
    return feed(*lines, line("Sequoia 15", *second), **fields) if second else feed(*lines)


SAME = release("26.2", cves={"CVE-2026-1001": None})
OLDER = release("26.1")


@pytest.mark.parametrize(
    ("new", "want"),
    [
        pytest.param(after(SAME, OLDER), set(), id="renamed-line-and-blank-build"),
        pytest.param(
            after(SAME, OLDER, UpdateHash="ff", last_check="2026-02-09T00:00:00Z"),
            set(),
            id="hash-and-last-check",
        ),
        pytest.param(after(SAME | {"ExpirationDate": "2027-01-01"}, OLDER), set(), id="expiration"),
        pytest.param(
            after(SAME | {"ReleaseDate": "2026-01-06T00:00:00Z"}, OLDER), set(), id="other-date"
        ),
        pytest.param(
            after(release("26.2", cves={"CVE-2026-1001": None, "CVE-2026-1002": None}), OLDER),
            {("corrected", "macOS-26.2")},
            id="one-more-cve",
        ),
        pytest.param(
            after(release("26.3"), SAME, OLDER), {("published", "macOS-26.3")}, id="published"
        ),
        pytest.param(
            after(release("26.2", exploited=("CVE-2026-1001",)), OLDER),
            {("severity_raised", "macOS-26.2")},
            id="exploited",
        ),
        pytest.param(
            after(release("26.2", cves={"CVE-2026-1001": "Critical"}), OLDER),
            {("severity_raised", "macOS-26.2")},
            id="rated-critical",
        ),
        pytest.param(
            after(release("26.2", cves={"CVE-2026-1001": "High"}), OLDER),
            {("severity_raised", "macOS-26.2")},
            id="rated-high",
        ),
        pytest.param(
            after(release("26.2", cves={"CVE-2026-1001": "Medium"}), OLDER),
            {("corrected", "macOS-26.2")},
            id="rated-lower-than-unrated",
        ),
        pytest.param(
            after(SAME, release("26.1", cves={"CVE-2026-1009": None})),
            {("severity_raised", "macOS-26.1")},
            id="notes-come-later",
        ),
        pytest.param(
            after(release("26.2", cves={"CVE-2026-1001": None}, DeviceScope="device-specific")),
            {("narrowed", "macOS-26.2")},
            id="narrowed",
        ),
        pytest.param(after(OLDER), {("retracted", "macOS-26.2")}, id="retracted"),
        pytest.param(
            after(SAME, OLDER, second=[release("15.7.3"), release("15.7.1")]),
            {("retracted", "macOS-15.7.2")},
            id="retracted-from-the-middle",
        ),
        pytest.param(after(SAME), set(), id="oldest-fell-off"),
        pytest.param(
            after(SAME, OLDER, second=[release("15.7.3")]), set(), id="two-oldest-fell-off"
        ),
        pytest.param(after(SAME, OLDER, second=[]), set(), id="line-left"),
        pytest.param(
            after(
                release("26.3", DeviceScope="device-specific", SupportedDevices=ONE), SAME, OLDER
            ),
            {("published", "macOS-26.3")},
            id="published-for-one-model",
        ),
    ],
)
def test_a_change_between_two_feeds_gives_its_event(new: bytes, want: set[tuple[str, str]]) -> None:
    changed = translate(new, BEFORE)
    assert changes_in(changed) == want
    assert changed.dead_letters == ()


SPECIFIC = feed(
    line("Tahoe 26", release("26.2", DeviceScope="device-specific", SupportedDevices=ONE))
)


@pytest.mark.parametrize(
    ("fields", "want"),
    [
        pytest.param({"DeviceScope": "universal"}, set(), id="list-went-missing"),
        pytest.param({}, set(), id="list-and-scope-went-missing"),
        pytest.param({"DeviceScope": "device-specific"}, set(), id="list-only-went-missing"),
        pytest.param(
            {"DeviceScope": "universal", "SupportedDevices": ALL},
            {("published", "macOS-26.2")},
            id="now-for-all",
        ),
        pytest.param(
            {"DeviceScope": "device-specific", "SupportedDevices": ["J700AP", "J701AP"]},
            {("published", "macOS-26.2")},
            id="now-for-more",
        ),
        pytest.param(
            {"DeviceScope": "device-specific", "SupportedDevices": ["J701AP"]},
            {("published", "macOS-26.2")},
            id="now-for-another",
        ),
    ],
)
def test_a_release_for_some_hardware_widens_only_by_a_list(
    fields: dict[str, Any], want: set[tuple[str, str]]
) -> None:
    changed = translate(feed(line("Tahoe 26", release("26.2", **fields))), SPECIFIC)
    assert changes_in(changed) == want


def test_narrowed_and_exploited_at_once_are_two_events_of_one_snapshot() -> None:
    new = release(
        "26.2",
        exploited=("CVE-2026-1001",),
        DeviceScope="device-specific",
        SupportedDevices=ONE,
    )
    narrowed, raised = translate(after(new, OLDER), BEFORE).events
    assert (narrowed.type, raised.type) == (
        "drydock.advisory.narrowed.v1",
        "drydock.advisory.severity_raised.v1",
    )
    assert narrowed.data.model_dump() == raised.data.model_dump()
    assert [str(build) for build in raised.data.builds] == ["25C56"]


def test_a_supplement_is_retracted_only_while_its_release_is_the_newest() -> None:
    def with_supplements(newest: str, *listed: Any) -> bytes:
        releases = [release(newest)] + ([release("26.2")] if newest != "26.2" else [])
        return feed(
            line("Tahoe 26", *releases), BackgroundSecurityImprovements={"26": list(listed)}
        )

    before = with_supplements("26.2", supplement())
    assert changes_in(translate(with_supplements("26.2"), before)) == {
        ("retracted", "macOS-26.2 (a)")
    }
    assert changes_in(translate(with_supplements("26.3"), before)) == {("published", "macOS-26.3")}
    assert changes_in(translate(feed(line("Tahoe 26", release("26.2"))), before)) == set()


def test_an_unreadable_previous_gives_the_whole_feed_and_a_dead_letter() -> None:
    changed = translate(after(SAME, OLDER), b"not json")
    assert len(changed.events) == 5
    (letter,) = changed.dead_letters
    assert (letter.code, letter.detail[:9]) == ("not_json", "previous:")


def test_an_unreadable_release_is_not_retracted() -> None:
    broken = release("26.2", ReleaseType="Firmware")
    assert changes_in(translate(after(broken, OLDER), BEFORE)) == set()
    unknown = release("26.2.x")
    assert changes_in(translate(after(unknown, OLDER), BEFORE)) == set()


# --- time of the events ---


@pytest.mark.parametrize(
    ("last_check", "want"),
    [
        pytest.param("2026-08-06T13:06:13.901068944+00:00", "2026-08-06T13:06:13", id="sane"),
        pytest.param("2026-08-06T15:06:13+02:00", "2026-08-06T13:06:13", id="other-zone"),
        pytest.param(None, "2026-01-05T00:00:00", id="missing"),
        pytest.param("2027-01-01T00:00:00Z", "2026-01-05T00:00:00", id="in-the-future"),
        pytest.param("2026-01-04T00:00:00Z", "2026-01-05T00:00:00", id="before-a-release"),
        pytest.param("yesterday", "2026-01-05T00:00:00", id="not-a-time"),
        pytest.param("0001-01-01T00:00:00Z", "2026-01-05T00:00:00", id="year-1"),
    ],
)
def test_an_event_is_dated_by_the_feed(last_check: str | None, want: str) -> None:
    raw = feed(line("Tahoe 26", release("26.2")), last_check=last_check)
    (event,) = translate(raw).events
    assert event.time.strftime("%Y-%m-%dT%H:%M:%S") == want


def test_a_release_date_in_the_future_is_not_used_as_a_time() -> None:
    newest = release("26.3", ReleaseDate="2062-01-05T00:00:00Z")
    raw = feed(line("Tahoe 26", newest, release("26.2")), last_check=None)
    assert {event.time.year for event in translate(raw).events} == {2026}


def test_events_of_a_feed_without_dates_have_the_time_of_receipt() -> None:
    raw = feed(line("Tahoe 26", release("26.2", ReleaseDate=None)), last_check=None)
    (event,) = translate(raw).events
    assert event.time == RECEIVED_AT


def test_ids_do_not_depend_on_expiration_or_origin() -> None:
    def ids(expiration: str) -> list[str]:
        raw = feed(line("Tahoe 26", release("26.2", ExpirationDate=expiration)))
        return [event.id for event in translate(raw).events]

    assert ids("2026-03-15") == ids("2026-06-15")


# --- unreadable parts ---


def broken(**fields: Any) -> dict[str, Any]:
    return {**release("26.2"), **fields}


@pytest.mark.parametrize(
    ("entry", "code", "where"),
    [
        pytest.param(7, "bad_shape", "$.OSVersions[0].SecurityReleases[1]", id="number"),
        pytest.param(None, "bad_shape", "$.OSVersions[0].SecurityReleases[1]", id="null"),
        pytest.param(
            broken(ProductVersion=None),
            "bad_value",
            "$.OSVersions[0].SecurityReleases[1].ProductVersion",
            id="no-version",
        ),
        pytest.param(
            broken(ProductVersion=26.2),
            "bad_shape",
            "$.OSVersions[0].SecurityReleases[1].ProductVersion",
            id="version-as-number",
        ),
        pytest.param(
            broken(ProductVersion="twenty"),
            "bad_value",
            "$.OSVersions[0].SecurityReleases[1].ProductVersion",
            id="no-such-version",
        ),
        pytest.param(
            broken(ProductName="iOS", ProductVersion="26.2"),
            "not_a_mac",
            "$.OSVersions[0].SecurityReleases[1].ProductName",
            id="the-other-feed",
        ),
        pytest.param(
            broken(ReleaseType="Firmware"),
            "unknown_type",
            "$.OSVersions[0].SecurityReleases[1].ReleaseType",
            id="unknown-type",
        ),
    ],
)
def test_an_unreadable_release_loses_only_that_release(entry: Any, code: str, where: str) -> None:
    raw = feed(line("Tahoe 26", release("26.3"), entry, release("26.1")))
    translation = translate(raw)
    assert changes_in(translation) == {("published", "macOS-26.3"), ("published", "macOS-26.1")}
    (letter,) = translation.dead_letters
    assert (letter.code, letter.where, letter.origin) == (code, where, "feed.json")
    assert letter.raw is not None
    assert json.loads(base64.b64decode(letter.raw)) == entry


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        pytest.param({"AllBuilds": ["25C56", "25.56"]}, ".AllBuilds[1]", id="build"),
        pytest.param({"AllBuilds": "25C56"}, ".AllBuilds", id="builds-not-a-list"),
        pytest.param({"ReleaseDate": "soon"}, ".ReleaseDate", id="date"),
        pytest.param({"ExpirationDate": 5}, ".ExpirationDate", id="expiration"),
        pytest.param({"CVEs": {"CVE-1": {}}}, ".CVEs.CVE-1", id="cve"),
        pytest.param({"CVEs": ["CVE-2026-1001"]}, ".CVEs", id="cves-not-an-object"),
        pytest.param(
            {"ActivelyExploitedCVEs": [None]}, ".ActivelyExploitedCVEs[0]", id="exploited"
        ),
        pytest.param({"SupportedDevices": ["J700AP\x00"]}, ".SupportedDevices[0]", id="device"),
        pytest.param({"SupportedDevices": {}}, ".SupportedDevices", id="devices-not-a-list"),
        pytest.param({"DeviceScope": ["universal"]}, ".DeviceScope", id="scope"),
        pytest.param({"SecurityInfo": {}}, ".SecurityInfo", id="notes"),
    ],
)
def test_an_invalid_field_loses_only_that_field(fields: dict[str, Any], where: str) -> None:
    raw = feed(line("Tahoe 26", release("26.3"), broken(**fields)))
    translation = translate(raw)
    assert ("published", "macOS-26.2") in changes_in(translation)
    (letter,) = translation.dead_letters
    assert letter.where == f"$.OSVersions[0].SecurityReleases[1]{where}"


@pytest.mark.parametrize(
    ("raw", "code", "where"),
    [
        pytest.param(b"", "not_json", "line 1 column 1", id="empty"),
        pytest.param(b"<html>", "not_json", "line 1 column 1", id="error-page"),
        pytest.param(b"[]", "bad_shape", "$", id="array"),
        pytest.param(b"null", "bad_shape", "$", id="null"),
        pytest.param(b"{}", "bad_shape", "$.OSVersions", id="some-other-document"),
        pytest.param(b'{"OSVersions": []}', "bad_shape", "$.OSVersions", id="no-lines"),
        pytest.param(
            b'{"OSVersions": {"a": 1}}', "bad_shape", "$.OSVersions", id="lines-not-a-list"
        ),
        pytest.param(b"[" * 10_000, "too_deep", "", id="depth-bomb"),
        pytest.param(b"\xff\xfe", "not_utf8", "byte 0", id="not-utf-8"),
    ],
)
def test_another_document_is_one_dead_letter(raw: bytes, code: str, where: str) -> None:
    translation = translate(raw)
    assert translation.events == ()
    (letter,) = translation.dead_letters
    assert (letter.code, letter.where, letter.raw_size) == (code, where, len(raw))


@pytest.mark.parametrize(
    ("entry", "where"),
    [
        pytest.param("Tahoe 26", "$.OSVersions[1]", id="line-not-an-object"),
        pytest.param({"OSVersion": "Tahoe 26"}, "$.OSVersions[1]", id="line-without-releases"),
        pytest.param(
            {"OSVersion": "Tahoe 26", "SecurityReleases": 5},
            "$.OSVersions[1].SecurityReleases",
            id="releases-not-a-list",
        ),
    ],
)
def test_an_unreadable_line_loses_only_that_line(entry: Any, where: str) -> None:
    translation = translate(feed(line("Sequoia 15", release("15.7")), entry))
    assert changes_in(translation) == {("published", "macOS-15.7")}
    assert [letter.where for letter in translation.dead_letters] == [where]


def test_malformed_supplements_lose_only_themselves() -> None:
    lines = line("Tahoe 26", release("26.2"))
    shapes: tuple[Any, ...] = ([], {"26": 5}, {"26": [{}]}, {"26": [supplement(VersionExtra="a")]})
    for groups in shapes:
        translation = translate(feed(lines, BackgroundSecurityImprovements=groups))
        assert changes_in(translation) == {("published", "macOS-26.2")}
        assert len(translation.dead_letters) == 1


def test_document_over_the_size_limit_is_refused() -> None:
    translation = translate(b"[]" + b" " * MAX_PAYLOAD_BYTES)
    assert [letter.code for letter in translation.dead_letters] == ["too_large"]


def test_unreadable_parts_over_the_limit_are_counted_not_listed() -> None:
    unreadable = [None] * (MAX_DEAD_LETTERS + 7)
    translation = translate(feed(line("Tahoe 26", release("26.2"), *unreadable)))
    assert changes_in(translation) == {("published", "macOS-26.2")}
    assert len(translation.dead_letters) == MAX_DEAD_LETTERS + 1
    assert translation.dead_letters[-1].detail == "7 more parts cannot be read"


def test_a_list_over_the_limit_is_cut_and_its_rest_is_a_dead_letter() -> None:
    devices = [f"J{number}AP" for number in range(MAX_LISTED + 1)]
    raw = feed(line("Tahoe 26", release("26.2", SupportedDevices=devices)))
    translation = translate(raw)
    assert changes_in(translation) == {("published", "macOS-26.2")}
    assert {letter.where for letter in translation.dead_letters} == {
        f"$.OSVersions[0].SecurityReleases[0].SupportedDevices[{MAX_LISTED}]",
        f"$.OSVersions[0].Latest.SupportedDevices[{MAX_LISTED}]",
    }
