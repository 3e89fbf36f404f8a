"""The catalog of installers, from SOFA's feed and Apple's software lookup service."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.installers.catalog import (
    CatalogError,
    newest_of_each_major,
    origin_problem,
    read_catalog,
    read_offered_builds,
)
from schemas.macos import parse_build

ROW = {
    "Title": "macOS Tahoe",
    "Version": "26.6",
    "Build": "25G72",
    "URL": "https://swcdn.apple.com/a/InstallAssistant.pkg",
    "PostingDate": "2026-07-27T18:01:08Z",
    "Size": 18_380_741_420,
}


def feed(*rows: object) -> bytes:
    apps = {"LatestUMA": rows[0], "AllPreviousUMA": list(rows[1:])}
    return json.dumps({"InstallationApps": apps}).encode()


def test_version_build_url_and_size_are_read() -> None:
    (entry,) = read_catalog(feed(ROW))
    assert (str(entry.version), str(entry.build)) == ("26.6", "25G72")
    assert (entry.url, entry.size_bytes) == (ROW["URL"], 18_380_741_420)


def test_keys_of_version_1_are_read() -> None:
    old = {
        "title": "macOS Tahoe",
        "version": "26.6",
        "build": "25G72",
        "url": ROW["URL"],
        "posting_date": ROW["PostingDate"],
        "size": ROW["Size"],
    }
    assert read_catalog(feed(old)) == read_catalog(feed(ROW))


def test_build_that_is_listed_twice_counts_as_posted_last() -> None:
    older = ROW | {"URL": "https://swcdn.apple.com/old.pkg", "PostingDate": "2026-07-01T00:00:00Z"}
    undated = ROW | {"URL": "https://swcdn.apple.com/undated.pkg", "PostingDate": None}
    (entry,) = read_catalog(feed(older, ROW, undated))
    assert entry.url == ROW["URL"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"Build": ""}, id="blank-build"),
        pytest.param({"Version": "iOS 26"}, id="another-system"),
        pytest.param({"URL": None}, id="no-url"),
        pytest.param({"Size": 0}, id="empty"),
        pytest.param({"Size": "18380741420"}, id="size-as-text"),
        pytest.param({"Size": True}, id="size-as-boolean"),
        pytest.param({"Size": 90_000_000_000}, id="larger-than-any"),
    ],
)
def test_unusable_row_is_left_out_and_the_others_are_read(change: dict[str, object]) -> None:
    other = ROW | {"Build": "25F84", "Version": "26.5.2"}
    assert [str(entry.build) for entry in read_catalog(feed(ROW | change, other))] == ["25F84"]


@pytest.mark.parametrize(
    "document", [b"", b"[]", b"{}", b'{"InstallationApps": []}', b"\xff", b"[" * 100_000]
)
def test_other_document_is_an_error(document: bytes) -> None:
    with pytest.raises(CatalogError):
        read_catalog(document)
    with pytest.raises(CatalogError):
        read_offered_builds(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)


@given(rows=st.lists(JSON | st.dictionaries(st.sampled_from(sorted(ROW)), JSON), min_size=1))
def test_any_rows_are_read_or_left_out(rows: list[object]) -> None:
    read_catalog(feed(*rows))


def test_newest_of_each_major_version_is_selected() -> None:
    versions = {"26.6": "25G72", "26.10": "25K10", "15.7.8": "24G720", "14.8": "23J10"}
    rows = [ROW | {"Version": version, "Build": build} for version, build in versions.items()]
    seed = ROW | {"Version": "27.0", "Build": "26A5428a"}
    entries = read_catalog(feed(*rows, seed))
    assert [str(one.version) for one in newest_of_each_major(entries, 2)] == ["26.10", "15.7.8"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (ROW["URL"], None),
        ("https://SWCDN.APPLE.COM/x.pkg", None),
        ("http://swcdn.apple.com/x.pkg", "its URL is not https"),
        ("https://apple.com.example.org/x.pkg", "not at Apple"),
        ("https://notapple.com/x.pkg", "not at Apple"),
        ("https://swcdn.apple.com@example.org/x.pkg", "not at Apple"),
        ("https://[::1/x.pkg", "cannot be read"),
        ("http://127.0.0.1/x.pkg", "not at Apple"),
    ],
)
def test_only_apples_https_servers_are_origins(url: str, problem: str | None) -> None:
    found = origin_problem(url)
    assert found == problem or (problem is not None and problem in str(found))


def test_mirror_that_the_operator_names_is_an_origin() -> None:
    assert origin_problem("https://mirror.example.org/x.pkg", ("mirror.example.org",)) is None
    assert origin_problem("http://mirror.example.org/x.pkg", ("mirror.example.org",)) is not None


@pytest.mark.parametrize(
    "name", ["v2/macos_data_feed.2026-08-06T1306Z.json", "v1/macos_data_feed.2026-08-06.json"]
)
def test_real_feeds_list_every_installer(reference_data: Path, name: str) -> None:
    document = (reference_data / "sofa" / name).read_bytes()
    entries = read_catalog(document)
    listed = json.loads(document)["InstallationApps"]
    rows = [listed["LatestUMA"], *listed["AllPreviousUMA"]]
    keys = ("Build", "build")
    wanted = {row.get(keys[0]) or row.get(keys[1]) for row in rows}
    assert {str(entry.build) for entry in entries} == wanted
    assert max(entry.size_bytes for entry in entries) == 18_380_741_420
    assert {origin_problem(entry.url) for entry in entries} == {None}
    newest = newest_of_each_major(entries, 3)
    assert str(newest[0].build) == "25G72"


def test_real_list_of_apple_has_the_newest_installers(reference_data: Path) -> None:
    gdmf = (reference_data / "sofa" / "resources" / "gdmf_cached.json").read_bytes()
    offered = read_offered_builds(gdmf)
    assert parse_build("25G72") in offered
    assert parse_build("25A354") not in offered
