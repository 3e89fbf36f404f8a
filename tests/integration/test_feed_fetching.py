"""Fetches of feeds from a real web server: conditional requests, limits, retries."""

import asyncio
import gzip
import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from pipeline.feeds import fetching
from pipeline.feeds.download_cache import CachedDocument
from pipeline.feeds.fetching import FetchError, FetchLimits, fetch
from tests.feed_server import FeedServer, etag_of, feed_server

DOCUMENT = b'{"a": 1}'
QUICK = FetchLimits(timeout_s=5, tries=3, pause_s=0.05, max_bytes=1000)
# SHA-256 of "Apple Root CA", from https://www.apple.com/certificateauthority/.
APPLE_SHA256 = "b0b1730ecbc7ff4505142c49f1295e6eda6bcaed7e2c68c5be91b5a11001f024"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[FeedServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with feed_server() as served:
        served.documents["/feed"] = DOCUMENT
        yield served


def get(
    web: FeedServer, known: CachedDocument | None = None, limits: FetchLimits = QUICK
) -> CachedDocument:
    return asyncio.run(fetch(f"{web.url}/feed", known, limits))


def fetch_error(web: FeedServer, limits: FetchLimits = QUICK) -> str:
    with pytest.raises(FetchError) as error:
        get(web, limits=limits)
    return str(error.value)


def test_unchanged_document_is_not_sent_again(web: FeedServer) -> None:
    first = get(web)
    assert first == CachedDocument(f"{web.url}/feed", DOCUMENT, etag_of(DOCUMENT))
    assert get(web, first) is first
    web.documents["/feed"] = b"{}"
    assert get(web, first).document == b"{}"
    assert web.responses == {("/feed", 200): 2, ("/feed", 304): 1}


def test_transient_status_is_retried(web: FeedServer) -> None:
    web.statuses["/feed"] = [503, 429]
    assert get(web).document == DOCUMENT
    web.statuses["/feed"] = [500] * 9
    assert fetch_error(web) == "HTTP 500"
    assert web.responses["/feed", 500] == 3


def test_permanent_status_is_not_retried(web: FeedServer) -> None:
    web.statuses["/feed"] = [404] * 9
    assert fetch_error(web) == "HTTP 404"
    assert web.responses == {("/feed", 404): 1}


def test_not_modified_without_a_known_document_is_an_error(web: FeedServer) -> None:
    web.statuses["/feed"] = [304]
    assert fetch_error(web) == "HTTP 304"


def test_incomplete_document_is_an_error_after_retries(web: FeedServer) -> None:
    web.declared["/feed"] = len(DOCUMENT) + 1
    assert "RemoteProtocolError" in fetch_error(web)
    assert web.responses["/feed", 200] == 3


def test_document_over_the_size_limit_is_an_error(web: FeedServer) -> None:
    web.documents["/feed"] = b" " * 1001
    assert fetch_error(web) == "the document is over 1000 bytes"
    web.documents["/feed"] = b" " * 1000
    assert len(get(web).document) == 1000


def test_unreachable_server_and_invalid_url_are_errors(web: FeedServer) -> None:
    with pytest.raises(FetchError, match="ConnectError"):
        asyncio.run(fetch("http://127.0.0.1:9/feed", None, QUICK))
    with pytest.raises(FetchError, match="InvalidURL"):
        asyncio.run(fetch("https://feeds:port/", None, QUICK))


def test_response_that_never_ends_is_an_error_after_the_timeout(web: FeedServer) -> None:
    web.declared["/feed"] = len(DOCUMENT) + 1
    web.hangs = True
    assert (
        fetch_error(web, FetchLimits(timeout_s=0.3, tries=2, pause_s=0.05))
        == "no document within 0.3 s"
    )


def test_redirects_are_followed_up_to_a_limit(web: FeedServer) -> None:
    web.location["/feed"] = f"{web.url}/new"
    web.documents["/new"] = b"{}"
    assert get(web).document == b"{}"
    web.location["/new"] = f"{web.url}/feed"
    assert "TooManyRedirects" in fetch_error(web)


def test_compressed_document_is_decompressed_up_to_the_limit(web: FeedServer) -> None:
    web.documents["/feed"], web.codings["/feed"] = gzip.compress(b" " * 1000), "gzip"
    assert get(web).document == b" " * 1000
    web.documents["/feed"] = gzip.compress(b" " * 1001)
    assert fetch_error(web) == "the document is over 1000 bytes"


INVALID: dict[str, tuple[bytes, str, str]] = {
    "twice": (gzip.compress(gzip.compress(DOCUMENT)), "gzip, gzip", "content coding"),
    "unknown coding": (DOCUMENT, "br", "content coding 'br'"),
    "no gzip": (DOCUMENT, "gzip", "is no gzip"),
    "cut off": (gzip.compress(DOCUMENT)[:-9], "gzip", "incomplete"),
    "bytes after it": (gzip.compress(DOCUMENT) + b"x", "gzip", "other bytes"),
}


@pytest.mark.parametrize(("document", "coding", "error"), INVALID.values(), ids=INVALID.keys())
def test_other_compression_is_an_error(
    web: FeedServer, document: bytes, coding: str, error: str
) -> None:
    web.documents["/feed"], web.codings["/feed"] = document, coding
    assert error in fetch_error(web)


@pytest.mark.parametrize("url", ["http://203.0.113.9/feed", "http://feeds.example/feed"])
def test_plain_http_of_another_computer_is_neither_read_nor_followed(
    web: FeedServer, url: str
) -> None:
    with pytest.raises(FetchError, match="is not HTTPS"):
        asyncio.run(fetch(url, None, QUICK))
    web.location["/feed"] = url
    assert fetch_error(web) == f"redirected to {url}, which is not HTTPS"


def test_file_has_the_same_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "feed.json"
    path.write_bytes(DOCUMENT)
    assert asyncio.run(fetch(str(path), None, QUICK)).document == DOCUMENT
    path.write_bytes(b" " * 1001)
    for location, error in (
        (path, "over 1000 bytes"),
        (tmp_path, "cannot read .*: Is a directory"),
    ):
        with pytest.raises(FetchError, match=error):
            asyncio.run(fetch(str(location), None, QUICK))


def test_apples_authority_is_trusted_for_hosts_of_apple_only() -> None:
    pem = fetching.APPLE_ROOT_CA.read_bytes()
    der = ssl.PEM_cert_to_DER_cert(pem.decode())
    assert hashlib.sha256(der).hexdigest() == APPLE_SHA256
    assert x509.load_pem_x509_certificate(pem).not_valid_after_utc.year == 2035
    known = {
        host: der in fetching._ssl_context(f"https://{host}/").get_ca_certs(binary_form=True)
        for host in ("gdmf.apple.com", "www.cisa.gov", "gdmf.apple.com.example")
    }
    assert known == {
        "gdmf.apple.com": True,
        "www.cisa.gov": False,
        "gdmf.apple.com.example": False,
    }
