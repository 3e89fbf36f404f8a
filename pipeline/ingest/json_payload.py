"""Parser of untrusted JSON, with limits on size, depth and number of values."""

import json
import math
import re
from collections import Counter
from typing import Any, Final, NoReturn

from pipeline.ingest.translation import MAX_PAYLOAD_BYTES, PayloadError
from schemas.dead_letters import DeadLetterCode

MAX_DEPTH: Final = 100
# An empty object takes 3 bytes of text and 72 of memory: a limit on bytes alone is not enough.
MAX_VALUES: Final = 4_000_000

_ESCAPED_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def load_json(raw: bytes) -> Any:
    """Return the value of a UTF-8 JSON document; a byte order mark is allowed.

    Stricter than `json.loads` where parsers disagree (RFC 7493): NaN, Infinity, a number beyond the
    range of a float, an integer with more digits than CPython converts, and repeated keys are
    refused. A lone surrogate, which a cut-off emoji leaves behind, becomes U+FFFD. Raises
    PayloadError: too_large (bytes or values), too_deep, not_utf8, not_json (also NaN and Infinity),
    bad_value (a number out of range), bad_shape (a repeated key).
    """
    if len(raw) > MAX_PAYLOAD_BYTES:
        raise PayloadError(DeadLetterCode.TOO_LARGE, f"more than {MAX_PAYLOAD_BYTES} bytes")
    openings = raw.count(b"[") + raw.count(b"{")
    if openings + raw.count(b",") > MAX_VALUES:
        raise PayloadError(DeadLetterCode.TOO_LARGE, f"more than {MAX_VALUES} values")
    value = _parse(_text(raw))
    if openings > MAX_DEPTH:
        _check_depth(value)
    return _without_surrogates(value) if _ESCAPED_SURROGATE.search(raw) else value


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PayloadError(DeadLetterCode.NOT_UTF8, error.reason, f"byte {error.start}") from None


def _parse(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise PayloadError(DeadLetterCode.NOT_JSON, error.msg, where) from None
    except RecursionError:
        raise _too_deep() from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members as a dict. Raises PayloadError `bad_shape` for a repeated key."""
    found = dict(pairs)
    if len(found) != len(pairs):
        ((repeated, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise PayloadError(DeadLetterCode.BAD_SHAPE, f"the key {repeated[:64]!r} is repeated")
    return found


def _int(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # more digits than CPython converts: 4,300 unless configured
        raise PayloadError(DeadLetterCode.BAD_VALUE, "number out of range") from None


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise PayloadError(DeadLetterCode.BAD_VALUE, "number out of range")
    return value


def _constant(name: str) -> NoReturn:
    raise PayloadError(DeadLetterCode.NOT_JSON, f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_int, parse_float=_float, parse_constant=_constant
)


def _too_deep() -> PayloadError:
    return PayloadError(DeadLetterCode.TOO_DEEP, f"more than {MAX_DEPTH} levels deep")


def _check_depth(value: Any) -> None:
    """Raise PayloadError `too_deep` if arrays and objects are nested over MAX_DEPTH levels deep."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return
    if any(isinstance(node, dict | list) for node in level):
        raise _too_deep()


def _without_surrogates(value: Any) -> Any:
    """Return a copy with U+FFFD for each lone surrogate; the caller has checked the depth."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value
