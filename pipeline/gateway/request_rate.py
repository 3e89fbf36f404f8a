"""Limit of the requests of each sender in a minute."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pipeline.gateway.endpoint import HttpError
from pipeline.trust.senders import Sender

_MINUTE_S: Final = 60.0


@dataclass(slots=True)
class RequestRate:
    """Counts the requests of each sender in the present minute.

    The number of entries is that of the configured senders.
    """

    monotonic_s: Callable[[], float] = time.monotonic
    _counts: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)

    def count(self, sender: Sender) -> None:
        """Count one request; raise HttpError (429) if the sender has used up its minute."""
        limit = sender.limits.requests_per_minute
        if limit is None:
            return
        now_s = self.monotonic_s()
        minute = int(now_s // _MINUTE_S)
        known, used = self._counts.get(sender.name, (minute, 0))
        if known != minute:
            used = 0
        if used >= limit:
            wait_s = int((minute + 1) * _MINUTE_S - now_s) + 1
            detail = f"more than {limit} requests of {sender.name} in a minute"
            raise HttpError(429, detail, retry_after_s=wait_s)
        self._counts[sender.name] = (minute, used + 1)
