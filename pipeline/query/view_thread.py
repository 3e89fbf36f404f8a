"""The thread that owns the view: it writes records and serves requests, in their order.

A request sees the view between two transactions. The event loop reads Kafka and HTTP meanwhile.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self, TypeVar

from pipeline.gateway.endpoint import HttpError

# A request takes up to some 100 ms, and a client waits for 60 s.
MAX_WAITING: Final = 100
_RETRY_AFTER_S: Final = 5
_Result = TypeVar("_Result")


class ViewThread:
    """One thread, which ends with the `with` block. At most `max_waiting` requests wait for it."""

    def __init__(self, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._waiting = 0
        self._executor = ThreadPoolExecutor(1, "view")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()

    def call(self, work: Callable[[], _Result]) -> _Result:
        """Return the result of this work: before the event loop starts, and after it."""
        return self._executor.submit(work).result()

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Return the result of this work, which waits for its turn."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def serve(self, request: Callable[[], _Result]) -> _Result:
        """Return the result of a request. Raises HttpError 429 if too many wait."""
        if self._waiting >= self._max_waiting:
            raise HttpError(429, "too many requests wait; retry", retry_after_s=_RETRY_AFTER_S)
        self._waiting += 1
        try:
            return await self.run(request)
        finally:
            self._waiting -= 1
