"""Apple's copy of an installer, over HTTPS, in byte ranges."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, Self

import httpx

from agents.installers.transfer import ChangedError, TransferCutError

# Statuses that a later request may not get: overload, and failures behind a load balancer.
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)


class OriginError(Exception):
    """The origin does not have the file, or refuses it; the message is one line."""


def origin_client() -> httpx.Client:
    """Return a client for origins. It follows no redirect: the host of the URL was checked."""
    return httpx.Client(timeout=_TIMEOUT, follow_redirects=False)


@dataclass(frozen=True, slots=True)
class Origin:
    """One version of a file at a URL. `tag` is its strong ETag, or else the time of its last
    change."""

    http: httpx.Client = field(repr=False)
    url: str
    tag: str
    size_bytes: int

    @classmethod
    def find(cls, http: httpx.Client, url: str) -> Self:
        """Return the present version of the file at a URL.

        Raises OriginError if there is none, or the server states neither size nor version,
        TransferCutError if it does not respond.
        """
        try:
            found = http.head(url, headers={"Accept-Encoding": "identity"})
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise TransferCutError(f"{type(error).__name__}: {error}") from error
        _check_status(found, httpx.codes.OK)
        tag, size = _tag(found), found.headers.get("content-length", "")
        if tag is None or not size.isdecimal():
            raise OriginError("the server states no size or no version of the file")
        return cls(http, url, tag, int(size))

    @contextmanager
    def read_from(self, offset: int) -> Iterator[Iterator[bytes]]:
        """Yield the bytes from an offset to the end; see RemoteFile."""
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": self.tag}
        try:
            with self.http.stream("GET", self.url, headers=headers) as response:
                wanted = httpx.codes.PARTIAL_CONTENT if offset else httpx.codes.OK
                if offset and response.status_code == httpx.codes.OK:
                    raise ChangedError("the file at the origin has changed: it begins again")
                _check_status(response, wanted)
                self._check_version(response, offset)
                yield _pieces(response)
        except httpx.HTTPError as error:
            raise TransferCutError(f"{type(error).__name__}: {error}") from error

    def _check_version(self, response: httpx.Response, offset: int) -> None:
        ranged = response.headers.get("content-range", "")
        if _tag(response) != self.tag or (offset and ranged != self._range(offset)):
            raise ChangedError("the file at the origin has changed: it begins again")

    def _range(self, offset: int) -> str:
        return f"bytes {offset}-{self.size_bytes - 1}/{self.size_bytes}"


def _pieces(response: httpx.Response) -> Iterator[bytes]:
    try:
        yield from response.iter_raw()
    except httpx.HTTPError as error:
        raise TransferCutError(f"{type(error).__name__}: {error}") from error


def _tag(response: httpx.Response) -> str | None:
    """Return what `If-Range` accepts: a strong ETag, or else the time of the last change."""
    tag: str | None = response.headers.get("etag")
    if tag and not tag.startswith("W/"):
        return tag
    changed: str | None = response.headers.get("last-modified")
    return changed


def _check_status(response: httpx.Response, wanted: int) -> None:
    status = response.status_code
    if status in _TRANSIENT:
        raise TransferCutError(f"the origin responds with HTTP {status}")
    if status != wanted:
        raise OriginError(f"the origin responds with HTTP {status}")
