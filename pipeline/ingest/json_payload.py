"""Parser of untrusted JSON, with limits on size, depth and number of values."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NoReturn

from pipeline.ingest.translation import MAX_PAYLOAD_BYTES, PayloadError
from schemas.dead_letters import DeadLetterCode

MAX_DEPTH: Final = 100
# An empty object takes 3 bytes of text and 72 of memory: a limit on bytes alone is not enough.
MAX_VALUES: Final = 4_000_000
MAX_OMITTED: Final = 20

_ESCAPED_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def load_json(
    raw: bytes, omitted: list[PayloadError] | None = None, *, max_values: int = MAX_VALUES
) -> Any:
    """Return the value of a UTF-8 JSON document; a byte order mark is allowed.

    Stricter than `json.loads` where parsers disagree (RFC 7493): NaN, Infinity, a number beyond the
    range of a float, an integer with more digits than CPython converts, and repeated keys are
    refused. A lone surrogate, which a cut-off emoji leaves behind, becomes U+FFFD. With a list
    `omitted` the first three cost only themselves: they are left out of the value, and for each
    an error with its path (`$.a[0].b`) is appended, at most MAX_OMITTED. Raises PayloadError:
    too_large (bytes or values), too_deep, not_utf8, not_json (also NaN and Infinity), bad_value (a
    number out of range), bad_shape (a repeated key).
    """
    if len(raw) > MAX_PAYLOAD_BYTES:
        raise PayloadError(DeadLetterCode.TOO_LARGE, f"more than {MAX_PAYLOAD_BYTES} bytes")
    openings = raw.count(b"[") + raw.count(b"{")
    if openings + raw.count(b",") > max_values:
        raise PayloadError(DeadLetterCode.TOO_LARGE, f"more than {max_values} values")
    text, is_lenient = _text(raw), False
    try:
        value = _parse(text, _DECODER)
    except PayloadError:
        if omitted is None:
            raise
        value, is_lenient = _parse(text, _LENIENT_DECODER), True
    if openings > MAX_DEPTH:
        _check_depth(value)
    if omitted is not None and is_lenient:
        value = leave_out(value, _as_error, omitted, "$")
    return _without_surrogates(value) if _ESCAPED_SURROGATE.search(raw) else value


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PayloadError(DeadLetterCode.NOT_UTF8, error.reason, f"byte {error.start}") from None


def _parse(text: str, decoder: json.JSONDecoder) -> Any:
    try:
        return decoder.decode(text)
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


def _lenient(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a function that returns the PayloadError that `read` would raise."""

    def read_or_error(text: str) -> Any:
        try:
            return read(text)
        except PayloadError as error:
            return error

    return read_or_error


_LENIENT_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_lenient(_int),
    parse_float=_lenient(_float),
    parse_constant=_lenient(_constant),
)


def _as_error(scalar: object) -> PayloadError | None:
    return scalar if isinstance(scalar, PayloadError) else None


def leave_out(
    value: Any,
    error_of: Callable[[object], PayloadError | None],
    omitted: list[PayloadError],
    root: str,
) -> Any:
    """Return a value of dicts and lists without the scalars for which `error_of` gives an error.

    The same object if there is none. Each error gets the path of its scalar, which starts with
    `root`, and is appended to `omitted`, up to MAX_OMITTED errors. Raises the error of a value
    that is such a scalar as a whole. The caller has checked the depth.
    """
    error = error_of(value)
    if error is not None:
        raise PayloadError(error.code, error.detail, root)
    if isinstance(value, dict):
        parts = [(key, f"{root}.{key}" if root else key, item) for key, item in value.items()]
    elif isinstance(value, list):
        parts = [(at, f"{root}[{at}]", item) for at, item in enumerate(value)]
    else:
        return value
    kept: dict[Any, Any] = {}
    for key, path, item in parts:
        error = error_of(item)
        if error is None:
            kept[key] = leave_out(item, error_of, omitted, path)
        elif len(omitted) < MAX_OMITTED:
            omitted.append(PayloadError(error.code, error.detail, path))
    if len(kept) == len(parts) and all(kept[key] is item for key, _, item in parts):
        return value
    return kept if isinstance(value, dict) else list(kept.values())


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
