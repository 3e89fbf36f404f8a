"""The difference between this program's clock and the clock of the brokers, from confirmed writes.

The broker sets the time of a record in topics with `message.timestamp.type` LogAppendTime, which
are all topics of Drydock (`schemas.topics`). It does so between the send and the confirmation.
"""

from typing import Final

from runtime.logs import Log
from schemas import logkeys as key

# Clocks with NTP differ by less than 0.1 s; windows and deadlines are in minutes.
LIMIT_S: Final = 10.0


class ClockSkew:
    """The least difference of the clocks that the last confirmed write proves.

    `seconds` is positive if this program's clock is ahead, and 0 if the write proves no difference
    or there was none. A difference over `limit_s` is logged when it begins and when it ends.
    """

    def __init__(self, log: Log, limit_s: float = LIMIT_S) -> None:
        self.seconds = 0.0
        self._log = log
        self._limit_s = limit_s
        self._is_over = False

    def observe(self, sent_at_s: float, confirmed_at_s: float, broker_ms: int | None) -> None:
        """Measure with one write.

        The times of send and confirmation are of this program's clock, in seconds since 1970.
        `broker_ms` is the record's time in the confirmation, in milliseconds since 1970; None or
        below 0 if the broker did not set it, which measures nothing.
        """
        if broker_ms is None or broker_ms < 0:
            return
        least_s, most_s = sent_at_s - (broker_ms + 1) / 1000, confirmed_at_s - broker_ms / 1000
        self.seconds = max(least_s, 0.0) + min(most_s, 0.0)
        is_over = abs(self.seconds) > self._limit_s
        if is_over != self._is_over:
            self._is_over = is_over
            detail = f"{self.seconds:+.1f} s"
            if is_over:
                self._log.error(
                    "clock differs from the brokers' clock: check NTP on both",
                    **{key.DETAIL: detail},
                )
            else:
                self._log.info("clock agrees with the brokers' clock", **{key.DETAIL: detail})
