"""Compare two JSON Schemas of one model, and find the changes that break the contract.

Topics hold records of older producers, some of them forever: a reader of the new schema must accept
every value that the old schema accepts.

- `breaks`: fewer values are accepted; a property is removed, so that its value in old records would
  be dropped silently; or the value of a keyword changes that is not handled here.
- `readers_first`: more values are accepted. An older reader refuses the new ones, so all readers
  are upgraded before the producers.
- no effect: a new optional property that older readers ignore; titles and descriptions.

It handles the keywords that pydantic writes. A schema that becomes one for any value (`true`, `{}`,
no `type`) is not reported, although it accepts more.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Schema = Mapping[str, Any]
Effect = Literal["breaks", "readers_first"]

_ANNOTATIONS: Final = frozenset(
    {"$comment", "$defs", "$id", "$schema", "default", "deprecated", "description", "examples"}
    | {"readOnly", "title", "writeOnly", "discriminator"}
)
_HANDLED: Final = frozenset(
    {"$ref", "additionalProperties", "anyOf", "const", "enum", "format", "items", "oneOf"}
    | {"pattern", "prefixItems", "properties", "required", "type"}
)
_JSON_TYPE: Final[Mapping[type, str]] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    type(None): "null",
    list: "array",
    dict: "object",
}
_AT_LEAST: Final = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems"})
_AT_MOST: Final = frozenset({"maximum", "exclusiveMaximum", "maxLength", "maxItems"})


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One difference of two schemas. `where` is a path in their values (`$.data.builds[*]`).

    `effect` is defined at the top of this module; `description` is for people.
    """

    effect: Effect
    where: str
    description: str

    def __str__(self) -> str:
        return f"{self.where}: {self.description}"


def changes(old: Schema, new: Schema) -> list[SchemaChange]:
    """Return all differences with the effect `breaks` or `readers_first`, in a fixed order."""
    return list(_Comparison(old.get("$defs", {}), new.get("$defs", {})).compare(old, new, "$"))


def breaks(old: Schema, new: Schema) -> list[SchemaChange]:
    """Return the changes with the effect `breaks`: old records become unreadable or lose data."""
    return [change for change in changes(old, new) if change.effect == "breaks"]


class _Comparison:
    """One walk over both schemas. It tracks open pairs of references, to end at recursive ones."""

    def __init__(self, old_defs: Mapping[str, Schema], new_defs: Mapping[str, Schema]) -> None:
        self._old_defs = old_defs
        self._new_defs = new_defs
        self._open: set[tuple[str, str]] = set()

    def compare(self, old: Any, new: Any, where: str) -> Iterator[SchemaChange]:
        """Yield the changes between two schemas of the value at `where`; each is a dict or bool.

        Yields nothing for a pair of references that is being compared already (recursive models).
        """
        pair = (_reference(old), _reference(new))
        if pair in self._open:
            return
        if any(pair):
            self._open.add(pair)
        try:
            yield from self._compare_resolved(
                _resolve(old, self._old_defs), _resolve(new, self._new_defs), where
            )
        finally:
            self._open.discard(pair)

    def _compare_resolved(self, old: Any, new: Any, where: str) -> Iterator[SchemaChange]:
        if old == new and not self._has_references(old):
            return
        if old is False or new is True or new == {}:
            return
        if new is False or old is True:
            yield SchemaChange("breaks", where, "accepts fewer values than before")
            return
        if _branches(old) is not None or _branches(new) is not None:
            yield from self._branches(old, new, where)
            return
        yield from _values(old, new, where)
        yield from _limits(old, new, where)
        yield from self._object(old, new, where)
        yield from self._array(old, new, where)

    def _has_references(self, schema: Any) -> bool:
        if isinstance(schema, Mapping):
            return "$ref" in schema or any(self._has_references(v) for v in schema.values())
        return isinstance(schema, list) and any(self._has_references(item) for item in schema)

    def _branches(self, old: Schema, new: Schema, where: str) -> Iterator[SchemaChange]:
        """Yield the changes between the alternatives of `anyOf` or `oneOf`.

        An old alternative breaks if each new one breaks it. A new one without an old counterpart
        accepts more values. A schema without them counts as one alternative.
        """
        olds = _branches(old) or [old]
        news = _branches(new) or [new]
        used: set[int] = set()
        for branch in olds:
            tries = [list(self.compare(branch, candidate, where)) for candidate in news]
            best = min(range(len(tries)), key=lambda at: (_broken(tries[at]), len(tries[at])))
            used.add(best)
            alike = [at for at, candidate in enumerate(news) if self._alike(branch, candidate)]
            if not _broken(tries[best]):
                yield from tries[best]
            elif alike:
                used.add(alike[0])
                yield from tries[alike[0]]
            else:
                yield SchemaChange(
                    "breaks", where, f"no longer accepts {self._name(branch, old=True)}"
                )
        for at, candidate in enumerate(news):
            if at not in used:
                name = self._name(candidate, old=False)
                yield SchemaChange("readers_first", where, f"now also accepts {name}")

    def _alike(self, old: Any, new: Any) -> bool:
        """Return True if two alternatives have one reference, or one `type` and no reference.

        The changes inside them are then reported, instead of a removed alternative.
        """
        if _reference(old) or _reference(new):
            return _reference(old) == _reference(new)
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            return False
        return "type" in old and old.get("type") == new.get("type")

    def _name(self, schema: Any, *, old: bool) -> str:
        """Return a short text for an alternative: its model, constant, enum or type.

        `old` is True if the schema belongs to the old side.
        """
        if name := _reference(schema):
            return name.rpartition("/")[2]
        resolved = _resolve(schema, self._old_defs if old else self._new_defs)
        if isinstance(resolved, Mapping):
            for key in ("const", "enum", "type"):
                if key in resolved:
                    return str(resolved[key])
        return "any value"

    def _object(self, old: Schema, new: Schema, where: str) -> Iterator[SchemaChange]:
        olds, news = old.get("properties", {}), new.get("properties", {})
        required, still = set(old.get("required", ())), set(new.get("required", ()))
        for name, schema in olds.items():
            if name in news:
                yield from self.compare(schema, news[name], f"{where}.{name}")
            else:
                yield SchemaChange("breaks", f"{where}.{name}", "property removed")
        for name in sorted(still - required):
            description = "is now required" if name in olds else "new property is required"
            yield SchemaChange("breaks", f"{where}.{name}", description)
        for name in sorted((required - still) & set(news)):
            yield SchemaChange("readers_first", f"{where}.{name}", "is no longer required")
        rest, now = old.get("additionalProperties", True), new.get("additionalProperties", True)
        if olds and rest is False and now is False:
            for name in sorted(set(news) - set(olds)):
                description = "new property, which older readers refuse as unknown"
                yield SchemaChange("readers_first", f"{where}.{name}", description)
        yield from self.compare(rest, now, f"{where}.*")

    def _array(self, old: Schema, new: Schema, where: str) -> Iterator[SchemaChange]:
        olds, news = old.get("prefixItems", []), new.get("prefixItems", [])
        rest, now = old.get("items", True), new.get("items", True)
        for at in range(max(len(olds), len(news))):
            yield from self.compare(
                olds[at] if at < len(olds) else rest,
                news[at] if at < len(news) else now,
                f"{where}[{at}]",
            )
        yield from self.compare(rest, now, f"{where}[*]")


def _reference(schema: Any) -> str:
    """Return the schema's `$ref`, or "" if it has none."""
    return str(schema.get("$ref", "")) if isinstance(schema, Mapping) else ""


def _resolve(schema: Any, defs: Mapping[str, Schema]) -> Any:
    """Return the schema; a reference becomes its definition plus the keywords beside it.

    Annotations beside the reference, such as titles, are dropped.
    """
    name = _reference(schema)
    if not name:
        return schema
    beside = {
        key: value for key, value in schema.items() if key != "$ref" and key not in _ANNOTATIONS
    }
    return {**_resolve(defs[name.rpartition("/")[2]], defs), **beside}


def _branches(schema: Schema) -> list[Any] | None:
    """Return the alternatives of `anyOf` or `oneOf`; None if the schema has neither."""
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return list(schema[key])
    return None


def _broken(found: list[SchemaChange]) -> int:
    """Return the number of changes with the effect `breaks`."""
    return sum(change.effect == "breaks" for change in found)


def _allowed(schema: Schema) -> list[Any] | None:
    """Return the values of `const` or `enum`; None if the schema has neither."""
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if "enum" in schema else None


def _values(old: Schema, new: Schema, where: str) -> Iterator[SchemaChange]:
    """Yield changes of constants and enums, then of types."""
    olds, news = _allowed(old), _allowed(new)
    if "const" in old and "const" in new and olds != news:
        yield SchemaChange("breaks", where, f"changed from {old['const']!r} to {new['const']!r}")
    elif news is not None and olds is None:
        yield SchemaChange("breaks", where, f"now accepts only {_list(news)}")
    elif news is None and olds is not None:
        yield SchemaChange("readers_first", where, f"now accepts more than {_list(olds)}")
    elif news is not None and olds is not None:
        yield from _enum_changed(olds, news, where)
    yield from _types_changed(_types(old), _types(new), where)


def _enum_changed(olds: list[Any], news: list[Any], where: str) -> Iterator[SchemaChange]:
    if gone := [value for value in olds if value not in news]:
        yield SchemaChange("breaks", where, f"no longer accepts {_list(gone)}")
    if more := [value for value in news if value not in olds]:
        yield SchemaChange("readers_first", where, f"now also accepts {_list(more)}")


def _types_changed(olds: set[str], news: set[str], where: str) -> Iterator[SchemaChange]:
    """Yield changes of JSON types; nothing if `news` is empty.

    `number` includes `integer`; an empty set means any type.
    """
    if not olds and news:
        yield SchemaChange("breaks", where, f"now accepts only {_list(sorted(news))}")
    if not olds or not news:
        return
    if gone := sorted(olds - news - ({"integer"} if "number" in news else set())):
        yield SchemaChange("breaks", where, f"no longer accepts {_list(gone)}")
    if more := sorted(news - olds):
        yield SchemaChange("readers_first", where, f"now also accepts {_list(more)}")


def _types(schema: Schema) -> set[str]:
    """Return the JSON types of `type`, else those of the allowed values; empty for any type."""
    given = schema.get("type")
    if given is None:
        return {_JSON_TYPE[type(value)] for value in _allowed(schema) or ()}
    return {given} if isinstance(given, str) else set(given)


def _list(values: list[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _limits(old: Schema, new: Schema, where: str) -> Iterator[SchemaChange]:
    """Yield changes of bounds, patterns, formats, and keywords that are not handled elsewhere."""
    for key in sorted((old.keys() | new.keys()) - _ANNOTATIONS):
        before, after = old.get(key), new.get(key)
        if before == after or key in _HANDLED - {"pattern", "format"}:
            continue
        wider = after is None
        if before is not None and after is not None:
            wider = (key in _AT_LEAST and after < before) or (key in _AT_MOST and after > before)
        shown = "unset" if before is None else before
        description = f"{key} changed from {shown} to {'unset' if after is None else after}"
        yield SchemaChange("readers_first" if wider else "breaks", where, description)
