"""The flag reaches all that it switches, and the list of fast paths names what exists."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.tidy.checks import modules

ROOT: Final = Path(__file__).resolve().parents[2]
FLAG: Final = "fast_paths"
# Only an order has a fast encoder, and only these two modules write orders.
ENCODE: Final = ("schemas.envelope", "encode")
DEFAULTS: Final = ("pipeline.embedded.service", "Options")  # `Service.open` without options
WRITE_ORDERS: Final = {"pipeline.embedded.writer", "pipeline.processors.device_shard"}


def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_bytes()) for name, path in modules(ROOT)}


def takes_flag(node: ast.stmt) -> bool:
    """Whether a function has the parameter, or a class the field or the parameter."""
    if isinstance(node, ast.FunctionDef):
        return FLAG in [one.arg for one in (*node.args.args, *node.args.kwonlyargs)]
    return isinstance(node, ast.ClassDef) and any(
        (isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == FLAG)
        or (isinstance(one, ast.FunctionDef) and one.name == "__init__" and takes_flag(one))
        for one in node.body
    )


def switched(parsed: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """Module and name of all that takes the flag."""
    return {
        (name, node.name)
        for name, tree in parsed.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and takes_flag(node)
    }


def calls_without_flag(
    name: str, tree: ast.Module, known: set[tuple[str, str]]
) -> Iterator[tuple[str, int, str]]:
    origin = {one: (name, one) for module, one in known if module == name}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = {one.asname or one.name: (node.module or "", one.name) for one in node.names}
            origin |= {alias: found for alias, found in names.items() if found in known}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        found = origin.get(node.func.id)
        if found is None or (found == ENCODE and name not in WRITE_ORDERS):
            continue
        if found == DEFAULTS and name == DEFAULTS[0]:
            continue
        if FLAG not in [one.arg for one in node.keywords]:
            yield name, node.lineno, node.func.id


def test_every_call_of_what_takes_the_flag_passes_it() -> None:
    parsed = trees()
    known = switched(parsed)
    assert {("pipeline.decide.engine", "Engine"), ("pipeline.decide.decision", "answer")} <= known
    missing = [
        one for name, tree in parsed.items() for one in calls_without_flag(name, tree, known)
    ]
    assert missing == []
