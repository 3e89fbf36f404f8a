"""A lower limit of the present time, from signed jobs and from the brokers.

An agent whose clock is hours behind would start jobs that have expired. A job that was issued at a
time, and records that the brokers appended at a time, prove that it is at least that time. Each of
both clocks may be wrong, so the earlier of the two limits counts.
"""

import threading
from datetime import UTC, datetime


class ProvenTime:
    """The newest time of issue of verified jobs, and of the records read. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._issued: datetime | None = None
        self._appended: datetime | None = None

    def observe_issue(self, issued_at: datetime) -> None:
        """Take the time of issue of a verified job."""
        with self._lock:
            self._issued = issued_at if self._issued is None else max(self._issued, issued_at)

    def observe_append(self, broker_ms: int) -> None:
        """Take the broker's time of a record, in milliseconds since 1970, -1 without one."""
        if broker_ms < 0:
            return
        appended_at = datetime.fromtimestamp(broker_ms / 1000, UTC)
        with self._lock:
            known = self._appended
            self._appended = appended_at if known is None else max(known, appended_at)

    def no_earlier(self, now: datetime) -> datetime:
        """Return `now`, or the proven time if that is later."""
        with self._lock:
            if self._issued is None or self._appended is None:
                return now
            return max(now, min(self._issued, self._appended))
