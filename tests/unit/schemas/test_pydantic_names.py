"""The private names of pydantic that `schemas.model.built` writes.

If this fails, pydantic was changed: read `built` beside `BaseModel.__slots__`, `model_construct`
and `__setstate__` of the new source, run tests/property/test_json_bytes.py, and only then put the
new version here.
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
from schemas.jobs import Job
from schemas.model import WireModel, construct_unchecked
from tests import factories as make

SLOTS = (
    "__dict__",
    "__pydantic_fields_set__",
    "__pydantic_extra__",
    "__pydantic_private__",
)
# One valid model of each class that is built unchecked; other fields have their defaults.
CHECKED: list[WireModel] = [
    Decision(udid="MAC-1", decision=Verdict.NOTHING, reason=Reason.COMPLIANT, cves=("CVE-1",)),
    DecisionInputs(now=make.NOW, device={"udid": "MAC-1"}, catalog_digest="0"),
    make.job(),
]


def names_in(code: CodeType) -> set[str]:
    """The names and short texts that code uses, those of the functions inside it too."""
    inner = [constant for constant in code.co_consts if inspect.iscode(constant)]
    texts = {constant for constant in code.co_consts if isinstance(constant, str)}
    return set(code.co_names).union(texts, *(names_in(each) for each in inner))


def function(name: str) -> Any:
    found = inspect.getattr_static(BaseModel, name)
    return getattr(found, "__func__", getattr(found, "fget", found))


def test_version_is_the_one_that_was_read() -> None:
    assert version("pydantic") == "2.14.3"


def test_model_has_the_slots_that_are_written_and_no_others() -> None:
    assert BaseModel.__slots__ == SLOTS


@pytest.mark.parametrize(
    "name",
    ["model_construct", "model_copy", "__copy__", "__deepcopy__", "__getstate__", "__setstate__"],
)
def test_pydantic_itself_makes_a_model_of_these_slots(name: str) -> None:
    assert set(SLOTS) <= names_in(function(name).__code__)


def test_equality_and_fields_set_read_the_slots() -> None:
    read = names_in(function("__eq__").__code__)
    assert {"__dict__", "__pydantic_extra__", "__pydantic_private__"} <= read
    assert "__pydantic_fields_set__" in names_in(function("model_fields_set").__code__)


@pytest.mark.parametrize("checked", CHECKED, ids=lambda model: type(model).__name__)
def test_built_model_is_the_validated_one(checked: WireModel) -> None:
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
def test_models_that_are_built_have_nothing_private_and_nothing_computed(
    kind: type[WireModel],
) -> None:
    """`built` sets `__pydantic_private__` and `__pydantic_extra__` to None and runs no hook."""
    assert not kind.__private_attributes__
    assert not kind.model_computed_fields
    assert kind.model_config.get("extra") == "ignore"
    assert kind.model_post_init is BaseModel.model_post_init


def test_fields_of_a_model_are_its_dict_in_the_order_of_the_class() -> None:
    """`fast_json` writes `__dict__` as it is."""
    mixed = Decision(reason=Reason.COMPLIANT, decision=Verdict.NOTHING, udid="MAC-1")
    assert list(mixed.__dict__) == list(Decision.model_fields)
