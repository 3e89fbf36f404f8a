"""Models constructed without validation."""

from functools import lru_cache
from typing import Any, Final, TypeVar

from schemas.model import WireModel

M = TypeVar("M", bound=WireModel)
_set: Final = object.__setattr__


@lru_cache(maxsize=64)
def _all_fields(kind: type[WireModel]) -> set[str]:
    """Return the names of all fields. Models share the set: pydantic changes copies of it."""
    return set(kind.model_fields)


def construct_unchecked(kind: type[M], values: dict[str, Any]) -> M:
    """Return a model of class `kind` with these values, without validation.

    `values` must be valid and hold all fields, in the order of the class. Hot path: pydantic's own
    `model_construct` is slower than validation. This writes three private attributes of pydantic;
    tests/unit/schemas/test_pydantic_names.py fails if they change. With the fast paths off, callers
    use `kind(**values)`.
    """
    model = kind.__new__(kind)
    _set(model, "__dict__", values)
    _set(model, "__pydantic_fields_set__", _all_fields(kind))
    _set(model, "__pydantic_extra__", None)
    _set(model, "__pydantic_private__", None)
    return model
