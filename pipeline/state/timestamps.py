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

_ENTRY: Final = struct.Struct("<QQ")
_pack: Final = _ENTRY.pack

# The moments of stamps and the things last told at each, newest first.
unpack_timestamps: Final[Callable[[bytes], Iterator[tuple[int, int]]]] = _ENTRY.iter_unpack


def pack_timestamps(timestamps: Iterable[tuple[int, int]]) -> bytes:
    """The stamps of these moments and the things last told at each, in any order. ValueError for
    what is no moment."""
    try:
        return b"".join([_pack(at, bits) for at, bits in sorted(timestamps, reverse=True)])
    except struct.error as error:
        raise ValueError(f"not microseconds since 1970: {error}") from error


def newest_us(timestamps: bytes) -> int:
    """The moment at which anything was last told; 0 for never."""
    at: int = _ENTRY.unpack_from(timestamps)[0] if timestamps else 0
    return at


def last_us(timestamps: bytes, bits: int) -> int:
    """The moment at which any of these things was last told; 0 for never."""
    for at, recorded in unpack_timestamps(timestamps):
        if recorded & bits:
            return at
    return 0


def changed_since(timestamps: bytes, us: int) -> tuple[int, int]:
    """The things last told after this moment, and those last told at it."""
    later = 0
    for at, recorded in unpack_timestamps(timestamps):
        if at <= us:
            return later, recorded if at == us else 0
        later |= recorded
    return later, 0


def record(timestamps: bytes, bits: int, us: int) -> bytes:
    """The stamps after these things were told at this moment, which is after 1970: the same
    object if nothing moved."""
    if timestamps:
        at, recorded = _ENTRY.unpack_from(timestamps)
        if us > at and recorded == bits:
            return _pack(us, bits) + timestamps[_ENTRY.size :]
    later, same = changed_since(timestamps, us)
    bits = bits & ~later | same
    if bits == same:
        return timestamps
    found = [(us, bits)]
    for at, recorded in unpack_timestamps(timestamps):
        rest = recorded & ~bits
        if rest:
            found.append((at, rest))
    return pack_timestamps(found)


def record_if_newer(timestamps: bytes, bits: int, us: int) -> bytes | None:
    """`tell` where all of these things were last told before this moment, else None."""
    if timestamps:
        at, recorded = _ENTRY.unpack_from(timestamps)
        if recorded == bits:
            return _pack(us, bits) + timestamps[_ENTRY.size :] if us > at else None
    return None if us <= last_us(timestamps, bits) else record(timestamps, bits, us)
