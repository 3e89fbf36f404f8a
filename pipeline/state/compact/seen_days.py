"""The days with reports among the last sixteen, packed in one integer.

The integer is `newest day << 16 | bits`. Bit i is the day i before the newest. Days count from 1970
in UTC; 0 is the empty set. Merging is the union of both sets, cut to the sixteen days up to the
newest, so it is idempotent and independent of order.
"""

from functools import lru_cache
from typing import Final

DAY_US: Final = 86_400 * 1_000_000
_BITS: Final = 16
_MASK: Final = (1 << _BITS) - 1


def add_day(days: int, us: int) -> int:
    """Return the days with the day of `us` (microseconds since 1970) added.

    A day more than fifteen days before the newest changes nothing; a later one becomes the newest.
    """
    day = us // DAY_US
    newest = days >> _BITS
    if day == newest and days:
        return days
    return merge_days(days, max(day, 0) << _BITS | 1)


@lru_cache(maxsize=4096)  # saves memory: Macs with equal days share one integer object
def merge_days(one: int, other: int) -> int:
    """Return the union of both sets, cut to the sixteen days up to the newest."""
    if one < other:
        one, other = other, one
    if not other:
        return one
    older = (other & _MASK) << ((one >> _BITS) - (other >> _BITS))
    return one | older & _MASK


def days_after(days: int, us: int) -> int:
    """Return the days without that of `us` (microseconds since 1970) and those before it."""
    newest, bits = days >> _BITS, days & _MASK
    bits &= (1 << max(min(newest - us // DAY_US, _BITS), 0)) - 1
    return newest << _BITS | bits if bits else 0


def first_later_day_end_us(days: int, us: int) -> int | None:
    """Return the end (in us) of the first day in `days` after the day of `us`; None if none is."""
    newest, bits = days >> _BITS, days & _MASK
    later = bits & ((1 << max(min(newest - us // DAY_US, _BITS), 0)) - 1)
    return (newest - later.bit_length() + 2) * DAY_US if later else None
