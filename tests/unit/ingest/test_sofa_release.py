"""One release of a SOFA feed: read, merged with another entry, and completed."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.ingest.advisory_feed import MAX_LISTED, FeedDocument, Node
from pipeline.ingest.sofa_release import (
    SofaRelease,
    read_release,
    read_supplement,
    release_version,
    worst,
)
from pipeline.ingest.translation import PayloadError
from schemas.macos import parse_build, parse_os_version
from tests.factories.sofa import RECEIVED_AT, release

NOW, LATER = datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 9, tzinfo=UTC)


def a_feed() -> FeedDocument:
    return FeedDocument("sofa", b"{}", "/test/feed", RECEIVED_AT)


def read(**fields: Any) -> tuple[SofaRelease, list[str]]:
    """Return the release of an entry, and the codes of its dead letters."""
    feed = a_feed()
    found = read_release(Node(release("26.2") | fields), feed)
    return found, [letter.code.value for letter in feed.dead_letters]


RICH = SofaRelease(
    version=parse_os_version("26.2"),
    builds=frozenset({parse_build("25C56")}),
    released_at=NOW,
    expires_at=NOW,
    cves=frozenset({"CVE-2026-1001"}),
    exploited=frozenset({"CVE-2026-1001"}),
    severity="medium",
    url="https://support.apple.com/a",
    scope="device-specific",
    listed=frozenset({"J700AP"}),
)
OTHER = SofaRelease(
    version=parse_os_version("26.2"),
    builds=frozenset({parse_build("25C57")}),
    released_at=LATER,
    expires_at=LATER,
    cves=frozenset({"CVE-2026-1002"}),
    exploited=frozenset({"CVE-2026-1002"}),
    severity="critical",
    url="https://support.apple.com/b",
    scope="universal",
    listed=frozenset({"J701AP"}),
)
BARE = SofaRelease(version=parse_os_version("26.2"))


def test_two_entries_of_a_release_merge_in_any_order() -> None:
    joined = RICH.merged(OTHER)
    assert joined == OTHER.merged(RICH)
    assert joined == SofaRelease(
        version=parse_os_version("26.2"),
        builds=RICH.builds | OTHER.builds,
        released_at=NOW,
        expires_at=LATER,
        cves=frozenset({"CVE-2026-1001", "CVE-2026-1002"}),
        exploited=frozenset({"CVE-2026-1001", "CVE-2026-1002"}),
        severity="critical",
        url="https://support.apple.com/b",
        scope="device-specific",
        listed=frozenset({"J700AP", "J701AP"}),
    )
    assert RICH.merged(BARE) == BARE.merged(RICH) == RICH


def test_builds_date_and_notes_that_a_feed_blanks_are_remembered() -> None:
    kept = replace(
        BARE,
        builds=RICH.builds,
        released_at=NOW,
        url=RICH.url,
        cves=RICH.cves,
        exploited=RICH.exploited,
        severity=RICH.severity,
    )
    assert BARE.filled_from(RICH) == kept
    assert OTHER.filled_from(RICH) == OTHER


@pytest.mark.parametrize(
    ("cves", "exploited", "want"),
    [
        pytest.param({"CVE-1", "CVE-2"}, set(), {"CVE-1"}, id="flag-went-and-cve-stayed"),
        pytest.param({"CVE-2"}, set(), set(), id="cve-was-replaced"),
        pytest.param({"CVE-2"}, {"CVE-2"}, {"CVE-2"}, id="another-is-exploited"),
        pytest.param(set(), set(), {"CVE-1"}, id="empty-list"),
        pytest.param(set(), {"CVE-3"}, {"CVE-3"}, id="only-an-exploited-one"),
    ],
)
def test_a_cve_is_exploited_as_long_as_it_is_listed(
    cves: set[str], exploited: set[str], want: set[str]
) -> None:
    old = replace(BARE, cves=frozenset({"CVE-1"}), exploited=frozenset({"CVE-1"}))
    new = replace(BARE, cves=frozenset(cves), exploited=frozenset(exploited))
    assert new.filled_from(old).exploited == want


def test_the_worst_rating_counts() -> None:
    assert worst("low", None, "high", "medium") == "high"
    assert worst("critical", "high") == "critical"
    assert worst(None) is worst() is None


RATINGS = [
    pytest.param({"Severity": " HIGH "}, "high", id="in-capitals"),
    pytest.param({"Severity": "severe"}, None, id="unknown-word"),
    pytest.param({"Severity": 9.8}, None, id="a-number"),
    pytest.param({}, None, id="none"),
    pytest.param(True, None, id="a-flag"),
]


@pytest.mark.parametrize(("rating", "severity"), RATINGS)
def test_a_rating_is_one_of_four_words(rating: Any, severity: str | None) -> None:
    assert read(CVEs={"CVE-2026-1001": rating})[0].severity == severity


def test_a_flagged_key_that_is_not_a_cve_id_is_a_dead_letter_and_not_exploited() -> None:
    found, refused = read(CVEs={"not a CVE": True, "CVE-2026-1001": {"InKEV": True}})
    assert found.exploited == found.cves == {"CVE-2026-1001"}
    assert len(refused) == 1


FLAGS = [
    pytest.param({"ActivelyExploited": True, "InKEV": False}, True, id="exploited"),
    pytest.param({"ActivelyExploited": False, "InKEV": True}, True, id="in-kev"),
    pytest.param({"ActivelyExploited": False, "InKEV": False}, False, id="neither"),
    pytest.param({"ActivelyExploited": "yes", "InKEV": 1}, False, id="not-booleans"),
    pytest.param(1, False, id="a-number"),
]


@pytest.mark.parametrize(("rating", "exploited"), FLAGS)
def test_only_true_marks_a_cve_as_exploited(rating: Any, exploited: bool) -> None:
    assert bool(read(CVEs={"CVE-2026-1001": rating})[0].exploited) is exploited


KINDS = [
    pytest.param("OS", "macOS Tahoe 26.2", "26.2", id="release"),
    pytest.param("", "", "26.2", id="not-named"),
    pytest.param("RSR_b", "", "26.2 (b)", id="by-its-type"),
    pytest.param("", "Rapid Security Response 26.2 (c)", "26.2 (c)", id="by-its-name"),
    pytest.param("OS", None, "26.2", id="no-name"),
]


@pytest.mark.parametrize(("kind", "name", "version"), KINDS)
def test_a_supplement_has_its_letter_in_type_or_name(
    kind: str, name: str | None, version: str
) -> None:
    entry = release("26.2", ReleaseType=kind, UpdateName=name)
    assert release_version(Node(entry)) == parse_os_version(version)


@pytest.mark.parametrize(
    ("fields", "code"),
    [({"ReleaseType": "Firmware"}, "unknown_type"), ({"ProductName": "iOS"}, "not_a_mac")],
)
def test_an_entry_that_is_not_a_macos_release_is_refused(fields: dict[str, str], code: str) -> None:
    with pytest.raises(PayloadError) as refused:
        read(**fields)
    assert refused.value.code.value == code


NOTES = [
    pytest.param("https://support.apple.com/" + "a" * 998, True, id="longest-allowed"),
    pytest.param("https://support.apple.com/" + "a" * 999, False, id="too-long"),
    pytest.param("https://support.apple.com/en-us/100100/", False, id="page-of-all-notes"),
    pytest.param("https://support.apple.com/ü", False, id="not-ascii"),
    pytest.param("https://support.apple.com/\x07", False, id="not-printable"),
    pytest.param("http://support.apple.com/", False, id="not-encrypted"),
]


@pytest.mark.parametrize(("url", "kept"), NOTES)
def test_security_notes_are_a_printable_web_page(url: str, kept: bool) -> None:
    assert read(SecurityInfo=url)[0].url == (url if kept else None)


def test_a_list_is_read_up_to_its_limit_and_the_rest_is_a_dead_letter() -> None:
    ids = [f"J{number}AP" for number in range(MAX_LISTED + 1)]
    found, refused = read(SupportedDevices=ids[:-1])
    assert (found.listed, refused) == (frozenset(ids[:-1]), [])
    found, refused = read(SupportedDevices=ids)
    assert (found.listed, refused) == (frozenset(ids[:-1]), ["bad_value"])


def test_an_invalid_part_becomes_a_dead_letter_and_the_rest_is_read() -> None:
    found, refused = read(
        AllBuilds=["25C56", "no build"],
        Build="25C57",
        CVEs=["CVE-2026-1001"],
        ActivelyExploitedCVEs="CVE-2026-1001",
        ExpirationDate="soon",
        DeviceScope="device-specific",
    )
    assert {str(build) for build in found.builds} == {"25C56", "25C57"}
    assert (found.cves, found.exploited, found.expires_at) == (frozenset(), frozenset(), None)
    assert found.scope == "device-specific"
    assert len(refused) == 4


SUPPLEMENT = {
    "Version": "26.2",
    "VersionExtra": "(a)",
    "Build": "25C771280a",
    "PostingDate": "2026-01-05",
    "ExpirationDate": "2026-01-09",
    "CVEs": ["CVE-2026-1001"],
    "ActivelyExploitedCVEs": ["CVE-2026-1002"],
    "SecurityInfo": "https://support.apple.com/a",
    "DeviceScope": "universal",
    "SupportedDevices": ["J700AP"],
}


def test_every_field_of_a_supplement_is_read() -> None:
    feed = a_feed()
    assert read_supplement(Node(SUPPLEMENT), feed) == SofaRelease(
        version=parse_os_version("26.2 (a)"),
        builds=frozenset({parse_build("25C771280a")}),
        released_at=NOW,
        expires_at=LATER,
        cves=frozenset({"CVE-2026-1001"}),
        exploited=frozenset({"CVE-2026-1002"}),
        url="https://support.apple.com/a",
        scope="universal",
        listed=frozenset({"J700AP"}),
    )
    assert feed.dead_letters == []
    assert read_supplement(Node(SUPPLEMENT | {"Build": None}), feed).builds == frozenset()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"VersionExtra": None, "Build": None}, "bad_shape"),
        ({"VersionExtra": "", "Build": "25C56"}, "bad_shape"),
        ({"VersionExtra": "1"}, "bad_value"),
        ({"VersionExtra": "(b)"}, "bad_value"),
        ({"Build": "23C771280a"}, "bad_value"),
        ({"SupportedDevices": ["iPad13,1", "iPhone17,1"]}, "not_a_mac"),
    ],
)
def test_a_supplement_that_contradicts_itself_is_refused(fields: dict[str, Any], code: str) -> None:
    with pytest.raises(PayloadError) as refused:
        read_supplement(Node(SUPPLEMENT | fields), a_feed())
    assert refused.value.code == code


@pytest.mark.parametrize("extra", [None, ""])
def test_the_letter_of_a_supplement_is_in_its_build_too(extra: str | None) -> None:
    found = read_supplement(Node(SUPPLEMENT | {"VersionExtra": extra}), a_feed())
    assert found.version == parse_os_version("26.2 (a)")


def test_a_supplement_with_keys_in_snake_case_is_equal() -> None:
    snake = {
        "version": "26.2",
        "version_extra": "(a)",
        "build": "25C771280a",
        "posting_date": "2026-01-05",
        "expiration_date": "2026-01-09",
        "cves": ["CVE-2026-1001"],
        "actively_exploited_cves": ["CVE-2026-1002"],
        "security_info": "https://support.apple.com/a",
        "device_scope": "universal",
        "supported_devices": ["J700AP"],
    }
    assert read_supplement(Node(snake), a_feed()) == read_supplement(Node(SUPPLEMENT), a_feed())


@pytest.mark.parametrize("build", ["25C5000a", "24C56", "23C771280a"])
def test_a_build_of_a_beta_or_of_another_train_is_a_dead_letter(build: str) -> None:
    found, refused = read(Build="25C56", AllBuilds=[build])
    assert {str(one) for one in found.builds} == {"25C56"}
    assert refused == ["bad_value"]
