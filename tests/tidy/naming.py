"""Rules of names and docstrings (STYLE 'Words', 'Writing'): each rule returns its complaints."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDERS: Final = ("schemas", "runtime", "pipeline", "agents", "tests")

REJECTED_WORDS: Final = frozenset(
    {"told", "tell", "tells", "said", "says", "heard", "heed", "heeds", "stand", "stands"}
    | {"standing", "standings", "glance", "courier", "holder", "parcel", "stillness", "restless"}
    | {"believed", "unkept", "homeless", "patience", "aside", "mend", "whoever"}
)
BARE_CLAUSE: Final = re.compile(r"(What|Who|Whose|Whether|How|Where|When|Which)\b")
MAX_CLASSES_PER_METHOD: Final = 5

_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def python_files(root: Path) -> Iterator[tuple[str, ast.Module]]:
    """Yield the relative path and the syntax tree of every Python file of the project."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            yield str(path.relative_to(root)), ast.parse(path.read_bytes())


def words_of(name: str) -> set[str]:
    """Split a snake_case, CamelCase or ALL_CAPS name into its words, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def defined_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and name of every class, function, parameter, variable and attribute defined."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def rejected_words(root: Path) -> list[str]:
    """Return each defined name, or module name, that holds a rejected word."""
    complaints = []
    for path, tree in python_files(root):
        if words_of(Path(path).stem) & REJECTED_WORDS:
            complaints.append(f"{path}: the module's name holds a rejected word")
        complaints += [
            f"{path}:{line}: {name} holds a rejected word"
            for line, name in defined_names(tree)
            if words_of(name) & REJECTED_WORDS
        ]
    return complaints


def bare_clauses(root: Path) -> list[str]:
    """Return each docstring that opens with a bare clause instead of its subject or a verb."""
    return [
        f"{path}:{getattr(node, 'lineno', 1)}: the docstring opens with a bare clause"
        for path, tree in python_files(root)
        for node in ast.walk(tree)
        if isinstance(node, _Documented) and BARE_CLAUSE.match(ast.get_docstring(node) or "")
    ]


def overloaded_methods(root: Path) -> list[str]:
    """Return each method name that more unrelated classes of the product define than allowed.

    Classes are related if they share a base class of the project, or if both have all methods of
    one Protocol of the project that has several. Names of LIBRARY_METHODS are free.
    """
    classes = [
        node
        for path, tree in python_files(root)
        if not path.startswith("tests/")
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    ]
    bases: dict[str, set[str]] = defaultdict(set)
    for node in classes:
        bases[node.name] |= {_last_name(base) for base in node.bases}
    protocols = {node.name: _methods(node) for node in classes if "Protocol" in bases[node.name]}
    # A Protocol with one method would relate all classes that have a method of this name.
    protocols = {name: methods for name, methods in protocols.items() if len(methods) > 1}
    families: dict[str, set[str]] = defaultdict(set)
    for node in classes:
        own = _methods(node)
        for name in own:
            met = [one for one, asked in protocols.items() if name in asked and asked <= own]
            families[name].add(met[0] if met else _topmost(node.name, bases))
    return [
        f"{name}: {len(found)} unrelated classes define it ({', '.join(sorted(found))})"
        for name, found in sorted(families.items())
        if len(found) > MAX_CLASSES_PER_METHOD and name not in LIBRARY_METHODS
    ]


# Names from the standard library with their usual meaning: any number of classes may have them.
LIBRARY_METHODS: Final = frozenset({"add", "close", "get", "open", "put", "run", "start", "stop"})


def _methods(node: ast.ClassDef) -> set[str]:
    return {
        item.name
        for item in node.body
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
        and not item.name.startswith("__")
    }


def _last_name(base: ast.expr) -> str:
    if isinstance(base, ast.Subscript):
        base = base.value
    return base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "")


def _topmost(cls: str, bases: dict[str, set[str]]) -> str:
    own = sorted(base for base in bases[cls] if base in bases and base != cls)
    return _topmost(own[0], bases) if own else cls
