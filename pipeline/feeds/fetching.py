"""Reads a feed's document from a file or a URL, with limits on time, size and retries."""

import asyncio
import ssl
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import httpx

from pipeline.feeds.download_cache import CachedDocument
from pipeline.feeds.locations import is_http_of_this_computer, is_url, problem_of
from runtime.retry import RetryPolicy, async_retrying

# Apple's lookup service (gdmf.apple.com) has a certificate of Apple's own authority, which the
# trust stores of systems lack: "Apple Root CA" of https://www.apple.com/certificateauthority/,
# valid until 2035.
APPLE_ROOT_CA: Final = Path(__file__).with_name("apple_root_ca.pem")
_APPLE: Final = ".apple.com"
_RETRY_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONNECT_S: Final = 10.0
_MOST_REDIRECTS: Final = 5


class FetchError(Exception):
    """The document could not be read; the message is one line."""


class _TransientFetchError(FetchError):
    """The fetch failed, but a retry may succeed."""


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Limits of one fetch.

    `timeout_s` is for one whole try, `tries` the maximum of tries. The pause between them is
    random and grows up to `pause_s`. `max_bytes` limits the decompressed document.
    """

    timeout_s: float = 60.0
    tries: int = 4
    pause_s: float = 30.0
    max_bytes: int = 32 * 1024 * 1024


async def fetch(location: str, known: CachedDocument | None, limits: FetchLimits) -> CachedDocument:
    """Return the current document of a location, a URL or the path of a file.

    `known` is the document of an earlier fetch; it is returned if the server responds "not
    modified", and not used for a file. Raises FetchError if the file cannot be read, the document
    is too large, a response is not usable, the location or a redirect is plain HTTP to another
    computer, or the last try fails.
    """
    if not is_url(location):
        return await asyncio.to_thread(_read, location, limits.max_bytes)
    problem = problem_of(location)
    if problem is not None:
        raise FetchError(problem)
    retry = async_retrying(
        RetryPolicy(first_s=1.0, max_s=limits.pause_s), _TransientFetchError, attempts=limits.tries
    )
    return await retry(_request, location, known, limits)


def _read(location: str, max_bytes: int) -> CachedDocument:
    try:
        with Path(location).open("rb") as file:
            document = file.read(max_bytes + 1)
    except OSError as error:
        raise FetchError(f"cannot read {location}: {error.strerror}") from error
    _check_size(document, max_bytes)
    return CachedDocument(location, document)


async def _request(
    location: str, known: CachedDocument | None, limits: FetchLimits
) -> CachedDocument:
    may_be_plain = is_http_of_this_computer(location)

    async def check(request: httpx.Request) -> None:
        """Raise FetchError before a redirect to plain HTTP is followed."""
        url = str(request.url)
        if request.url.scheme != "https" and not (may_be_plain and is_http_of_this_computer(url)):
            raise FetchError(f"redirected to {url}, which is not HTTPS")

    try:
        async with (
            asyncio.timeout(limits.timeout_s),
            httpx.AsyncClient(
                verify=_ssl_context(location),
                timeout=httpx.Timeout(limits.timeout_s, connect=_CONNECT_S),
                follow_redirects=True,
                max_redirects=_MOST_REDIRECTS,
                headers={
                    "User-Agent": f"drydock/{version('drydock')}",
                    "Accept-Encoding": "gzip",
                },
                event_hooks={"request": [check]},
            ) as client,
            client.stream("GET", location, headers=_conditional_headers(known)) as response,
        ):
            return await _read_response(response, location, known, limits.max_bytes)
    except TimeoutError:
        raise _TransientFetchError(f"no document within {limits.timeout_s:g} s") from None
    except httpx.TransportError as error:
        raise _TransientFetchError(f"{type(error).__name__}: {error}") from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchError(f"{type(error).__name__}: {error}") from error


async def _read_response(
    response: httpx.Response, location: str, known: CachedDocument | None, max_bytes: int
) -> CachedDocument:
    """Return the document of a response, or `known` for "not modified".

    Raises _TransientFetchError for a status that allows a retry, FetchError for other statuses, a
    document over `max_bytes`, and a content coding other than one gzip.
    """
    if response.status_code == httpx.codes.NOT_MODIFIED and known is not None:
        return known
    if response.status_code in _RETRY_STATUSES:
        raise _TransientFetchError(f"HTTP {response.status_code}")
    if response.status_code != httpx.codes.OK:
        raise FetchError(f"HTTP {response.status_code}")
    headers = response.headers
    document = await _read_body(response, headers.get("content-encoding", "identity"), max_bytes)
    return CachedDocument(location, document, headers.get("etag"), headers.get("last-modified"))


async def _read_body(response: httpx.Response, coding: str, max_bytes: int) -> bytes:
    """Return the decompressed body; the memory for it is limited by `max_bytes`.

    httpx decompresses each part that it reads as a whole, and codings inside codings: some KB of
    gzip within gzip are hundreds of MB in memory, before their size can be compared.
    """
    coding = coding.strip().lower()
    if coding not in {"identity", "gzip"}:
        raise FetchError(f"the document has the content coding {coding!r}")
    gzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16) if coding == "gzip" else None
    document = bytearray()
    async for part in response.aiter_raw():
        try:
            # One byte more than permitted shows that the document is too large.
            room = max_bytes + 1 - len(document)
            document += part if gzip is None else gzip.decompress(part, room)
        except zlib.error as error:
            raise FetchError(f"the document is no gzip: {error}") from None
        _check_size(document, max_bytes)
        if gzip is not None and gzip.unused_data:
            raise FetchError("the document is followed by other bytes")
    if gzip is not None and not gzip.eof:
        raise _TransientFetchError("the gzip of the document is incomplete")
    return bytes(document)


def _conditional_headers(known: CachedDocument | None) -> dict[str, str]:
    """Return the headers that ask for a document newer than `known`.

    Empty if `known` is None, or has neither `etag` nor `last_modified`.
    """
    if known is None:
        return {}
    headers = {"If-None-Match": known.etag, "If-Modified-Since": known.last_modified}
    return {name: value for name, value in headers.items() if value is not None}


def _ssl_context(location: str) -> ssl.SSLContext:
    context = httpx.create_ssl_context()
    if httpx.URL(location).host.endswith(_APPLE):
        context.load_verify_locations(APPLE_ROOT_CA)
    return context


def _check_size(document: bytes | bytearray, max_bytes: int) -> None:
    if len(document) > max_bytes:
        raise FetchError(f"the document is over {max_bytes} bytes")
