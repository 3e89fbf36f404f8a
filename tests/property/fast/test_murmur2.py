"""Murmur2 equals the reference, which reads one byte after the other."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.fast.murmur2 import murmur2

_WORD = 0xFFFFFFFF
_MULTIPLIER = 0x5BD1E995


def _plain_murmur2(data: bytes) -> int:
    """Return the hash as the C code of Austin Appleby computes it, with Kafka's seed."""
    hashed, block = 0x9747B28C ^ len(data), 0
    for at, byte in enumerate(data):
        block |= byte << 8 * (at % 4)
        if at % 4 == 3:
            block = block * _MULTIPLIER & _WORD
            block = (block ^ block >> 24) * _MULTIPLIER & _WORD
            hashed, block = hashed * _MULTIPLIER & _WORD ^ block, 0
    if len(data) % 4:
        hashed = (hashed ^ block) * _MULTIPLIER & _WORD
    hashed = (hashed ^ hashed >> 13) * _MULTIPLIER & _WORD
    return hashed ^ hashed >> 15


@given(st.binary(max_size=80))
def test_hash_equals_the_reference(data: bytes) -> None:
    assert murmur2(data) == _plain_murmur2(data)
