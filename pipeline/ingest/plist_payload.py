"""Parser of untrusted property lists, with limits on size, depth and number of values.

plistlib refuses entity declarations, but has no limits: a binary plist can name the same large
object a million times, share objects so that a walk never ends, or contain itself.
"""

import base64
import hashlib
import plistlib
import re
import struct
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Final
from xml.parsers.expat import ExpatError

from pipeline.ingest.json_payload import leave_out
from pipeline.ingest.translation import PayloadError
from schemas.dead_letters import DeadLetterCode

# The largest message of a Mac, the list of its applications, has less than 2 MB.
MAX_PLIST_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 64
MAX_VALUES: Final = 400_000
MAX_INTEGER: Final = 2**64

_BINARY: Final = b"bplist00"
_TRAILER: Final = struct.Struct(">6xBBQQQ")
_XML_START: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|plist|!DOCTYPE|!--)")
_ENCODING: Final = re.compile(rb"<\?xml[^>]*\bencoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")
_XML_SCALAR: Final = re.compile(rb"<(date|integer|real|data)>([^<]*)</\1\s*>")
# A date of a binary list is seconds since 2001 (CFBinaryPList.c); datetime ends with year 9999.
_DATE_MARKER: Final = 0x33
_SHORT_TEXT_MARKER: Final = 0x50
_FIRST_DATE_S: Final = -63_113_904_000
_LAST_DATE_S: Final = 252_423_993_599
_DECLARATIONS: Final = (b"<!ENTITY", b"<!ATTLIST", b"<!ELEMENT", b"<!NOTATION")
# Errors that plistlib and expat raise for malformed bytes.
_UNREADABLE: Final = (
    ExpatError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    struct.error,
)


def looks_like_plist(raw: bytes) -> bool:
    """Return True if these bytes start like an XML or a binary property list.

    An XML list starts with `<?xml`, `<plist`, `<!DOCTYPE` or a comment, after any byte order mark
    and space.
    """
    return raw.startswith(_BINARY) or _XML_START.match(raw) is not None


def load_plist(raw: bytes, omitted: list[PayloadError] | None = None) -> Any:
    """Return the value of an XML (UTF-8) or binary property list.

    The value consists of str, int, float, bool, bytes, naive UTC datetime, list, and dict with str
    keys, and of None for a null in a binary list. With a list `omitted` a scalar that cannot be
    read (a date beyond the calendar, a number out of range, a value of another type) costs only
    itself: it is left out of the value, and an error with its path (`Conditions.last_seen`) is
    appended, at most MAX_OMITTED. Raises PayloadError: too_large (bytes or values),
    too_deep (also for a list that contains itself), not_plist (malformed, or a value of another
    type), not_utf8 (XML), bad_value (an integer out of range).
    """
    if len(raw) > MAX_PLIST_BYTES:
        raise PayloadError(DeadLetterCode.TOO_LARGE, f"more than {MAX_PLIST_BYTES} bytes")
    if raw.startswith(_BINARY):
        starts = _check_binary(raw)
        value, marker = _parse_or_mark(raw, lambda mark: _mark_binary(raw, starts, mark), omitted)
    elif _XML_START.match(raw):
        _check_xml(raw)
        xml = raw.lstrip(b"\xef\xbb\xbf \t\r\n")
        value, marker = _parse_or_mark(xml, lambda mark: _mark_xml(xml, mark), omitted)
    else:
        raise _not_plist("neither an XML nor a binary property list")
    unreadable = _check(value)
    if unreadable is None and marker is None:
        return value
    if omitted is None:
        assert unreadable is not None
        raise unreadable
    return leave_out(value, lambda scalar: _error_of(scalar, marker), omitted, "")


def dump_plist(value: Any) -> bytes:
    """Return the XML plist bytes of a value from `load_plist`; binary if XML cannot represent it.

    XML has no form for None and for control characters. Pairs of a dict keep their order.
    """
    try:
        return plistlib.dumps(value, fmt=plistlib.FMT_XML, sort_keys=False)
    except (ValueError, TypeError, OverflowError):
        return plistlib.dumps(value, fmt=plistlib.FMT_BINARY, sort_keys=False)


def _not_plist(detail: str, where: str = "") -> PayloadError:
    return PayloadError(DeadLetterCode.NOT_PLIST, detail, where)


def _parse_or_mark(
    raw: bytes, mark_scalars: Callable[[bytes], bytes], omitted: list[PayloadError] | None
) -> tuple[Any, str | None]:
    """Return the parsed list, and the text that stands in it for unreadable scalars, or None.

    `mark_scalars` returns the list with the bytes that it is given in the place of each unreadable
    scalar. It is called only if plistlib refuses the list as it is, and `omitted` is not None.
    """
    try:
        return _parse(raw), None
    except PayloadError:
        mark = base64.b32encode(hashlib.sha256(raw).digest()[:5])
        if omitted is None or mark in raw:
            raise
        marked = mark_scalars(mark)
        if marked == raw:
            raise
    return _parse(marked), mark.decode()


def _mark_xml(raw: bytes, mark: bytes) -> bytes:
    """Return an XML list with `<string>mark</string>` for each scalar that plistlib refuses."""

    def replaced(match: re.Match[bytes]) -> bytes:
        kind, text = match[1].decode(), match[2].decode()
        return match[0] if _is_readable(kind, text) else b"<string>" + mark + b"</string>"

    return _XML_SCALAR.sub(replaced, raw)


def _is_readable(kind: str, text: str) -> bool:
    """Return True if plistlib reads this text of a `date`, `integer`, `real` or `data` element."""
    try:
        if kind == "integer":
            int(text, 16 if text.lower().startswith("0x") else 10)
        elif kind == "real":
            float(text)
        elif kind == "date":
            datetime.strptime(f"{text} +0000", "%Y-%m-%dT%H:%M:%SZ %z")
        else:
            base64.b64decode(text)
    except ValueError:
        return False
    return True


def _mark_binary(raw: bytes, starts: Iterable[int], mark: bytes) -> bytes:
    """Return a binary list with the text `mark`, 8 bytes, for each date beyond the calendar."""
    marked = bytearray(raw)
    for start in starts:
        if raw[start] == _DATE_MARKER:
            (seconds,) = struct.unpack_from(">d", raw, start + 1)
            if not _FIRST_DATE_S <= seconds <= _LAST_DATE_S:
                marked[start : start + 9] = bytes([_SHORT_TEXT_MARKER | len(mark)]) + mark
    return bytes(marked)


def _error_of(scalar: object, marker: str | None) -> PayloadError | None:
    """Return the error of a scalar that must not be returned, or that has the text `marker`."""
    if marker is not None and scalar == marker:
        return PayloadError(DeadLetterCode.BAD_VALUE, "this value cannot be read")
    return None if isinstance(scalar, dict | list) else _scalar_error(scalar)


def _parse(raw: bytes) -> Any:
    fmt = plistlib.FMT_BINARY if raw.startswith(_BINARY) else plistlib.FMT_XML
    try:
        return plistlib.loads(raw, fmt=fmt)
    except ExpatError as error:
        raise _not_plist("not well-formed XML", f"line {error.lineno}") from None
    except RecursionError:
        raise _too_deep() from None
    except _UNREADABLE as error:
        raise _not_plist(f"unreadable property list ({type(error).__name__})") from None


def _check_xml(raw: bytes) -> None:
    """Raise PayloadError for XML that expat must not read.

    `not_plist` for a declared encoding other than UTF-8 or ASCII, and for a declaration of an
    entity, attribute list, element or notation (a plain DOCTYPE is allowed); `not_utf8` for bytes
    that are not UTF-8; `too_large` for more than twice MAX_VALUES tags. With UTF-8 these checks see
    the same text as expat. A declaration can set a default attribute of 1 MB, which expat copies
    for every element.
    """
    encoding = _ENCODING.match(raw.lstrip(b"\xef\xbb\xbf \t\r\n"))
    if encoding is not None and encoding[1].lower() not in (b"utf-8", b"us-ascii", b"ascii"):
        raise _not_plist("an XML property list must be UTF-8")
    try:
        raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PayloadError(DeadLetterCode.NOT_UTF8, error.reason, f"byte {error.start}") from None
    if any(mark in raw for mark in _DECLARATIONS):
        raise _not_plist("document type declarations are not allowed in a property list")
    if raw.count(b"<") > 2 * MAX_VALUES:
        raise _too_many()


def _check_binary(raw: bytes) -> list[int]:
    """Return the offsets of the objects of a binary plist, in order.

    Raises PayloadError for one whose objects overlap, or are not all referenced.

    `not_plist` also for an invalid trailer or offset table, an object outside the object area, and
    a reference without an object; `too_large` for over MAX_VALUES objects. Every writer produces
    plists that pass. plistlib builds each object separately: offsets that point a million times at
    one long array would build it a million times. Damage to a length or a reference would show the
    bytes of a secret under the name of another field, where redaction does not find them.
    """
    if len(raw) < len(_BINARY) + _TRAILER.size:
        raise _not_plist("the binary property list has no trailer")
    offset_size, ref_size, count, top, table = _TRAILER.unpack(raw[-_TRAILER.size :])
    end = len(raw) - _TRAILER.size
    if not (1 <= offset_size <= 8 and 1 <= ref_size <= 8 and top < count and table < end):
        raise _not_plist("the binary property list has an invalid trailer")
    if count > MAX_VALUES:
        raise _too_many()
    if table + count * offset_size > end:
        raise _not_plist("the binary property list has an invalid offset table")
    starts = sorted(_integers(raw, table, count, offset_size))
    is_referenced = bytearray(count)
    is_referenced[top] = 1
    for start, limit in zip(starts, [*starts[1:], table], strict=True):
        size, references = _object_at(raw, start, ref_size)
        if start + size > limit:
            raise _not_plist("objects of the binary property list overlap")
        for index in _integers(raw, start + size - references * ref_size, references, ref_size):
            if index >= count:
                raise _not_plist("a reference in the binary property list has no object")
            is_referenced[index] = 1
    if not all(is_referenced):
        raise _not_plist("an object of the binary property list has no reference to it")
    return starts


def _integers(raw: bytes, start: int, count: int, size: int) -> list[int]:
    """Return `count` unsigned big-endian integers of `size` bytes each."""
    return [
        int.from_bytes(raw[at : at + size], "big")
        for at in range(start, start + count * size, size)
    ]


def _object_at(raw: bytes, offset: int, ref_size: int) -> tuple[int, int]:
    """Return the size in bytes of the object at this offset, and its number of references.

    Both follow from the object's marker. A kind without a size in its marker (null, a boolean, a
    UID, an unknown kind) counts as 1 byte. The references are the last bytes of the object: one for
    each item of an array or a set, two for each pair of a dict, 0 for other kinds. Raises
    PayloadError `not_plist` if the offset is outside `raw`. Layout: CFBinaryPList.c of Apple's
    CoreFoundation.
    """
    if offset >= len(raw):
        raise _not_plist("an object is outside the binary property list")
    kind, low = raw[offset] >> 4, raw[offset] & 0x0F
    if kind in (0x1, 0x2):
        return 1 + (1 << low), 0
    if kind == 0x3:
        return 9, 0
    unit = {0x4: 1, 0x5: 1, 0x6: 2, 0xA: ref_size, 0xC: ref_size, 0xD: 2 * ref_size}.get(kind)
    if unit is None:
        return 1, 0
    head, length = 1, low
    if low == 0x0F:
        width = 1 << (raw[offset + 1] & 0x03) if offset + 1 < len(raw) else 1
        length = int.from_bytes(raw[offset + 2 : offset + 2 + width], "big")
        head = 2 + width
    references = length * unit // ref_size if kind >= 0xA else 0
    return head + length * unit, references


def _too_deep() -> PayloadError:
    return PayloadError(DeadLetterCode.TOO_DEEP, f"more than {MAX_DEPTH} levels deep")


def _too_many() -> PayloadError:
    return PayloadError(DeadLetterCode.TOO_LARGE, f"more than {MAX_VALUES} values")


def _check(value: Any) -> PayloadError | None:
    """Return the error of a scalar that must not be returned, if a parsed value has any.

    `not_plist` for a value of another type, `bad_value` for an integer out of range. Raises
    PayloadError for a value of a wrong shape: `too_deep` for a value inside more than MAX_DEPTH
    dicts and lists, `too_large` over MAX_VALUES values (a shared value counts at each visit),
    `not_plist` for a key that is not text.
    """
    level, visited, unreadable = [value], 0, None
    for _ in range(MAX_DEPTH + 1):
        visited += len(level)
        children: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                if not all(isinstance(key, str) for key in node):
                    raise _not_plist("a key is not a string")
                children.extend(node.values())
            elif isinstance(node, list):
                children.extend(node)
            else:
                unreadable = unreadable or _scalar_error(node)
            if visited + len(children) > MAX_VALUES:
                raise _too_many()
        level = children
        if not level:
            return unreadable
    raise _too_deep()


def _scalar_error(value: object) -> PayloadError | None:
    """Return the error of a scalar that `load_plist` must not return; None for any other.

    `bad_value` for an integer of 2^64 or more in size, `not_plist` for a type other than None, str,
    bytes, int, bool, float and datetime.
    """
    if isinstance(value, int):
        if not -MAX_INTEGER < value < MAX_INTEGER:
            return PayloadError(DeadLetterCode.BAD_VALUE, "integer out of range")
    elif value is not None and not isinstance(value, str | bytes | float | datetime):
        return _not_plist(f"a value of type {type(value).__name__} is not allowed")
    return None
