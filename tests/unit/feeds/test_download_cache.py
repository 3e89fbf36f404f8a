"""The last good copy on disk: whole and of this place, or none."""

import json
from pathlib import Path

import pytest

from pipeline.feeds.download_cache import CachedDocument, DownloadCache

URL = "https://feeds.example/sofa.json"
COPY = CachedDocument(URL, b'{"a": 1}', '"v1"', "Mon, 09 Mar 2026 10:00:00 GMT")


@pytest.fixture
def copies(tmp_path: Path) -> DownloadCache:
    return DownloadCache(tmp_path / "copies")


def test_what_was_kept_is_there(copies: DownloadCache) -> None:
    assert copies.load("sofa", URL) is None
    copies.store("sofa", COPY)
    assert copies.load("sofa", URL) == COPY
    assert copies.load("kev", URL) is None
    newer = CachedDocument(URL, b"{}", None, None)
    copies.store("sofa", newer)
    assert copies.load("sofa", URL) == newer


def test_a_copy_from_another_location_does_not_count(copies: DownloadCache) -> None:
    copies.store("sofa", COPY)
    assert copies.load("sofa", "https://mirror.example/sofa.json") is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        pytest.param("sofa.json", b'{"a": ', id="cut-off"),
        pytest.param("sofa.json", b'{"a": 2}', id="of-another-time"),
        pytest.param("sofa.about.json", b"{", id="not-json"),
        pytest.param("sofa.about.json", b"[]", id="not-an-object"),
        pytest.param("sofa.about.json", b"{}", id="no-digest"),
        pytest.param("sofa.about.json", json.dumps({"sha256": "", "x": 1}).encode(), id="strange"),
    ],
)
def test_a_damaged_copy_is_none(
    copies: DownloadCache, tmp_path: Path, file: str, content: bytes
) -> None:
    copies.store("sofa", COPY)
    (tmp_path / "copies" / file).write_bytes(content)
    assert copies.load("sofa", URL) is None


def test_what_was_refused_lies_beside_the_copy(copies: DownloadCache, tmp_path: Path) -> None:
    copies.store("sofa", COPY)
    copies.store_refused("sofa", b"wrong")
    assert (tmp_path / "copies" / "sofa.refused").read_bytes() == b"wrong"
    assert copies.load("sofa", URL) == COPY
