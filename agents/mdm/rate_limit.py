"""Limit of requests to one server, for all threads of the process."""

import threading
import time
from collections.abc import Callable


class RateLimit:
    """At most `per_s` requests a second, evenly spaced, after a first burst of one second.

    `wait` blocks for the shortest time that keeps to the limit.
    """

    def __init__(
        self,
        per_s: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval_s = 1 / per_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._lock = threading.Lock()
        self._next_at = monotonic() - 1.0

    def wait(self) -> None:
        """Return when the next request may be sent."""
        with self._lock:
            now = self._monotonic()
            self._next_at = max(self._next_at, now - 1.0) + self._interval_s
            pause_s = self._next_at - now
        if pause_s > 0:
            self._sleep(pause_s)
