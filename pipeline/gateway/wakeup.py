"""Wakes the task that delivers records."""

import asyncio
import time
from contextlib import suppress


class Wakeup:
    """Wakes one task: after a change, or because it has to stop."""

    def __init__(self) -> None:
        self.is_stopping = False
        self._changed = asyncio.Event()

    def notify(self) -> None:
        """Report a change."""
        self._changed.set()

    def stop(self) -> None:
        """Report that the task has to stop."""
        self.is_stopping = True
        self._changed.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait for a change or a stop, at most `timeout_s` seconds.

        Returns at once if one was reported since the last call.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(max(timeout_s, 0)):
                await self._changed.wait()
        self._changed.clear()

    async def sleep(self, timeout_s: float) -> None:
        """Wait for `timeout_s` seconds, or until a stop."""
        until = time.monotonic() + timeout_s
        while not self.is_stopping and (left_s := until - time.monotonic()) > 0:
            await self.wait(left_s)
