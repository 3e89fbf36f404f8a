"""All small changes of a module that its tests should detect.

| kind | change |
| --- | --- |
| comparison | `<` becomes `<=` and `>=`, `==` becomes `!=`, `is` becomes `is not`, ... |
| boolean | `and` becomes `or`, an operand is dropped, `not` is dropped, a condition is inverted |
| arithmetic | `+` becomes `-`, `*` becomes `/`, `|` becomes `&`, `<<` becomes `>>`, ... |
| constant | a number one higher, True becomes False, a name or code (text without a space) longer |
| call | `min` becomes `max`, `any` becomes `all`, and back |
| return | the returned value becomes None |
| dropped | an assignment, a call, `return`, `raise`, `continue` or `break` becomes `pass` |

Not changed: imports, annotations, decorators (most are caches), options of a class (`frozen=True`),
docstrings, assertions (only a bug can make them fail), log lines, and texts with a space in them,
which are written for people and may change without a failing test.
"""

import ast
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

_COMPARISONS: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_CALLS: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
_DROPPED: Final = (
    *(ast.Assign, ast.AnnAssign, ast.AugAssign, ast.Delete, ast.Expr),
    *(ast.Return, ast.Raise, ast.Continue, ast.Break),
)
_UNCHANGED: Final = (ast.Import, ast.ImportFrom, ast.Assert, ast.Global, ast.Nonlocal, ast.Pass)
_BLOCKS: Final = ("body", "orelse", "finalbody", "handlers", "cases")
_SKIPPED: Final = ("annotation", "returns", "decorator_list")
_CLASS_OPTIONS: Final = "keywords"
_LOGGERS: Final = ("log", "_log", "logger", "_logger")


@dataclass(frozen=True)
class Mutant:
    """One change of a module, named by the changed statement without the statements inside it."""

    path: str
    lines: range  # of the statement
    original: str  # the statement as ast.unparse writes it
    mutated: str
    inside: str  # the statement around it, written the same way; "" for the module
    change: "Change" = field(repr=False)
    tree: ast.Module = field(repr=False)

    @property
    def line(self) -> int:
        """The first line of the statement."""
        return self.lines.start

    @property
    def lines_around(self) -> range:
        """The lines of the statement around it; empty for the module."""
        around = self.change.around
        return range(0) if around is self.tree else _lines(around)

    def source(self) -> str:
        """Return the text of the changed module."""
        with _applied(self.change):
            return ast.unparse(self.tree) + "\n"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The mutant's name, which stays the same when lines move."""
        return self.path, self.inside, self.original, self.mutated


@dataclass(frozen=True)
class Change:
    """One possible change: `new` replaces a field of `parent`, or item `index` of that field."""

    statement: ast.stmt | ast.match_case | ast.ExceptHandler
    around: ast.AST
    parent: ast.AST
    field: str
    index: int | None
    new: object


def mutants(path: str, text: str) -> list[list[Mutant]]:
    """Return all mutants of a module, one list for each statement that has any."""
    tree = ast.parse(text)
    return [[_mutant(path, tree, change) for change in each] for each in changes(tree)]


def _mutant(path: str, tree: ast.Module, change: Change) -> Mutant:
    statement = change.statement
    with _applied(change):
        dropped = isinstance(change.new, ast.Pass)
        mutated = "pass" if dropped else _header(statement)
    inside = "" if change.around is tree else _header(change.around)
    return Mutant(path, _lines(statement), _header(statement), mutated, inside, change, tree)


@contextmanager
def _applied(change: Change) -> Iterator[None]:
    place: Any = getattr(change.parent, change.field)
    old = place if change.index is None else place[change.index]

    def put(value: object) -> None:
        if change.index is None:
            setattr(change.parent, change.field, value)
        else:
            place[change.index] = value

    put(change.new)
    try:
        yield
    finally:
        put(old)


def changes(tree: ast.Module) -> list[list[Change]]:
    """Return the possible changes of a module, one list for each statement that has any."""
    found = [list(_of_block(tree, name, index)) for name, index in _positions(tree)]
    return [each for block in found for each in block if each]


def _positions(node: ast.AST) -> Iterator[tuple[str, int]]:
    for name in _BLOCKS:
        for index in range(len(getattr(node, name, ()))):
            yield name, index


def _of_block(parent: ast.AST, name: str, index: int) -> Iterator[list[Change]]:
    """Yield the changes of one statement of a block, and of the statements inside it."""
    statement = getattr(parent, name)[index]
    if isinstance(statement, _UNCHANGED) or _is_docstring(statement) or _is_log_line(statement):
        return
    if isinstance(statement, ast.If) and (
        ast.unparse(statement.test) == "TYPE_CHECKING" or _only_logs(statement)
    ):
        return
    found = []
    if isinstance(statement, _DROPPED) and not _changes_nothing(parent, statement):
        found.append(Change(statement, parent, parent, name, index, ast.Pass()))
    if isinstance(statement, ast.Return) and not _is_false(statement.value):
        found.append(Change(statement, parent, statement, "value", None, ast.Constant(None)))
    if isinstance(statement, ast.AugAssign) and type(statement.op) in _ARITHMETIC:
        operator = _ARITHMETIC[type(statement.op)]()
        found.append(Change(statement, parent, statement, "op", None, operator))
    found += _of_expressions(statement, parent, statement)
    yield found
    for inner_name, inner in _positions(statement):
        yield from _of_block(statement, inner_name, inner)


def _of_expressions(statement: Any, around: ast.AST, node: ast.AST) -> Iterator[Change]:
    """Yield the changes of all expressions below a node, without those of inner statements."""
    for name, value in ast.iter_fields(node):
        if name in _SKIPPED or (node is statement and name in _BLOCKS):
            continue
        if isinstance(node, ast.ClassDef) and name == _CLASS_OPTIONS:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.JoinedStr):
                continue
            if name == "test" and isinstance(child, ast.expr):
                inverted = ast.UnaryOp(ast.Not(), child)
                yield Change(statement, around, node, name, index, inverted)
            for operator in _OPERATORS:
                for new in operator(child):
                    yield Change(statement, around, node, name, index, new)
            yield from _of_expressions(statement, around, child)


def _comparison(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            for other in _COMPARISONS[type(operator)]:
                ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
                yield ast.Compare(node.left, ops, node.comparators)


def _boolean(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for index in range(len(node.values)):
            kept = [*node.values[:index], *node.values[index + 1 :]]
            yield kept[0] if len(kept) == 1 else ast.BoolOp(node.op, kept)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand


def _arithmetic(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        yield ast.BinOp(node.left, _ARITHMETIC[type(node.op)](), node.right)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand


def _constant(node: ast.AST) -> Iterator[ast.expr]:
    if not isinstance(node, ast.Constant):
        return
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str) and value and " " not in value:
        yield ast.Constant(value + "X")


def _call(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        yield ast.Call(ast.Name(_CALLS[node.func.id], ast.Load()), node.args, node.keywords)


_OPERATORS: Final[tuple[Callable[[ast.AST], Iterator[ast.expr]], ...]] = (
    *(_comparison, _boolean, _arithmetic, _constant, _call),
)


def _header(statement: ast.AST) -> str:
    """Return a statement as text without its decorators and the statements inside it."""
    shown: Any = copy.copy(statement)
    if hasattr(shown, "decorator_list"):
        shown.decorator_list = []
    for name in _BLOCKS:
        if hasattr(shown, name):
            setattr(shown, name, [])
    return ast.unparse(shown).strip()


def _lines(statement: Any) -> range:
    """Return the lines of a statement, without those of the statements inside it."""
    if isinstance(statement, ast.match_case):
        return range(statement.pattern.lineno, statement.body[0].lineno)
    inner = [
        each.lineno
        for name in _BLOCKS
        for each in getattr(statement, name, ())
        if hasattr(each, "lineno")
    ]
    first = statement.lineno
    return range(first, max(first + 1, min([statement.end_lineno + 1, *inner])))


def _is_docstring(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _is_log_line(statement: ast.AST) -> bool:
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return False
    called = ast.unparse(statement.value.func).split(".")
    return len(called) > 1 and called[-2] in _LOGGERS


def _only_logs(statement: ast.If) -> bool:
    return not statement.orelse and all(_is_log_line(each) for each in statement.body)


def _changes_nothing(parent: Any, statement: ast.stmt) -> bool:
    """Return True if `pass` has the same effect, as for `return None` at a function's end."""
    if isinstance(statement, ast.AnnAssign):
        return statement.value is None
    ends = isinstance(parent, ast.FunctionDef | ast.AsyncFunctionDef)
    is_last = ends and parent.body[-1] is statement
    return is_last and isinstance(statement, ast.Return) and _is_none(statement.value)


def _is_false(value: ast.expr | None) -> bool:
    """Return True if the value is false, so that None has the same truth value."""
    return _is_none(value) or (isinstance(value, ast.Constant) and value.value is False)


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)
