"""Decision records in the few bytes that the log stores, and back to the same bytes.

| part | bytes | content |
| --- | --- | --- |
| form | 1 | 1: without a list of CVEs; 2: with one. `{`: the record itself, not packed |
| digest | 32, form 2 only | SHA-256 of the list of CVEs, under which the store keeps it once |
| record | the rest | the record without its list of CVEs, as zlib packs it with a dictionary |

The Macs with one OS version lack the same CVEs: a catalogue has few lists, and a list is up to two
thirds of a record. The dictionary is three typical records; zlib copies their field names and gates
from it. A store with another dictionary needs another number of the form.
"""

import hashlib
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

_WITHOUT_LIST: Final = b"\x01"
_WITH_LIST: Final = b"\x02"
_DIGEST_BYTES: Final = 32
# JSON escapes a quotation mark in a text, so that these bytes are always the field's own.
_LIST_STARTS: Final = b'"cves":['
_LIST_ENDS: Final = b'],"exploited_cves":'
# A window of 16 KB holds dictionary and record; zlib's default of 32 KB doubles the time.
_WINDOW_BITS: Final = 14
_MEMORY_LEVEL: Final = 7
_LEVEL: Final = 6


def list_digest(cves: bytes) -> str:
    """Return the digest of a list of CVEs: of the bytes between its brackets."""
    return hashlib.sha256(cves).hexdigest()


def pack_record(record: bytes) -> tuple[bytes, bytes]:
    """Return the packed record, then its list of CVEs to be stored under `list_digest`.

    The list is empty if the record has none. Any bytes can be packed.
    """
    start = record.find(_LIST_STARTS) + len(_LIST_STARTS)
    end = record.find(_LIST_ENDS, start)
    if start < len(_LIST_STARTS) or end <= start:
        return _WITHOUT_LIST + _deflate(record), b""
    cves = record[start:end]
    digest = bytes.fromhex(list_digest(cves))
    return _WITH_LIST + digest + _deflate(record[:start] + record[end:]), cves


def unpack_record(packed: bytes, find_list: Callable[[str], bytes]) -> bytes:
    """Return the record that was packed; `find_list` returns the list of CVEs of a digest.

    Raises ValueError for bytes that `pack_record` did not write, and any exception of `find_list`.
    """
    form = packed[:1]
    if form == b"{":
        return packed
    if form == _WITHOUT_LIST:
        return _inflate(packed[1:])
    if form != _WITH_LIST:
        raise ValueError(f"unknown form {form!r} of a decision record")
    cves = find_list(packed[1 : 1 + _DIGEST_BYTES].hex())
    rest = _inflate(packed[1 + _DIGEST_BYTES :])
    before, starts, after = rest.partition(_LIST_STARTS)
    return before + starts + cves + after


@cache
def _dictionary() -> bytes:
    return Path(__file__).with_name("record_dictionary.txt").read_bytes()


@cache
def _compressor() -> "zlib._Compress":
    """Return a compressor that has read the dictionary; a copy of it is four times as fast."""
    return zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW_BITS, _MEMORY_LEVEL, zdict=_dictionary())


def _deflate(text: bytes) -> bytes:
    compressor = _compressor().copy()
    return compressor.compress(text) + compressor.flush()


def _inflate(data: bytes) -> bytes:
    """Return the text. Raises ValueError for data that is damaged or cut."""
    decompressor = zlib.decompressobj(_WINDOW_BITS, zdict=_dictionary())
    try:
        text = decompressor.decompress(data)
    except zlib.error as error:
        raise ValueError(f"damaged decision record: {error}") from error
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("damaged decision record: its end is missing, or more follows")
    return text
