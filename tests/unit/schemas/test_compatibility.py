"""Every kind of break is found at its path; changes that only widen a schema are no break."""

import json
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from pipeline.policy.model import policy_schema
from schemas.compatibility import breaks, changes
from schemas.publish import ASYNCAPI_NAME, published

PUBLISHED = Path(__file__).resolve().parents[3] / "schemas" / "published"

STRING = {"type": "string"}
NULL = {"type": "null"}


def object_schema(required: tuple[str, ...] = ("a",), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


BREAKS = [
    pytest.param(
        object_schema(a=STRING, b=STRING), object_schema(a=STRING), "$.b", id="property-removed"
    ),
    pytest.param(
        object_schema(a=STRING),
        object_schema(("a", "b"), a=STRING, b=STRING),
        "$.b",
        id="new-required",
    ),
    pytest.param(
        object_schema(a=STRING, b=STRING),
        object_schema(("a", "b"), a=STRING, b=STRING),
        "$.b",
        id="now-required",
    ),
    pytest.param(
        object_schema(a={"anyOf": [STRING, NULL]}),
        object_schema(a=STRING),
        "$.a",
        id="null-no-longer-accepted",
    ),
    pytest.param(
        object_schema(a=STRING), object_schema(a={"type": "integer"}), "$.a", id="other-type"
    ),
    pytest.param(
        object_schema(a={"type": "number"}),
        object_schema(a={"type": "integer"}),
        "$.a",
        id="number-to-integer",
    ),
    pytest.param(object_schema(a={}), object_schema(a=STRING), "$.a", id="any-to-string"),
    pytest.param(
        object_schema(a={"enum": ["x", "y"]}),
        object_schema(a={"enum": ["x"]}),
        "$.a",
        id="enum-value-removed",
    ),
    pytest.param(
        object_schema(a=STRING),
        object_schema(a={**STRING, "enum": ["x"]}),
        "$.a",
        id="string-to-enum",
    ),
    pytest.param(
        object_schema(a={"enum": [1]}), object_schema(a=STRING), "$.a", id="enum-to-other-type"
    ),
    pytest.param(
        object_schema(a={"const": "x"}), object_schema(a={"const": "y"}), "$.a", id="const-changed"
    ),
    pytest.param(
        object_schema(a=STRING),
        object_schema(a={**STRING, "maxLength": 9}),
        "$.a",
        id="new-limit-on-length",
    ),
    pytest.param(
        object_schema(a={"type": "integer", "minimum": 0}),
        object_schema(a={"type": "integer", "minimum": 1}),
        "$.a",
        id="minimum-raised",
    ),
    pytest.param(
        object_schema(a={"type": "integer", "maximum": 9}),
        object_schema(a={"type": "integer", "maximum": 8}),
        "$.a",
        id="maximum-lowered",
    ),
    pytest.param(
        object_schema(a={**STRING, "pattern": "^.$"}),
        object_schema(a={**STRING, "pattern": "^..$"}),
        "$.a",
        id="pattern-changed",
    ),
    pytest.param(
        object_schema(a=STRING),
        object_schema(a={**STRING, "format": "uuid"}),
        "$.a",
        id="new-format",
    ),
    pytest.param(
        object_schema(a=STRING),
        object_schema(a={**STRING, "contentEncoding": "base64"}),
        "$.a",
        id="keyword-not-handled",
    ),
    pytest.param(
        object_schema(a={"type": "array", "items": {"enum": [1, 2]}}),
        object_schema(a={"type": "array", "items": {"enum": [1]}}),
        "$.a[*]",
        id="inside-array",
    ),
    pytest.param(
        object_schema(a={"type": "array", "prefixItems": [STRING, STRING]}),
        object_schema(a={"type": "array", "prefixItems": [STRING, NULL]}),
        "$.a[1]",
        id="inside-tuple",
    ),
    pytest.param(
        object_schema(a={"type": "object", "additionalProperties": STRING}),
        object_schema(a={"type": "object", "additionalProperties": NULL}),
        "$.a.*",
        id="inside-map",
    ),
    pytest.param(
        object_schema(a=STRING),
        object_schema(a=STRING) | {"additionalProperties": False},
        "$.*",
        id="closed",
    ),
    pytest.param(
        object_schema(a={"$ref": "#/$defs/T"}) | {"$defs": {"T": object_schema(a=STRING)}},
        object_schema(a={"$ref": "#/$defs/T"}) | {"$defs": {"T": object_schema(a=NULL)}},
        "$.a.a",
        id="inside-reference",
    ),
    pytest.param(
        object_schema(a={"anyOf": [{"$ref": "#/$defs/T"}, NULL]})
        | {"$defs": {"T": object_schema(a=STRING)}},
        object_schema(a={"anyOf": [{"$ref": "#/$defs/T"}, NULL]})
        | {"$defs": {"T": object_schema(a=NULL)}},
        "$.a.a",
        id="inside-optional-reference",
    ),
    pytest.param(
        {"anyOf": [{"$ref": "#/$defs/T"}, NULL], "$defs": {"T": object_schema(a=STRING)}},
        {"anyOf": [{"$ref": "#/$defs/U"}, NULL], "$defs": {"U": object_schema(b=STRING)}},
        "$",
        id="alternative-removed",
    ),
    pytest.param(
        {
            "$ref": "#/$defs/N",
            "$defs": {"N": object_schema((), next={"$ref": "#/$defs/N"}, a=STRING)},
        },
        {
            "$ref": "#/$defs/N",
            "$defs": {"N": object_schema((), next={"$ref": "#/$defs/N"}, a=NULL)},
        },
        "$.a",
        id="inside-recursive-reference",
    ),
]

PASSES = [
    pytest.param(
        object_schema(a=STRING),
        object_schema(a=STRING, b=STRING),
        None,
        id="optional-property-added",
    ),
    pytest.param(
        object_schema(a=STRING),
        object_schema(a={"anyOf": [STRING, NULL]}),
        "readers_first",
        id="null-also-accepted",
    ),
    pytest.param(
        object_schema(a=STRING),
        object_schema((), a=STRING),
        "readers_first",
        id="no-longer-required",
    ),
    pytest.param(
        object_schema(a={"enum": ["x"]}),
        object_schema(a={"enum": ["x", "y"]}),
        "readers_first",
        id="enum-value-added",
    ),
    pytest.param(
        object_schema(a={"type": "integer"}),
        object_schema(a={"type": "number"}),
        "readers_first",
        id="integer-to-number",
    ),
    pytest.param(
        object_schema(a={**STRING, "maxLength": 8}),
        object_schema(a={**STRING, "maxLength": 9}),
        "readers_first",
        id="limit-widened",
    ),
    pytest.param(
        object_schema(a=STRING) | {"additionalProperties": False},
        object_schema(a=STRING, b=STRING) | {"additionalProperties": False},
        "readers_first",
        id="optional-property-added-where-unknown-ones-are-refused",
    ),
    pytest.param(
        object_schema(a={**STRING, "title": "A", "description": "x", "default": "y"}),
        object_schema(a=STRING),
        None,
        id="annotations-changed",
    ),
    pytest.param(
        object_schema(a=STRING),
        object_schema(a={"$ref": "#/$defs/T"}) | {"$defs": {"T": STRING}},
        None,
        id="moved-into-a-definition",
    ),
]


@pytest.mark.parametrize(("old", "new", "path"), BREAKS)
def test_break_is_reported_at_its_path(old: Any, new: Any, path: str) -> None:
    assert path in [change.where for change in breaks(old, new)]


@pytest.mark.parametrize(("old", "new", "effect"), PASSES)
def test_widening_change_is_no_break(old: Any, new: Any, effect: str | None) -> None:
    found = changes(old, new)
    assert [change.effect for change in found] == ([effect] if effect else [])


class _V1(BaseModel):
    """A model with the kinds of fields that Drydock's models use."""

    kind: Literal["a", "b"]
    count: int = Field(ge=0, le=9)
    names: tuple[str, ...] = ()
    note: str | None = None


class _AddsOptional(_V1):
    more: str | None = None


class _NarrowsLiteral(_V1):
    kind: Literal["a"]


class _RefusesUnknown(_V1):
    model_config = ConfigDict(extra="forbid")


class _RenamesField(BaseModel):
    kind: Literal["a", "b"]
    count: int = Field(ge=0, le=9)
    names: tuple[str, ...] = ()
    remark: str | None = None


@pytest.mark.parametrize(
    ("model", "paths"),
    [
        pytest.param(_V1, [], id="same"),
        pytest.param(_AddsOptional, [], id="optional-added"),
        pytest.param(_NarrowsLiteral, ["$.kind"], id="literal-narrowed"),
        pytest.param(_RefusesUnknown, ["$.*"], id="unknown-fields-refused"),
        pytest.param(_RenamesField, ["$.note"], id="field-renamed"),
    ],
)
def test_breaks_between_pydantic_models_are_found(model: type[BaseModel], paths: list[str]) -> None:
    found = breaks(_V1.model_json_schema(), model.model_json_schema())
    assert [change.where for change in found] == paths


Pair = tuple[dict[str, Any], dict[str, Any]]


def _leaves() -> st.SearchStrategy[Pair]:
    """Draw an old and a new schema of the same kind, often equal ones."""
    kinds = (
        st.builds(lambda top: {"type": "string", "maxLength": top}, st.integers(0, 2)),
        st.builds(lambda low: {"type": "integer", "minimum": low}, st.integers(-1, 1)),
        st.builds(lambda v: {"enum": v}, st.lists(st.sampled_from("ab"), min_size=1, unique=True)),
        st.builds(lambda value: {"const": value}, st.sampled_from(["a", "b", 1])),
        st.sampled_from([{"type": "number"}, {"type": "integer"}, {"type": "null"}, {}]),
    )
    return st.one_of([st.tuples(kind, kind) for kind in kinds])


@st.composite
def _objects(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    """Draw two objects: properties are removed or required, or unknown ones are forbidden."""
    pairs = draw(st.dictionaries(st.sampled_from("pq"), inner, min_size=1, max_size=2))

    def side(at: int) -> dict[str, Any]:
        kept = [name for name in pairs if at == 0 or draw(st.integers(0, 5))]
        return {
            "type": "object",
            "properties": {name: pairs[name][at] for name in kept},
            "required": [name for name in kept if draw(st.booleans())],
        } | ({} if draw(st.integers(0, 3)) else {"additionalProperties": False})

    return side(0), side(1)


@st.composite
def _alternatives(draw: st.DrawFn, inner: st.SearchStrategy[Pair]) -> Pair:
    """Draw alternatives: the new ones in another order, some possibly removed."""
    pairs = draw(st.lists(inner, min_size=1, max_size=3))
    news = [new for _, new in draw(st.permutations(pairs))][: draw(st.integers(1, 3))]
    return {"anyOf": [old for old, _ in pairs]}, {"anyOf": news}


PAIRS = st.recursive(
    _leaves(),
    lambda inner: st.one_of(
        _objects(inner),
        _alternatives(inner),
        inner.map(
            lambda pair: (
                {"type": "array", "items": pair[0]},
                {"type": "array", "items": pair[1]},
            )
        ),
    ),
    max_leaves=3,
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["", "a", "b", "ab"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("pq"), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(PAIRS)
def test_same_schema_has_no_changes(pair: Pair) -> None:
    assert changes(pair[0], pair[0]) == []


@given(PAIRS, st.lists(VALUES, min_size=10, max_size=10))
def test_schema_without_a_break_accepts_all_old_values(pair: Pair, values: list[Any]) -> None:
    """Compared with an independent validator."""
    old, new = pair
    if breaks(old, new):
        return
    accepted = jsonschema.Draft202012Validator(new)
    for value in values:
        if _only_known(value, old) and jsonschema.Draft202012Validator(old).is_valid(value):
            assert accepted.is_valid(value)


def _only_known(value: Any, schema: dict[str, Any]) -> bool:
    """Return True if the old schema names all properties: its producers write no others."""
    if isinstance(value, dict):
        return "properties" in schema and all(
            name in schema["properties"] and _only_known(inner, schema["properties"][name])
            for name, inner in value.items()
        )
    if isinstance(value, list):
        return all(_only_known(inner, schema.get("items", {})) for inner in value)
    return True


def test_code_does_not_break_the_published_schemas() -> None:
    """The published schemas are the contract: a change that breaks one needs a v2 beside v1."""
    now = published({"policy": policy_schema()})
    found = [
        f"{path.name}: {change}"
        for path in sorted(PUBLISHED.glob("*.schema.json"))
        if path.name in now
        for change in breaks(json.loads(path.read_bytes()), json.loads(now[path.name]))
    ]
    assert found == []


def test_published_files_equal_the_generated_ones() -> None:
    """`drydock schemas` writes them."""
    now = published({"policy": policy_schema()})
    present = {path.name: path.read_bytes() for path in PUBLISHED.glob("*.json")}
    assert sorted(present) == sorted(now)
    assert [name for name in now if present[name] != now[name]] == []
    assert ASYNCAPI_NAME in present
