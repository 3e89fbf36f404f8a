import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.macos import (
    Build,
    BuildField,
    OSVersion,
    OSVersionField,
    parse_build,
    parse_os_version,
    reaches,
    train_of,
    version_with_build,
)

VERSIONS = [
    pytest.param("26.2", (26, 2, 0, ""), id="no-patch"),
    pytest.param("26.2.0", (26, 2, 0, ""), id="patch-0-as-in-osquery"),
    pytest.param("15.7.3", (15, 7, 3, ""), id="patch"),
    pytest.param("26", (26, 0, 0, ""), id="major-alone"),
    pytest.param("26.10", (26, 10, 0, ""), id="two-digit-minor"),
    pytest.param("10.15.7", (10, 15, 7, ""), id="before-11"),
    pytest.param("26.3.1 (a)", (26, 3, 1, "a"), id="supplement"),
    pytest.param("26.3.1(A)", (26, 3, 1, "a"), id="supplement-without-space"),
    pytest.param("macOS 26", (26, 0, 0, ""), id="line-before-the-rename"),
    pytest.param("Tahoe 26", (26, 0, 0, ""), id="line-after-the-rename"),
    pytest.param("Golden Gate 27", (27, 0, 0, ""), id="line-27"),
    pytest.param("macOS Tahoe 26.7", (26, 7, 0, ""), id="software-update-label"),
    pytest.param("macOS Ventura 13.4.1 (c)", (13, 4, 1, "c"), id="update-name"),
    pytest.param(
        "Rapid Security Response macOS Ventura 13.4.1 (a)", (13, 4, 1, "a"), id="rsr-name"
    ),
    pytest.param("Mac OS X 10.15.7", (10, 15, 7, ""), id="old-name"),
    pytest.param("OS X El Capitan 10.11.6", (10, 11, 6, ""), id="older-name"),
    pytest.param(" 26.2\n", (26, 2, 0, ""), id="spaces-around"),
]


@pytest.mark.parametrize(("text", "expected"), VERSIONS)
def test_version_text_is_parsed(text: str, expected: tuple[int, int, int, str]) -> None:
    assert tuple(parse_os_version(text)) == expected


NOT_VERSIONS = [
    pytest.param(text, id=text.replace(" ", "-") or "empty")
    for text in (
        "", " ", "macOS", "Tahoe", "26.", ".26", "26..2", "26.2.", "26.2.1.1", "-26", "26,2",
        "v26.2", "26.2 beta 3", "26.2 (ab)", "26.2 ()", "9.2", "1000", "iOS 26.2", "iPadOS 26.2",
        "watchOS 26", "tvOS 26", "visionOS 26",
        "Rapid Security Response iOS 16.5 (a)", "None", "nan", "1e3",
        "0x1A", "\uff12\uff16.2", "26.\u0662", "26.2; rm", "macOS 26 and later",
    )
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_VERSIONS)
def test_text_that_is_no_macos_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a macOS version"):
        parse_os_version(text)


def test_versions_sort_in_the_order_of_release() -> None:
    ascending = (
        "10.15.7", "11.7.10", "12.7.6", "13.4.1", "13.4.1 (a)", "13.4.1 (c)", "13.5", "14.8.3",
        "15.7.3", "15.7.10", "26", "26.0.1", "26.2", "26.3.1", "26.3.1 (a)", "26.3.2", "26.9",
        "26.10", "27.0",
    )  # fmt: skip
    parsed = [parse_os_version(text) for text in ascending]
    assert parsed == sorted(parsed)
    assert len(set(parsed)) == len(parsed)


def test_version_has_a_line_and_a_release_without_supplement() -> None:
    assert parse_os_version("26.3.1 (a)").line == "26"
    assert parse_os_version("10.15.7").line == "10.15"
    assert parse_os_version("26.3.1 (a)").release == parse_os_version("26.3.1")


BUILDS = [
    pytest.param("25C56", (25, "C", True, 56, ""), id="release"),
    pytest.param("25A5279m", (25, "A", False, 5279, "m"), id="beta"),
    pytest.param("26A5428", (26, "A", False, 5428, ""), id="seed-without-its-letter"),
    pytest.param("25A8364", (25, "A", True, 8364, ""), id="release-for-some-hardware"),
    pytest.param("25D771280a", (25, "D", True, 771280, "a"), id="background-security-improvement"),
    pytest.param("22F770820d", (22, "F", True, 770820, "d"), id="rapid-security-response"),
    pytest.param("20G1443", (20, "G", True, 1443, ""), id="four-digits-are-no-beta"),
    pytest.param("26A428", (26, "A", True, 428, ""), id="macos-27"),
]


@pytest.mark.parametrize(("text", "expected"), BUILDS)
def test_build_text_is_parsed(text: str, expected: tuple[int, str, bool, int, str]) -> None:
    assert tuple(parse_build(text)) == expected
    assert str(parse_build(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "25",
        "C56",
        "25c56",
        "25C",
        "25CC56",
        "25C56AB",
        "25C56ab",
        "2\uff15C56",
        "25C12345678",
        "26.2",
    ],
)
def test_text_that_is_no_build_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a macOS build"):
        parse_build(text)


def test_builds_sort_in_the_order_of_release() -> None:
    ascending = (
        "21H1320", "24G419", "25A5279m", "25A5338b", "25A354", "25A362", "25A8364", "25B78",
        "25C56", "25D125", "25D2128", "25D771280a", "25D771400a", "25E246", "26A428",
    )  # fmt: skip
    parsed = [parse_build(text) for text in ascending]
    assert parsed == sorted(parsed)


TRAINS = [
    pytest.param("27.0", 26, id="27"),
    pytest.param("26.7", 25, id="26"),
    pytest.param("15.8", 24, id="15"),
    pytest.param("12.7.6", 21, id="12"),
    pytest.param("11.7.11", 20, id="11"),
    pytest.param("10.15.7", 19, id="before-11"),
    pytest.param("10.16", None, id="11-in-an-older-sdk"),
    pytest.param("16.0", None, id="never-existed"),
    pytest.param("25.0", None, id="never-existed-either"),
]


@pytest.mark.parametrize(("version", "train"), TRAINS)
def test_build_train_follows_from_the_version(version: str, train: int | None) -> None:
    assert train_of(parse_os_version(version)) == train


SYSTEMS = [
    pytest.param("26.6.2", "25G83", "26.6.2", id="both-agree"),
    pytest.param("26.6.2", None, "26.6.2", id="no-build"),
    pytest.param("16.6.2", "25G83", "26.6.2", id="26-in-an-older-sdk"),
    pytest.param("16.5", "25F71", "26.5", id="26-in-an-older-sdk-without-patch"),
    pytest.param("16.6.2", None, None, id="no-such-macOS-and-no-build"),
    pytest.param("16.4", "24E248", None, id="no-such-macOS-for-15"),
    pytest.param("10.16", "20C69", None, id="11-in-an-older-sdk"),
    pytest.param("24.6.0", "24G90", None, id="the-kernel's-version"),
    pytest.param("15.6.1", "25G72", None, id="build-of-another-line"),
    pytest.param("10.15.7", "19H15", "10.15.7", id="before-11"),
    pytest.param("27.0", "26A428", "27.0", id="27"),
]


@pytest.mark.parametrize(("version", "build", "expected"), SYSTEMS)
def test_the_build_decides_whether_a_version_counts(
    version: str, build: str | None, expected: str | None
) -> None:
    found = version_with_build(parse_os_version(version), parse_build(build) if build else None)
    assert (None if found is None else str(found)) == expected


REACHES = [
    pytest.param("26.2", "25C56", "26.2", "25C56", True, id="the-release-itself"),
    pytest.param("26.10", None, "26.9", None, True, id="later-release"),
    pytest.param("26.1", "25B78", "26.2", "25C56", False, id="earlier-release"),
    pytest.param("26.2", "25C5031i", "26.2", "25C56", False, id="a-beta-is-not-the-release"),
    pytest.param("26.0.1", "25A8364", "26.0.1", "25A362", True, id="same-release-other-hardware"),
    pytest.param("26.0.1", "25A362", "26.0.1", "25A8364", True, id="and-the-other-way-round"),
    pytest.param("26.0.1", "25A360", "26.0.1", "25A362", False, id="release-candidate"),
    pytest.param("26.2", None, "26.2", "25C56", True, id="build-unknown"),
    pytest.param("26.3.1", "25D2128", "26.3.1 (a)", "25D771280a", False, id="lacks-supplement"),
    pytest.param("26.3.1 (a)", "25D771280a", "26.3.1 (a)", None, True, id="has-supplement"),
    pytest.param("26.3.1", "25D771280a", "26.3.1 (a)", "25D771280a", True, id="by-build-alone"),
    pytest.param("26.3.1", "25D771280a", "26.3.1", "25D2128", True, id="supplement-over-release"),
    pytest.param("26.3.2", "25D2140", "26.3.1 (a)", "25D771280a", True, id="release-over-it"),
    pytest.param(None, None, "26.2", None, False, id="nothing-known"),
]


@pytest.mark.parametrize(("version", "build", "target", "wanted", "expected"), REACHES)
def test_reaches_compares_version_then_build(
    version: str | None, build: str | None, target: str, wanted: str | None, *, expected: bool
) -> None:
    found = reaches(
        None if version is None else parse_os_version(version),
        None if build is None else parse_build(build),
        parse_os_version(target),
        None if wanted is None else parse_build(wanted),
    )
    assert found is expected


NUMBER = st.integers(min_value=0, max_value=999)
OS_VERSIONS = st.builds(
    OSVersion,
    st.integers(min_value=10, max_value=999),
    NUMBER,
    NUMBER,
    st.sampled_from(["", "a", "b", "c", "z"]),
)
BUILD_TEXTS = st.from_regex(r"[1-9][0-9]{0,2}[A-Z][1-9][0-9]{0,6}[a-z]?", fullmatch=True)


@given(OS_VERSIONS)
def test_a_version_round_trips_as_text(version: OSVersion) -> None:
    assert parse_os_version(str(version)) == version
    assert parse_os_version(f"macOS {version}") == version
    adapter: TypeAdapter[OSVersion] = TypeAdapter(OSVersionField)
    assert adapter.validate_json(adapter.dump_json(version)) == version


@given(BUILD_TEXTS)
def test_a_build_round_trips_as_text(text: str) -> None:
    build = parse_build(text)
    assert str(build) == text
    adapter: TypeAdapter[Build] = TypeAdapter(BuildField)
    assert adapter.validate_json(adapter.dump_json(build)) == build


@given(OS_VERSIONS, OS_VERSIONS, OS_VERSIONS)
def test_versions_are_totally_ordered(a: OSVersion, b: OSVersion, c: OSVersion) -> None:
    _assert_total_order(a, b, c)


@given(*[BUILD_TEXTS.map(parse_build)] * 3)
def test_builds_are_totally_ordered(a: Build, b: Build, c: Build) -> None:
    _assert_total_order(a, b, c)


def _assert_total_order(a: Any, b: Any, c: Any) -> None:
    assert (a < b) + (a == b) + (a > b) == 1
    assert (a <= b <= a) == (a == b)
    low, middle, high = sorted([a, b, c])
    assert low <= middle <= high
    assert low <= high
    if a == b:
        assert hash(a) == hash(b)


@given(OS_VERSIONS, st.integers(min_value=1, max_value=50))
def test_a_supplement_lies_between_its_release_and_the_next_patch(
    version: OSVersion, step: int
) -> None:
    release = version.release
    assert release <= version < release._replace(patch=release.patch + step)


VERSION_LIKE = st.text(alphabet="0123456789. ()aABmcosOSXTe\n\x00\u0662", max_size=200) | st.text()


@given(VERSION_LIKE)
def test_any_text_is_a_version_or_a_value_error(text: str) -> None:
    for parse in (parse_os_version, parse_build):
        try:
            assert isinstance(parse(text), tuple)
        except ValueError as error:
            assert "not a macOS" in str(error)  # noqa: PT017 - both outcomes are right


HOSTILE = [
    pytest.param("a " * 500_000, id="words"),
    pytest.param("9" * 1_000_000, id="digits"),
    pytest.param("a" + " " * 62 + "!", id="spaces-within-the-limit"),
    pytest.param("macOS " * 10 + "!", id="names-within-the-limit"),
    pytest.param("26" + ".0" * 31, id="dots-within-the-limit"),
]


@pytest.mark.timeout(5)
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_refused_quickly(text: str) -> None:
    for _ in range(200):
        for parse in (parse_os_version.__wrapped__, parse_build.__wrapped__):
            with pytest.raises(ValueError, match="not a macOS"):
                parse(text)


@pytest.mark.parametrize("value", [26.2, 26, None, ["26.2"], {"version": "26.2"}, b"26.2", True])
def test_only_text_is_a_version_on_the_wire(value: object) -> None:
    for field in (OSVersionField, BuildField):
        adapter: TypeAdapter[object] = TypeAdapter(field)
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


# --- Apple's real releases ---


def _feeds(reference_data: Path) -> list[tuple[str, dict[str, Any]]]:
    paths = sorted((reference_data / "sofa").glob("v?/macos_data_feed.20*.json"))
    assert len(paths) >= 13
    return [(path.name, json.loads(path.read_bytes())) for path in paths]


def test_every_reference_release_parses_and_its_builds_are_of_its_train(
    reference_data: Path,
) -> None:
    for name, feed in _feeds(reference_data):
        for line in feed["OSVersions"]:
            for release in line["SecurityReleases"]:
                version = parse_os_version(release["ProductVersion"])
                assert version.line == parse_os_version(line["OSVersion"]).line
                builds = {release.get("Build"), *release.get("AllBuilds", ())} - {"", None}
                for build in builds:
                    parsed = parse_build(build)
                    assert str(parsed) == build
                    assert parsed.train == train_of(version), (name, build)
                    assert not parsed.is_beta


def test_versions_sort_in_the_order_of_the_feed(reference_data: Path) -> None:
    for name, feed in _feeds(reference_data):
        for line in feed["OSVersions"]:
            newest_first = [_named_version(release) for release in line["SecurityReleases"]]
            assert all(newer > older for newer, older in pairwise(newest_first)), (name, line)


def _named_version(release: dict[str, Any]) -> OSVersion:
    """Return the version with its supplement, which a v1 feed has only in the update's name."""
    version = parse_os_version(release["ProductVersion"])
    if "(" in release["UpdateName"]:
        named = parse_os_version(release["UpdateName"])
        assert named.release == version
        return named
    return version


def test_background_improvement_has_a_later_build_than_its_prerequisite(
    reference_data: Path,
) -> None:
    seen = 0
    for _, feed in _feeds(reference_data):
        for improvements in feed.get("BackgroundSecurityImprovements", {}).values():
            for one in improvements:
                version = parse_os_version(f"{one['Version']} {one['VersionExtra']}")
                build, before = parse_build(one["Build"]), parse_build(one["PrerequisiteBuild"])
                assert version > version.release
                assert build > before
                assert not build.is_beta
                assert reaches(version.release, build, version, build)
                assert not reaches(version.release, before, version, build)
                seen += 1
    assert seen


def test_software_lookup_versions_and_installers_agree_with_their_builds(
    reference_data: Path,
) -> None:
    resources = reference_data / "sofa" / "resources"
    lookup = json.loads((resources / "gdmf_cached.json").read_bytes())["data"]
    installers = json.loads((resources / "uma_catalog.json").read_bytes())["products"]
    pairs = [
        (asset["ProductVersion"], asset["Build"])
        for kind in ("PublicAssetSets", "AssetSets")
        for asset in lookup[kind]["macOS"]
    ] + [(one["version"], one["build"]) for one in installers]
    assert len(pairs) > 40
    for version, build in pairs:
        assert parse_build(build).train == train_of(parse_os_version(version))
