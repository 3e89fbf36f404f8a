"""When each of up to 64 things was last told, packed: 16 bytes for each moment at which any was.

Things are bits of a whole number, moments are whole microseconds since 1970. A thing stands at
its newest moment only and moments stand newest first, so equal knowledge is equal bytes: telling
is a maximum for each thing, idempotent and free of order. What came in one report takes one
moment, whatever it told: a Mac needs three or four of them for its forty things.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

NEVER: Final = b""

_MOMENT: Final = struct.Struct("<QQ")
_pack: Final = _MOMENT.pack

# The moments of stamps and the things last told at each, newest first.
moments: Final[Callable[[bytes], Iterator[tuple[int, int]]]] = _MOMENT.iter_unpack


def of_moments(found: Iterable[tuple[int, int]]) -> bytes:
    """The stamps of these moments and the things last told at each, in any order. ValueError for
    what is no moment."""
    try:
        return b"".join([_pack(at, told) for at, told in sorted(found, reverse=True)])
    except struct.error as error:
        raise ValueError(f"not microseconds since 1970: {error}") from error


def newest(stamps: bytes) -> int:
    """The moment at which anything was last told; 0 for never."""
    at: int = _MOMENT.unpack_from(stamps)[0] if stamps else 0
    return at


def when(stamps: bytes, things: int) -> int:
    """The moment at which any of these things was last told; 0 for never."""
    for at, told in moments(stamps):
        if told & things:
            return at
    return 0


def since(stamps: bytes, us: int) -> tuple[int, int]:
    """The things last told after this moment, and those last told at it."""
    later = 0
    for at, told in moments(stamps):
        if at <= us:
            return later, told if at == us else 0
        later |= told
    return later, 0


def tell(stamps: bytes, things: int, us: int) -> bytes:
    """The stamps after these things were told at this moment, which is after 1970: the same
    object if nothing moved."""
    if stamps:
        at, told = _MOMENT.unpack_from(stamps)
        if us > at and told == things:
            return _pack(us, things) + stamps[_MOMENT.size :]
    later, same = since(stamps, us)
    things = things & ~later | same
    if things == same:
        return stamps
    found = [(us, things)]
    for at, told in moments(stamps):
        rest = told & ~things
        if rest:
            found.append((at, rest))
    return of_moments(found)


def tell_again(stamps: bytes, things: int, us: int) -> bytes | None:
    """`tell` where all of these things were last told before this moment, else None."""
    if stamps:
        at, told = _MOMENT.unpack_from(stamps)
        if told == things:
            return _pack(us, things) + stamps[_MOMENT.size :] if us > at else None
    return None if us <= when(stamps, things) else tell(stamps, things, us)
