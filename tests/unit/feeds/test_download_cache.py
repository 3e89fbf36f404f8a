"""The download cache: a complete document of this location, or none."""

import json
from pathlib import Path

import pytest

from pipeline.feeds.download_cache import CachedDocument, DownloadCache

URL = "https://feeds.example/sofa.json"
COPY = CachedDocument(URL, b'{"a": 1}', '"v1"', "Mon, 09 Mar 2026 10:00:00 GMT")


@pytest.fixture
def cache(tmp_path: Path) -> DownloadCache:
    return DownloadCache(tmp_path / "copies")


def test_stored_document_is_loaded_until_a_newer_one_replaces_it(cache: DownloadCache) -> None:
    assert cache.load("sofa", URL) is None
    cache.store("sofa", COPY)
    assert cache.load("sofa", URL) == COPY
    assert cache.load("kev", URL) is None
    newer = CachedDocument(URL, b"{}", None, None)
    cache.store("sofa", newer)
    assert cache.load("sofa", URL) == newer


def test_document_of_another_location_is_not_loaded(cache: DownloadCache) -> None:
    cache.store("sofa", COPY)
    assert cache.load("sofa", "https://mirror.example/sofa.json") is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        pytest.param("sofa.json", b'{"a": ', id="cut-off"),
        pytest.param("sofa.json", b'{"a": 2}', id="other-content"),
        pytest.param("sofa.about.json", b"{", id="not-json"),
        pytest.param("sofa.about.json", b"[]", id="not-an-object"),
        pytest.param("sofa.about.json", b"{}", id="no-digest"),
        pytest.param(
            "sofa.about.json", json.dumps({"sha256": "", "x": 1}).encode(), id="unknown-field"
        ),
    ],
)
def test_damaged_document_is_not_loaded(
    cache: DownloadCache, tmp_path: Path, file: str, content: bytes
) -> None:
    cache.store("sofa", COPY)
    (tmp_path / "copies" / file).write_bytes(content)
    assert cache.load("sofa", URL) is None


def test_refused_document_is_stored_beside_the_accepted_one(
    cache: DownloadCache, tmp_path: Path
) -> None:
    cache.store("sofa", COPY)
    cache.store_refused("sofa", b"wrong")
    assert (tmp_path / "copies" / "sofa.refused").read_bytes() == b"wrong"
    assert cache.load("sofa", URL) == COPY
