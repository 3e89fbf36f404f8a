"""Retention of payloads by allow-list: the fields that a translator reads, the rest by type.

    {"DeviceName": "Lab 3", "WifiCode": "x", "Fonts": [{"id": 7}]}
    {"DeviceName": "Lab 3", "WifiCode": "(text)", "Fonts": [{"id": "(number)"}]}

A payload is kept for two readers: a person who compares an event with its source, and a repeated
translation of a dead letter. Both need the fields that a translator reads and the names of the
others. A secret can be in any other field, under a name that no list has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pipeline.ingest.redaction import is_secret

ReadFields = Mapping[str, Any]
"""The fields of an object that a translator reads: a Field by name."""


@dataclass(frozen=True, slots=True)
class FieldsBy:
    """The fields of an object, if they depend on the object: `select` returns them."""

    select: Callable[[Mapping[str, Any]], ReadFields]


Field = ReadFields | FieldsBy | None
"""None: a value, such as a text or a number. Else an object, or a list of such objects."""

NOTHING: Final[ReadFields] = {}


@dataclass(frozen=True, slots=True)
class PayloadFields:
    """The fields that a translator reads of a payload, and of plists and JSON in its values."""

    payload: Field
    plist: Field = field(default_factory=dict)
    json: Field = field(default_factory=dict)


_TEXT: Final = "(text)"
_BYTES: Final = "(bytes)"
_NUMBER: Final = "(number)"
_BOOLEAN: Final = "(boolean)"
_DATE: Final = "(date)"
_TYPES: Final = frozenset({_TEXT, _BYTES, _NUMBER, _BOOLEAN, _DATE})


def values(*names: str) -> ReadFields:
    """Return fields of these names, each of them a value."""
    return dict.fromkeys(names)


def retained(value: Any, fields: Field) -> Any:
    """Return a copy of a parsed payload with the values of `fields`, and the types of the others.

    Every name is kept. A secret under a name that `redaction.is_secret` knows is kept too: redact
    the result, and its fingerprint shows whether the secret has changed. An object or a list in the
    place of a value keeps its form, with the types of its values; a value in the place of an object
    has its type. None and empty values stay as they are. What is retained stays equal if it is
    retained again.
    """
    if isinstance(value, dict):
        if isinstance(fields, FieldsBy):
            fields = fields.select(value)
        known = NOTHING if fields is None else fields
        return {
            name: item if name not in known and is_secret(name) else _member(item, name, known)
            for name, item in value.items()
        }
    if isinstance(value, list):
        inside = NOTHING if fields is None else fields
        return [retained(item, inside) for item in value]
    return value if fields is None else _type_of(value)


def _member(item: Any, name: str, known: ReadFields) -> Any:
    return retained(item, known.get(name, NOTHING))


def _type_of(value: Any) -> Any:
    if value is None or value in ("", b""):
        return value
    if isinstance(value, bool):
        return _BOOLEAN
    if isinstance(value, str):
        return value if value in _TYPES else _TEXT  # retained before
    if isinstance(value, bytes):
        return _BYTES
    return _DATE if isinstance(value, datetime) else _NUMBER
