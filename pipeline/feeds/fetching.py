"""Reads a feed's document from a file or a URL, with limits on time, size and retries."""

import asyncio
import ssl
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import httpx

from pipeline.feeds.download_cache import CachedDocument
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


def is_url(location: str) -> bool:
    """Return True if the location is a URL; otherwise it is the path of a file."""
    return location.startswith(("https://", "http://"))


async def fetch(location: str, known: CachedDocument | None, limits: FetchLimits) -> CachedDocument:
    """Return the current document of a location, a URL or the path of a file.

    `known` is the document of an earlier fetch; it is returned if the server responds "not
    modified", and not used for a file. Raises FetchError if the file cannot be read, the document
    is too large, a response is not usable, or the last try fails.
    """
    if not is_url(location):
        return await asyncio.to_thread(_read, location, limits.max_bytes)
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
    try:
        async with (
            asyncio.timeout(limits.timeout_s),
            httpx.AsyncClient(
                verify=_ssl_context(location),
                timeout=httpx.Timeout(limits.timeout_s, connect=_CONNECT_S),
                follow_redirects=True,
                max_redirects=_MOST_REDIRECTS,
                headers={"User-Agent": f"drydock/{version('drydock')}"},
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
    document over `max_bytes`, and a redirect from HTTPS to HTTP.
    """
    hops = [*response.history, response]
    if location.startswith("https://") and any(hop.url.scheme != "https" for hop in hops):
        raise FetchError(f"redirected to {response.url}, which is not HTTPS")
    if response.status_code == httpx.codes.NOT_MODIFIED and known is not None:
        return known
    if response.status_code in _RETRY_STATUSES:
        raise _TransientFetchError(f"HTTP {response.status_code}")
    if response.status_code != httpx.codes.OK:
        raise FetchError(f"HTTP {response.status_code}")
    document = bytearray()
    async for part in response.aiter_bytes():
        document += part
        _check_size(document, max_bytes)
    headers = response.headers
    return CachedDocument(
        location, bytes(document), headers.get("etag"), headers.get("last-modified")
    )


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
