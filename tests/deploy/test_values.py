"""Every value of the chart is documented, typed and used; an unknown key is refused."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema
import pytest

from tests.deploy.chart import CHART, SHAPES, Helm, load, schema, values

Path = tuple[str, ...]
DEFAULTS = values()
SCHEMA = schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
# The production shape uses most values, so it is tried first.
BY_USE = sorted(SHAPES, key=lambda shape: shape != "production")
# Candidates for another value at a path; the schema selects the valid ones.
OTHERS: tuple[Any, ...] = (
    *(True, False, 7, 7777, "zz", "7Gi", "zz:1", "/zz", f"sha256:{'7' * 64}"),
    *(["zz"], ["--zz"], [{"name": "zz"}], [{"key": "zz"}], [{"podSelector": {}}]),
    *([{"name": "ZZ", "value": "zz"}], {"zz": "zz"}),
    {"requests": {"cpu": "7m", "memory": "7Mi"}, "limits": {"memory": "7Mi"}},
    *("PLAINTEXT", "PLAIN", "gzip", "none", "Always", "Retain", "NodePort"),
)


def is_group(path: Path, node: object) -> bool:
    return isinstance(node, dict) and bool(node) and path[-1:] != ("resources",)


def leaves(node: dict[str, Any], path: Path = ()) -> Iterator[Path]:
    """Yield the path of each value; a mapping with free keys is one value."""
    for name, value in node.items():
        here = (*path, name)
        if is_group(here, value):
            yield from leaves(value, here)
        else:
            yield here


def groups(node: dict[str, Any], path: Path = ()) -> Iterator[Path]:
    """Yield the path of each group of values; the top has the empty path."""
    yield path
    for name, value in node.items():
        if is_group((*path, name), value):
            yield from groups(value, (*path, name))


def nested(path: Path, value: object) -> dict[str, Any]:
    """Return values with this value alone, at its path."""
    for name in reversed(path):
        value = {name: value}
    assert isinstance(value, dict)
    return value


def merged(under: Any, over: Any) -> Any:
    """Return `under` overridden with `over`, as Helm merges values."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    both = under | over
    return {
        name: merged(under.get(name), both[name]) if name in over else both[name] for name in both
    }


def complaints(given: object) -> list[str]:
    return [error.message for error in VALIDATOR.iter_errors(given)]


def other_values(path: Path) -> list[Any]:
    """Return the candidates that the schema accepts at a path."""
    return [
        other for other in OTHERS if not complaints(merged(DEFAULTS, nested(path, other)))
    ]  # fmt: skip


@cache
def values_of(shape: str) -> Any:
    """Return a shape's values merged with the defaults."""
    (own,) = load((CHART / "ci" / f"{shape}-values.yaml").read_text())
    return merged(DEFAULTS, own)


def lookup(shape_values: Any, path: Path) -> Any:
    for name in path:
        if not isinstance(shape_values, dict) or name not in shape_values:
            return None
        shape_values = shape_values[name]
    return shape_values


@pytest.mark.parametrize("path", [*leaves(DEFAULTS)], ids=".".join)
def test_changing_a_value_changes_the_rendered_chart(helm: Helm, path: Path) -> None:
    others = other_values(path)
    assert others, "the schema accepts no other value there"
    for shape in BY_USE:
        for other in others[:2]:
            if lookup(values_of(shape), path) != other and helm.text(
                shape, nested(path, other)
            ) != helm.text(shape):
                return
    pytest.fail(f"{'.'.join(path)} changes nothing that is rendered")


@pytest.mark.parametrize("path", [*groups(DEFAULTS)], ids=lambda path: ".".join(path) or "top")
def test_unknown_key_is_refused(path: Path) -> None:
    assert complaints(DEFAULTS) == []
    assert any(
        "unknownKey" in complaint
        for complaint in complaints(merged(DEFAULTS, nested((*path, "unknownKey"), 1)))
    )


def test_schema_refuses_unknown_keys_in_every_object() -> None:
    """Only labels, selectors, and objects that Kubernetes itself checks may have any keys."""
    free = [where for where, node in objects_of(SCHEMA) if "additionalProperties" not in node]
    assert free == [
        "properties.global",
        "definitions.peer.properties.podSelector",
        "definitions.peer.properties.namespaceSelector",
        "definitions.variable",
        "definitions.variable.oneOf.1.properties.valueFrom",
    ]


def test_schema_and_values_have_the_same_keys() -> None:
    def typed(node: Any, path: Path = ()) -> Iterator[Path]:
        for name, value in node["properties"].items():
            if "properties" in value:
                yield from typed(value, (*path, name))
            else:
                yield (*path, name)

    assert set(typed(SCHEMA)) - {("global",)} == set(leaves(DEFAULTS))


def objects_of(node: Any, where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the schema of every object in a schema."""
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield where.strip("."), node
        for name, value in node.items():
            yield from objects_of(value, f"{where}.{name}")
    if isinstance(node, list):
        for index, value in enumerate(node):
            yield from objects_of(value, f"{where}.{index}")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({"image": {"tag": "latest"}}, id="latest"),
        pytest.param({"kafka": {"bootstrap": "kafka"}}, id="no-port"),
        pytest.param({"kafka": {"securityProtocol": "sasl_ssl"}}, id="small-letters"),
        pytest.param({"agents": {"sites": [{"name": "New York"}]}}, id="site-name"),
        pytest.param({"agents": {"sites": [{}]}}, id="site-without-name"),
        # Helm treats an empty value as absent, so it would have no effect.
        pytest.param(
            {"agents": {"sites": [{"name": "x", "replicas": 0}]}}, id="site-without-agents"
        ),
        pytest.param({"agents": {"sites": [{"name": "x", "tolerations": []}]}}, id="no-effect"),
        pytest.param({"worker": {"extraArgs": ["policy.yaml"]}}, id="no-option"),
        pytest.param({"worker": {"state": {"size": "20"}}}, id="twenty-bytes"),
        pytest.param({"worker": {"extraEnv": [{"name": "A_TOKEN", "value": "x"}]}}, id="secret"),
        pytest.param({"worker": {"resources": {"requests": {"cpu": 1}}}}, id="no-limits"),
        # Helm prints it as 1e+06, which Kubernetes does not read as a number.
        pytest.param({"worker": {"startupTimeoutS": 1000000}}, id="too-large"),
    ],
)
def test_schema_refuses_a_wrong_value(value: dict[str, Any]) -> None:
    # Not merged with the defaults, which would add the missing keys.
    assert complaints(value) != []


def test_every_value_has_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    assert unexplained(lines) == []


def test_value_without_a_comment_is_found() -> None:
    lines = ["# Comment.", "a: 1", "b: 2", "# Also.", "c:", "  d: 3", "  # And this.", "  e: 4"]
    assert unexplained(lines) == ["b: 2", "  d: 3"]


def unexplained(lines: list[str]) -> list[str]:
    """Return the lines of keys without a comment above; keys in `resources` are Kubernetes' own."""
    found = []
    for before, line in zip(["", *lines], lines, strict=False):
        match = re.match(r"( *)(?!requests|limits)[A-Za-z]+:", line)
        if match and not before.startswith(f"{match[1]}# "):
            found.append(line)
    return found


def test_schema_has_the_format_of_the_json_module() -> None:
    text = (CHART / "values.schema.json").read_text()
    assert text == json.dumps(SCHEMA, indent=2) + "\n"
