"""Models constructed without validation, and written without pydantic."""

from operator import attrgetter
from typing import Any, Final, TypeVar

import msgspec

from schemas.model import WireModel

M = TypeVar("M", bound=WireModel)
_set: Final = object.__setattr__


def construct_unchecked(kind: type[M], values: dict[str, Any]) -> M:
    """Return a model of class `kind` with these values, without validation.

    `values` must be valid and hold all fields, in the order of the class. Hot path: pydantic's own
    `model_construct` is slower than validation. This writes three private attributes of pydantic;
    tests/unit/schemas/test_pydantic_names.py fails if they change. With the fast paths off, callers
    use `kind(**values)`.
    """
    model = kind.__new__(kind)
    _set(model, "__dict__", values)
    _set(model, "__pydantic_fields_set__", set(values))
    _set(model, "__pydantic_extra__", None)
    _set(model, "__pydantic_private__", None)
    return model


# msgspec calls this hook for each model inside another. `attrgetter` runs in C, which matters: one
# decision record holds about fifteen models.
_MODEL_VALUES: Final = attrgetter("__dict__")


def fast_json(values: dict[str, Any]) -> bytes:
    """Return the JSON that pydantic writes for a model with these values, in a third of the time.

    Values may be models. A value with its own pydantic serializer (a version, a build) must be
    converted to text by the caller, here and inside models.
    """
    return msgspec.json.encode(values, enc_hook=_MODEL_VALUES)
