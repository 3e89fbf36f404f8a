"""The base of all wire models."""

import msgspec
from pydantic import BaseModel, ConfigDict


class WireModel(BaseModel):
    """An immutable model that ignores fields of a newer producer when it is read."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_timedelta="float")


def has_any_key(raw: bytes, names: frozenset[str]) -> bool:
    """Return True if these bytes are a JSON object that has one of the keys, else False."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(value, dict) and not names.isdisjoint(value)
