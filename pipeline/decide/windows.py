"""When a site's maintenance windows are open.

A window is open while the clock on the site's wall shows a time inside it, `to` excluded. Its days
are those on which it starts: `fri` 22:00 to 04:00 ends on Saturday. So an hour that a time change
skips is never open, and one that it repeats is open both times.
"""

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from pipeline.decide.policy import DAYS, Window

_DAY_MINUTES: Final = 24 * 60
_WEEK_MINUTES: Final = 7 * _DAY_MINUTES
_SECOND: Final = timedelta(seconds=1)
# No zone has changed its clock twice within six days since 1970, or will by its present rules.
_SPAN: Final = timedelta(days=3)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class WindowState(NamedTuple):
    """Whether the windows are open, and when (UTC) that changes; None for never."""

    is_open: bool
    changes_at: datetime | None


class _Week(NamedTuple):
    """A week of wall time from Monday 00:00, cut where it turns open or closed.

    `starts` are minutes, the first 0; run i is open or not as `opens[i]` says.
    """

    starts: tuple[int, ...]
    opens: tuple[bool, ...]

    def is_open(self, minute: int) -> bool:
        return self.opens[bisect_right(self.starts, minute) - 1]

    def next_change(self, minute: int) -> int:
        """The next minute with the other state; it may lie in the next week."""
        run = bisect_right(self.starts, minute)
        if run < len(self.starts):
            return self.starts[run]
        wraps_over = self.opens[0] == self.opens[-1]
        return _WEEK_MINUTES + (self.starts[1] if wraps_over else 0)


# The Macs of a site are asked for at the same moment.
@lru_cache(maxsize=256)
def window_state(windows: tuple[Window, ...], zone: ZoneInfo, now: datetime) -> WindowState:
    """Whether a window is open at `now` (aware), and when that changes.

    Without windows it is never open; windows that cover the week never close.
    """
    week = _week(windows)
    at = now.astimezone(UTC)
    offset = _offset(zone, at)
    is_open = week.is_open(_minute(at + offset))
    if len(week.starts) == 1:
        return WindowState(is_open, None)
    while True:  # once more for each clock change before the answer: at most a few
        wall = at + offset
        minute = _minute(wall)
        if week.is_open(minute) != is_open:
            return WindowState(is_open, at)
        this_minute = wall.replace(second=0, microsecond=0)
        change = this_minute + timedelta(minutes=week.next_change(minute) - minute) - offset
        moved = _clock_change(zone, at, change)
        if moved is None:
            return WindowState(is_open, change)
        at, offset = moved, _offset(zone, moved)


def opens_at(windows: tuple[Window, ...], zone: ZoneInfo, now: datetime) -> datetime | None:
    """When the windows are open next: `now` itself if they are, None if they never are."""
    state = window_state(windows, zone, now)
    return now if state.is_open else state.changes_at


def closes_at(windows: tuple[Window, ...], zone: ZoneInfo, now: datetime) -> datetime | None:
    """When the open windows close; None if they never do, or are closed at `now`."""
    state = window_state(windows, zone, now)
    return state.changes_at if state.is_open else None


@lru_cache(maxsize=256)
def _week(windows: tuple[Window, ...]) -> _Week:
    minutes = bytearray(_WEEK_MINUTES)
    for window in windows:
        start, end = _minutes(window.start), _minutes(window.end)
        length = end - start if end > start else end - start + _DAY_MINUTES
        for day in window.days:
            first = DAYS.index(day) * _DAY_MINUTES + start
            for minute in range(first, first + length):
                minutes[minute % _WEEK_MINUTES] = 1
    starts = [0, *(m for m in range(1, _WEEK_MINUTES) if minutes[m] != minutes[m - 1])]
    return _Week(tuple(starts), tuple(bool(minutes[start]) for start in starts))


def _minutes(clock: str) -> int:
    return int(clock[:2]) * 60 + int(clock[3:])


def _minute(wall: datetime) -> int:
    return wall.weekday() * _DAY_MINUTES + wall.hour * 60 + wall.minute


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _clock_change(zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """The first moment in (after, until] at which the zone's clock is put forward or back."""
    for span in range((after - _EPOCH) // _SPAN, (until - _EPOCH) // _SPAN + 1):
        moved = _clock_change_in(zone, span)
        if moved is not None and after < moved <= until:
            return moved
    return None


@lru_cache(maxsize=4096)
def _clock_change_in(zone: ZoneInfo, span: int) -> datetime | None:
    same = _EPOCH + span * _SPAN
    other = same + _SPAN
    offset = _offset(zone, same)
    if _offset(zone, other) == offset:
        return None
    while other - same > _SECOND:  # zones change on whole seconds
        middle = same + (other - same) // _SECOND // 2 * _SECOND
        if _offset(zone, middle) == offset:
            same = middle
        else:
            other = middle
    return other
