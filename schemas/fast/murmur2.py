"""Murmur2, the hash of Kafka's default partitioner, four bytes a step."""

from struct import Struct
from typing import Final

_WORD: Final = Struct("<I")


def murmur2(data: bytes) -> int:
    """Return the unsigned 32-bit murmur2 hash of `data`, with Kafka's seed.

    Source: Utils.murmur2 in org.apache.kafka.common.utils.
    """
    word, multiplier = 0xFFFFFFFF, 0x5BD1E995
    whole = len(data) & ~3
    hashed = 0x9747B28C ^ len(data)
    for (part,) in _WORD.iter_unpack(data[:whole]):
        block = part * multiplier & word
        block = (block ^ (block >> 24)) * multiplier & word
        hashed = (hashed * multiplier & word) ^ block
    if whole < len(data):
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * multiplier & word
    hashed = (hashed ^ (hashed >> 13)) * multiplier & word
    return hashed ^ (hashed >> 15)
