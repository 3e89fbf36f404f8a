"""Maintenance windows of a site: their state at one time, and the next change of it.

A window is open while the site's local time is inside it; `from` is included, `to` is excluded. Its
days are the days on which it starts: `fri` 22:00 to 04:00 ends on Saturday.

| local time | window |
| --- | --- |
| exists once | open if the time is inside it |
| skipped by a clock change | never open: no clock shows this time |
| repeated by a clock change | open both times |

The next change is found in two steps. The windows are merged into one local week, cut where it
opens or closes. Then the cut is converted to UTC with the present offset, and computed again after
each clock change that comes before it. Invariant: between `now` and `changes_at` the state is
constant (tests/unit/decide/test_windows.py checks each minute).
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from pipeline.policy.model import Window
from pipeline.policy.week import DAY_MINUTES, week_of

_SECOND: Final = timedelta(seconds=1)
# The clock is searched for changes in spans of three days. No zone has changed its clock twice
# within six days since 1970 or will by its present rules, so a span holds one change at most.
_SPAN: Final = timedelta(days=3)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class WindowState(NamedTuple):
    """The state of a site's windows, and the aware UTC time of its next change; None for never."""

    is_open: bool
    changes_at: datetime | None


# All Macs of a site are decided with the same windows and the same `now`.
@lru_cache(maxsize=256)
def window_state(windows: tuple[Window, ...], zone: ZoneInfo, now: datetime) -> WindowState:
    """Return the state of the windows at `now` (aware), and the time of its next change.

    Without windows the site is never open; windows that cover the whole week never close.
    """
    week = week_of(windows)
    at = now.astimezone(UTC)
    offset = _offset(zone, at)
    is_open = week.is_open(_minute(at + offset))
    if len(week.starts) == 1:
        return WindowState(is_open, None)
    while True:  # once more for each clock change before the result: at most a few
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
    """Return the next time at which a window is open: `now` if one is, None if none ever is."""
    state = window_state(windows, zone, now)
    return now if state.is_open else state.changes_at


def closes_at(windows: tuple[Window, ...], zone: ZoneInfo, now: datetime) -> datetime | None:
    """Return the time at which the open windows close.

    None if they are closed at `now`, or if they never close.
    """
    state = window_state(windows, zone, now)
    return state.changes_at if state.is_open else None


def _minute(wall: datetime) -> int:
    """Return the minute of the week of a local time, from Monday 00:00."""
    return wall.weekday() * DAY_MINUTES + wall.hour * 60 + wall.minute


def _offset(zone: ZoneInfo, at: datetime) -> timedelta:
    offset = at.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _clock_change(zone: ZoneInfo, after: datetime, until: datetime) -> datetime | None:
    """Return the first change of the zone's UTC offset in (after, until]; None if there is none."""
    for span in range((after - _EPOCH) // _SPAN, (until - _EPOCH) // _SPAN + 1):
        moved = _clock_change_in(zone, span)
        if moved is not None and after < moved <= until:
            return moved
    return None


@lru_cache(maxsize=4096)
def _clock_change_in(zone: ZoneInfo, span: int) -> datetime | None:
    """Return the first second with the new UTC offset of the zone in one span; None if unchanged.

    `span` is the number of the span, in steps of `_SPAN` from 1970.
    """
    # Bisection: `same` still has the offset of the span's beginning, `other` has another one.
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
