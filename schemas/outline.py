"""The outline of a record whose producer is not proven: names and types, and what identifies it.

    {"subject": "MAC-1", "data": {"udid": "MAC-1", "password": "x"}}
    {"subject": "MAC-1", "data": {"udid": "MAC-1", "password": "(text)"}}

Such a record was not redacted before it was published. The record itself stays in its topic.
"""

import json
from typing import Any, Final

# Attributes of CloudEvents, and the names of a Mac.
_IDENTIFYING: Final = frozenset(
    {"specversion", "id", "source", "type", "subject", "time", "udid", "serial", "job_id", "site"}
)
_LONGEST: Final = 256
_TYPES: Final = {str: "(text)", bool: "(boolean)", int: "(number)", float: "(number)"}


def outline(raw: bytes) -> bytes | None:
    """Return a JSON record without values, except for those that identify it.

    None for bytes that are no JSON, or are nested too deep for the parser: they are not kept.
    """
    try:
        return json.dumps(_outlined(json.loads(raw))).encode()
    except (ValueError, RecursionError):
        return None


def _outlined(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: item if name in _IDENTIFYING and _is_short(item) else _outlined(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_outlined(item) for item in value]
    return _TYPES.get(type(value))


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST
