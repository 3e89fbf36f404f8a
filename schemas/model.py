"""The base of every wire model."""

from operator import attrgetter
from typing import Any, Final, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict


class WireModel(BaseModel):
    """Frozen; fields that a newer producer added are ignored on read."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_timedelta="float")


M = TypeVar("M", bound=WireModel)
_set: Final = object.__setattr__


def construct_unchecked(kind: type[M], values: dict[str, Any]) -> M:
    """A model of values that are known to be valid: of all its fields, in their order. Nothing is
    checked; pydantic's `model_construct` costs more than its validation.

    Writes three private attributes of pydantic: tests/unit/schemas/test_pydantic_names.py. With
    the fast paths off its callers call `kind(**values)`.
    """
    model = kind.__new__(kind)
    _set(model, "__dict__", values)
    _set(model, "__pydantic_fields_set__", set(values))
    _set(model, "__pydantic_extra__", None)
    _set(model, "__pydantic_private__", None)
    return model


# What msgspec asks for each model inside another. In C: a record holds fifteen.
_MODEL_VALUES: Final = attrgetter("__dict__")


def fast_json(values: dict[str, Any]) -> bytes:
    """Values of a model, models among them, as pydantic would write them, at a third of its price:
    what has a serializer of its own in pydantic (versions, builds) must be text already."""
    return msgspec.json.encode(values, enc_hook=_MODEL_VALUES)
