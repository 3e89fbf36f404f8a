"""The private names of pydantic that `schemas.fast.models.construct_unchecked` writes.

If this fails, pydantic has changed. Compare `construct_unchecked` with `BaseModel.__slots__`,
`model_construct` and `__setstate__` in the new source, run tests/property/test_json_bytes.py, and
only then change the version here.
"""

import copy
import inspect
import pickle
from importlib.metadata import version
from types import CodeType
from typing import Any

import pytest
from pydantic import BaseModel

from schemas.decisions import Decision, DecisionInputs, Reason, Verdict
from schemas.fast.models import construct_unchecked
from schemas.jobs import Job
from schemas.model import WireModel
from tests import factories as make

SLOTS = (
    "__dict__",
    "__pydantic_fields_set__",
    "__pydantic_extra__",
    "__pydantic_private__",
)
# One valid model of each class that is constructed unchecked; other fields have their defaults.
CHECKED: list[WireModel] = [
    Decision(udid="MAC-1", decision=Verdict.NOTHING, reason=Reason.COMPLIANT, cves=("CVE-1",)),
    DecisionInputs(now=make.NOW, device={"udid": "MAC-1"}, catalog_digest="0"),
    make.job(),
]


def names_in(code: CodeType) -> set[str]:
    """Return the names and text constants in code, including functions inside it."""
    inner = [constant for constant in code.co_consts if inspect.iscode(constant)]
    texts = {constant for constant in code.co_consts if isinstance(constant, str)}
    return set(code.co_names).union(texts, *(names_in(each) for each in inner))


def function(name: str) -> Any:
    found = inspect.getattr_static(BaseModel, name)
    return getattr(found, "__func__", getattr(found, "fget", found))


def test_pydantic_version_is_the_reviewed_one() -> None:
    assert version("pydantic") == "2.14.3"


def test_model_has_exactly_the_written_slots() -> None:
    assert BaseModel.__slots__ == SLOTS


@pytest.mark.parametrize(
    "name",
    ["model_construct", "model_copy", "__copy__", "__deepcopy__", "__getstate__", "__setstate__"],
)
def test_pydantic_methods_use_the_written_slots(name: str) -> None:
    assert set(SLOTS) <= names_in(function(name).__code__)


def test_equality_and_fields_set_read_the_slots() -> None:
    read = names_in(function("__eq__").__code__)
    assert {"__dict__", "__pydantic_extra__", "__pydantic_private__"} <= read
    assert "__pydantic_fields_set__" in names_in(function("model_fields_set").__code__)


@pytest.mark.parametrize("checked", CHECKED, ids=lambda model: type(model).__name__)
def test_unchecked_model_equals_the_validated_one(checked: WireModel) -> None:
    kind, values = type(checked), dict(checked.__dict__)
    validated, made = kind(**values), construct_unchecked(kind, values)
    for slot in SLOTS:
        assert getattr(made, slot) == getattr(validated, slot), slot
        assert type(getattr(made, slot)) is type(getattr(validated, slot)), slot
    assert made == validated
    assert repr(made) == repr(validated)
    assert made.model_dump_json() == validated.model_dump_json()
    assert made.model_copy(update={}) == copy.deepcopy(made) == validated
    assert pickle.loads(pickle.dumps(made)) == validated  # noqa: S301 - made just above
    with pytest.raises(ValueError, match="frozen"):
        setattr(made, next(iter(values)), None)


@pytest.mark.parametrize("kind", [Decision, DecisionInputs, Job])
def test_unchecked_models_have_no_private_attributes_or_computed_fields(
    kind: type[WireModel],
) -> None:
    """`construct_unchecked` sets private and extra attributes to None, and runs no hook."""
    assert not kind.__private_attributes__
    assert not kind.model_computed_fields
    assert kind.model_config.get("extra") == "ignore"
    assert kind.model_post_init is BaseModel.model_post_init


def test_model_dict_has_the_fields_in_class_order() -> None:
    """`schemas.fast.json_bytes` writes the `__dict__` of a model unchanged."""
    mixed = Decision(reason=Reason.COMPLIANT, decision=Verdict.NOTHING, udid="MAC-1")
    assert list(mixed.__dict__) == list(Decision.model_fields)
