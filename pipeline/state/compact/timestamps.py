"""The newest report time of each of up to 64 bits (fields, sources, check-ins), packed in bytes.

The bytes are a sequence of entries of 16 bytes, newest first: a time in microseconds since 1970,
and an integer with the bits last reported at that time.

Invariant: each bit is in one entry at most, that of its newest time; no entry is without bits. So
equal content gives equal bytes, and `record` is a maximum for each bit: idempotent and independent
of order. All fields of one report share one entry: a Mac with forty bits has three or four entries.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

NEVER: Final = b""

_ENTRY: Final = struct.Struct("<QQ")
_pack: Final = _ENTRY.pack

# Yields (time, bits last reported at it) of each entry, newest first.
unpack_timestamps: Final[Callable[[bytes], Iterator[tuple[int, int]]]] = _ENTRY.iter_unpack


def pack_timestamps(timestamps: Iterable[tuple[int, int]]) -> bytes:
    """Return the bytes of (time, bits) entries, which can be given in any order.

    The caller ensures that no time and no bit occurs twice. Raises ValueError for a time or bits
    that are not unsigned 64-bit integers.
    """
    try:
        return b"".join([_pack(at, bits) for at, bits in sorted(timestamps, reverse=True)])
    except struct.error as error:
        raise ValueError(f"not microseconds since 1970: {error}") from error


def newest_us(timestamps: bytes) -> int:
    """Return the newest time, in us; 0 if there is none."""
    at: int = _ENTRY.unpack_from(timestamps)[0] if timestamps else 0
    return at


def newest_bits(timestamps: bytes) -> int:
    """Return the bits last reported at the newest time; 0 if there is none."""
    bits: int = _ENTRY.unpack_from(timestamps)[1] if timestamps else 0
    return bits


def last_us(timestamps: bytes, bits: int) -> int:
    """Return the newest time, in us, of any of `bits`; 0 if there is none."""
    for at, recorded in unpack_timestamps(timestamps):
        if recorded & bits:
            return at
    return 0


def changed_since(timestamps: bytes, us: int) -> tuple[int, int]:
    """Return the bits last reported after `us`, then the bits last reported exactly at `us`."""
    later = 0
    for at, recorded in unpack_timestamps(timestamps):
        if at <= us:
            return later, recorded if at == us else 0
        later |= recorded
    return later, 0


def record(timestamps: bytes, bits: int, us: int) -> bytes:
    """Return the timestamps after a report of `bits` at `us`, which must be greater than 0.

    The same object if each of `bits` was last reported at `us` or later.
    """
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
    """Return `record(timestamps, bits, us)` if none of `bits` was reported at `us` or later.

    Else None.
    """
    if timestamps:
        at, recorded = _ENTRY.unpack_from(timestamps)
        if recorded == bits:
            return _pack(us, bits) + timestamps[_ENTRY.size :] if us > at else None
    return None if us <= last_us(timestamps, bits) else record(timestamps, bits, us)
