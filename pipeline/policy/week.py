"""The local week of a site as runs in which its maintenance windows are open or closed."""

from bisect import bisect_right
from functools import lru_cache
from typing import Final, NamedTuple

from pipeline.policy.model import DAYS, Window

DAY_MINUTES: Final = 24 * 60
WEEK_MINUTES: Final = 7 * DAY_MINUTES


class Week(NamedTuple):
    """A local week from Monday 00:00 as runs of equal state.

    Run i begins at minute `starts[i]` (`starts[0]` is 0) and is open if `opens[i]`.
    """

    starts: tuple[int, ...]
    opens: tuple[bool, ...]

    def is_open(self, minute: int) -> bool:
        """Return True if the windows are open in this minute of the week (0 to 10,079)."""
        return self.opens[bisect_right(self.starts, minute) - 1]

    def next_change(self, minute: int) -> int:
        """Return the next minute with the other state; from 10,080 on it is in the next week.

        The week must have more than one run.
        """
        run = bisect_right(self.starts, minute)
        if run < len(self.starts):
            return self.starts[run]
        wraps_over = self.opens[0] == self.opens[-1]
        return WEEK_MINUTES + (self.starts[1] if wraps_over else 0)

    def longest_closed(self) -> int:
        """Return the minutes of the longest time without an open window; 0 if it never closes.

        A week that never opens has 10,080.
        """
        if len(self.starts) == 1:
            return 0 if self.opens[0] else WEEK_MINUTES
        # A run that ends with the week continues in the run at its beginning, as one longer run.
        return max(
            self.next_change(start) - start
            for start, is_open in zip(self.starts, self.opens, strict=True)
            if not is_open
        )


@lru_cache(maxsize=256)
def week_of(windows: tuple[Window, ...]) -> Week:
    """Return the local week in which the minutes of these windows are open."""
    minutes = bytearray(WEEK_MINUTES)
    for window in windows:
        start = minutes_of(window.start)
        for day in window.days:
            first = DAYS.index(day) * DAY_MINUTES + start
            for minute in range(first, first + length_of(window)):
                minutes[minute % WEEK_MINUTES] = 1
    starts = [0, *(m for m in range(1, WEEK_MINUTES) if minutes[m] != minutes[m - 1])]
    return Week(tuple(starts), tuple(bool(minutes[start]) for start in starts))


def length_of(window: Window) -> int:
    """Return the length of a window in minutes, 1 to 1,440."""
    return (minutes_of(window.end) - minutes_of(window.start)) % DAY_MINUTES or DAY_MINUTES


def minutes_of(clock: str) -> int:
    """Return the minutes since midnight of a time of day `HH:MM`."""
    return int(clock[:2]) * 60 + int(clock[3:])
