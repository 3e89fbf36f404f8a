"""The flag `fast_paths` reaches each fast path, and docs/explanation/fast-paths.md is complete."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.tidy.checks import modules

ROOT: Final = Path(__file__).resolve().parents[2]
FLAG: Final = "fast_paths"
# Only an issued job has a fast encoder, and only WRITE_ORDERS encode issued jobs.
ENCODE: Final = ("schemas.envelope", "encode")
DEFAULTS: Final = ("pipeline.embedded.service", "Options")  # `Service.open` without options
WRITE_ORDERS: Final = {
    "pipeline.embedded.writer",
    "pipeline.reconcile.deciding",
    "pipeline.reconcile.folding",
}


def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_bytes()) for name, path in modules(ROOT)}


def takes_flag(node: ast.stmt) -> bool:
    """Return True if a function has the parameter, or a class the field or the parameter."""
    if isinstance(node, ast.FunctionDef):
        return FLAG in [one.arg for one in (*node.args.args, *node.args.kwonlyargs)]
    return isinstance(node, ast.ClassDef) and any(
        (isinstance(one, ast.AnnAssign) and ast.unparse(one.target) == FLAG)
        or (isinstance(one, ast.FunctionDef) and one.name == "__init__" and takes_flag(one))
        for one in node.body
    )


def switched(parsed: dict[str, ast.Module]) -> set[tuple[str, str]]:
    """Return module and name of each function or class that takes the flag."""
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


def test_every_call_with_the_flag_parameter_passes_the_flag() -> None:
    parsed = trees()
    known = switched(parsed)
    assert {
        ("pipeline.reconcile.reconciler", "Reconciler"),
        ("pipeline.decide.decision", "evaluate"),
    } <= known
    missing = [
        one for name, tree in parsed.items() for one in calls_without_flag(name, tree, known)
    ]
    assert missing == []


def named() -> set[tuple[str, str]]:
    """Return file and name of each code reference in the page; the name may be empty."""
    text = (ROOT / "docs" / "explanation" / "fast-paths.md").read_text(encoding="utf-8")
    return set(re.findall(r"`([\w/.]+\.py)(?::(\w+))?`", text))


def names_in(path: Path) -> set[str]:
    """Return the functions, classes, methods, constants and attributes that a module defines."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
    return found


def test_code_references_of_the_fast_paths_page_exist() -> None:
    listed = named()
    assert len(listed) > 50
    gone = [file for file, _ in listed if not (ROOT / file).is_file()]
    assert gone == []
    assert [
        (file, name) for file, name in listed if name and name not in names_in(ROOT / file)
    ] == []


def cached_name(node: ast.AST) -> str | None:
    """Return the name of a cached function or constant; None for any other node."""
    if isinstance(node, ast.FunctionDef):
        marked = any("lru_cache" in ast.unparse(one) for one in node.decorator_list)
        return node.name if marked else None
    if isinstance(node, ast.AnnAssign) and "lru_cache" in ast.unparse(node):
        return ast.unparse(node.target)
    return None


def test_fast_paths_page_lists_every_cache_and_every_use_of_gc() -> None:
    listed, missing = named(), []
    for name, path in modules(ROOT):
        file = str(path.relative_to(ROOT))
        for node in ast.walk(ast.parse(path.read_bytes())):
            found = cached_name(node)
            if found is not None:
                missing += [(file, found)] if (file, found) not in listed else []
            elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("gc."):
                missing += [(file, name)] if file not in {one for one, _ in listed} else []
    assert missing == []
