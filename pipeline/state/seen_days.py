"""On which of sixteen days something was heard, as one whole number.

The number is `newest day << 16 | bits`; bit i stands for the day i before the newest, days count
from 1970 in UTC, and 0 is never. Joining is a union of sets of days cut to the last sixteen, so
it is idempotent and free of order.
"""

from functools import lru_cache
from typing import Final

DAY_US: Final = 86_400 * 1_000_000
_BITS: Final = 16
_MASK: Final = (1 << _BITS) - 1


def add_day(days: int, us: int) -> int:
    """The days with the one of this time (us since 1970) among them."""
    day = us // DAY_US
    newest = days >> _BITS
    if day == newest and days:
        return days
    return merge_days(days, max(day, 0) << _BITS | 1)


@lru_cache(maxsize=4096)  # Macs are many, days are few: equal ones are mostly one object
def merge_days(one: int, other: int) -> int:
    """The days of both."""
    if one < other:
        one, other = other, one
    if not other:
        return one
    older = (other & _MASK) << ((one >> _BITS) - (other >> _BITS))
    return one | older & _MASK


def first_later_day_end_us(days: int, us: int) -> int | None:
    """When the first of the days that lie after this time's day ended, in us; None if none does."""
    newest, bits = days >> _BITS, days & _MASK
    later = bits & ((1 << max(min(newest - us // DAY_US, _BITS), 0)) - 1)
    return (newest - later.bit_length() + 2) * DAY_US if later else None
