"""Limits of requests: size, time and content encoding of a body, memory of all bodies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request

from pipeline.gateway.endpoint import HttpError
from pipeline.gateway.event_sink import BUSY_DETAIL

# A sender that needs longer for its body is assumed to hang.
_BODY_TIMEOUT_S: Final = 30.0
BUSY_RETRY_AFTER_S: Final = 1


@dataclass(slots=True)
class BodyReader:
    """Reads bodies. Those in use together have at most `max_buffered_bytes`."""

    max_buffered_bytes: int
    timeout_s: float = _BODY_TIMEOUT_S
    _buffered_bytes: int = field(default=0, init=False)

    @asynccontextmanager
    async def read(
        self, request: Request, max_bytes: int, *, is_proven: bool = True
    ) -> AsyncIterator[bytes]:
        """Yield the whole body of a request; it counts as used memory until the block ends.

        A body of a proven sender counts with the length that its head states, from the start. Of
        another one only the bytes that have come count: a head alone keeps no memory from others.

        Raises HttpError: 429 if the bodies in use would be over `max_buffered_bytes` (one body
        alone is always read), 408 (longer than `timeout_s`), 413 (over `max_bytes`), 415 (any
        Content-Encoding). Raises ClientDisconnect if the client disconnects before the end.
        """
        length = _length_of(request)
        body = _Body(self)
        try:
            if is_proven:
                body.reserve(max_bytes if length is None else min(length, max_bytes))
            yield await self._read(request, max_bytes, body)
        finally:
            self._buffered_bytes -= body.reserved_bytes

    async def _read(self, request: Request, max_bytes: int, body: "_Body") -> bytes:
        if request.headers.get("content-encoding", "identity") != "identity":
            # A small compressed body could expand over any limit.
            raise HttpError(415, "the body has a content-encoding; send it without")
        if (_length_of(request) or 0) > max_bytes:
            raise _oversize(max_bytes)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.timeout_s):
                async for part in request.stream():
                    size += len(part)
                    if size > max_bytes:
                        raise _oversize(max_bytes)
                    body.reserve(size)
                    parts.append(part)
        except TimeoutError:
            raise HttpError(
                408, f"the body was not complete within {self.timeout_s:.0f} s"
            ) from None
        return b"".join(parts)

    def reserve(self, more_bytes: int, reserved_bytes: int) -> None:
        """Count `more_bytes` for a body that has `reserved_bytes` already.

        Raises HttpError (429) if the bodies in use would be over `max_buffered_bytes`, unless no
        other body is in use.
        """
        others_bytes = self._buffered_bytes - reserved_bytes
        wanted_bytes = self._buffered_bytes + more_bytes
        if others_bytes and wanted_bytes > self.max_buffered_bytes:
            raise HttpError(429, BUSY_DETAIL, retry_after_s=BUSY_RETRY_AFTER_S)
        self._buffered_bytes = wanted_bytes


@dataclass(slots=True)
class _Body:
    """The memory that one body is counted with."""

    reader: BodyReader
    reserved_bytes: int = 0

    def reserve(self, size_bytes: int) -> None:
        """Count the body with at least this size. Raises HttpError (429)."""
        more_bytes = size_bytes - self.reserved_bytes
        if more_bytes > 0:
            self.reader.reserve(more_bytes, self.reserved_bytes)
            self.reserved_bytes = size_bytes


def _length_of(request: Request) -> int | None:
    """Return the value of Content-Length; None without a usable one."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _oversize(max_bytes: int) -> HttpError:
    return HttpError(413, f"the body is over the limit of {max_bytes} bytes")
