"""The map of renames since the golden record: the only permitted differences from it.

It is `renames.tsv` beside this file, one rename a line, three columns separated by tabs:

| kind | old | new |
| --- | --- | --- |
| `field` | path of a key in a decision record: `inputs.ledger.guessed` | the key: `inferred` |
| `value` | path and text: `decision.gates.gate=open_job` | the text: `job_open` |
| `name` | code at commit db5d263, `path` or `path:qualname` | the same, today |

- A path has the recorded keys, joined by dots; lists do not count. `field` and `value` are applied
  to the recorded decision records, before these are compared.
- `name` is an index for readers of reviews of db5d263, such as
  `pipeline/decide/engine.py:Engine.sweep`. A qualname is a function, a class, a constant, or a
  class's method or attribute. `-` as new means that the code is gone.
- Issued jobs, signed payloads, job ids and event types have no renames, nor have the fields of a
  decision, which `drydock decide --json` prints. Fields under `inputs` may have renames.
- Lines are sorted by kind and old name, so that two branches rarely change adjacent lines.
"""

import ast
import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from tests.golden.golden_file import Output, canonical

FILE: Final = Path(__file__).with_name("renames.tsv")
GONE: Final = "-"
_HEADER: Final = ["kind", "old", "new"]
# Job ids, and the fields that job ids are derived from.
_FIXED: Final = frozenset({"job_id", "supersedes", "intent"})

RenameKind = Literal["field", "value", "name"]


class Rename(NamedTuple):
    """One line of the map."""

    kind: RenameKind
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Renames:
    """The renames in recorded decision records: keys by path, texts by path and text."""

    fields: Mapping[str, str]
    values: Mapping[tuple[str, str], str]

    @classmethod
    def of(cls, lines: Iterable[Rename]) -> Self:
        """Take the `field` and `value` entries of the map."""
        fields: dict[str, str] = {}
        values: dict[tuple[str, str], str] = {}
        for line in lines:
            if line.kind == "field":
                fields[line.old] = line.new
            elif line.kind == "value":
                path, _, text = line.old.partition("=")
                values[path, text] = line.new
        return cls(fields, values)

    def apply(self, output: Output) -> Output:
        """Return a recorded output under today's names; only decision records have any."""
        if output.kind != "decision" or not (self.fields or self.values):
            return output
        return Output("decision", canonical(self._renamed(json.loads(output.body), "")))

    def _renamed(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            found = {}
            for key, member in value.items():
                inner = f"{path}.{key}" if path else key
                found[self.fields.get(inner, key)] = self._renamed(member, inner)
            return found
        if isinstance(value, list):
            return [self._renamed(member, path) for member in value]
        return self.values.get((path, value), value) if isinstance(value, str) else value


def read(file: Path = FILE) -> list[Rename]:
    """Return the map's lines. Raises ValueError with the number of a malformed line."""
    rows = list(csv.reader(file.read_text(encoding="utf-8").splitlines(), delimiter="\t"))
    if not rows or rows[0] != _HEADER:
        raise ValueError(f"{file.name}: the first line is not {' '.join(_HEADER)}")
    lines = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(_HEADER) or row[0] not in get_args(RenameKind) or "" in row:
            raise ValueError(f"{file.name}:{number}: not a kind, an old and a new name: {row}")
        lines.append(Rename(row[0], row[1], row[2]))  # type: ignore[arg-type]
    return lines


def complaints(lines: Iterable[Rename], recorded: Iterable[bytes], root: Path) -> list[str]:
    """Return the errors of the map, checked with the recorded decisions and today's tree."""
    found = list(lines)
    keys = [(line.kind, line.old) for line in found]
    wrong = [
        f"{kind} {old}: is there twice"
        for kind, old in sorted(set(keys))
        if keys.count((kind, old)) > 1
    ]
    if keys != sorted(keys):
        wrong.append("the lines are not sorted by kind and old name")
    present = _present(recorded) if any(line.kind != "name" for line in found) else frozenset()
    for line in found:
        if line.old == line.new:
            wrong.append(f"{line.kind} {line.old}: is no rename")
        if line.kind == "name":
            wrong += _name_complaints(line, root)
            continue
        path = line.old.partition("=")[0]
        if line.old not in present:
            wrong.append(f"{line.kind} {line.old}: is not in the record")
        if path.rpartition(".")[2] in _FIXED:
            wrong.append(f"{line.kind} {line.old}: job ids have no renames")
        elif line.kind == "field" and not path.startswith("inputs."):
            wrong.append(f"field {line.old}: the fields of a decision have no renames")
    return wrong


def _name_complaints(line: Rename, root: Path) -> list[str]:
    if line.new == GONE:
        return [f"name {line.old}: is not gone"] if exists(line.old, root) else []
    return [] if exists(line.new, root) else [f"name {line.old}: there is no {line.new}"]


def exists(name: str, root: Path) -> bool:
    """Return True if the tree has this `path` or `path:qualname`."""
    path, _, qualname = name.partition(":")
    if not qualname:
        return (root / path).exists()
    return (root / path).is_file() and qualname in set(
        _qualnames(ast.parse((root / path).read_bytes()), "")
    )


def _qualnames(scope: ast.AST, prefix: str) -> Iterator[str]:
    """Yield each name that a module, class or function defines, and each assigned attribute."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield f"{prefix}{node.name}"
            yield from _qualnames(node, f"{prefix}{node.name}.")
            if isinstance(scope, ast.ClassDef):
                yield from (f"{prefix}{name}" for name in _own_attributes(node))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield f"{prefix}{node.id}"
        elif isinstance(node, ast.arg):
            yield f"{prefix}{node.arg}"
        else:
            yield from _qualnames(node, prefix)


def _own_attributes(method: ast.AST) -> Iterator[str]:
    for node in ast.walk(method):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        ):
            yield node.attr


def _present(recorded: Iterable[bytes]) -> frozenset[str]:
    """Return every path, and every `path=text`, of these decision records."""
    found: set[str] = set()
    for body in recorded:
        _walk(json.loads(body), "", found)
    return frozenset(found)


def _walk(value: Any, path: str, found: set[str]) -> None:
    if isinstance(value, dict):
        for key, member in value.items():
            inner = f"{path}.{key}" if path else key
            found.add(inner)
            _walk(member, inner, found)
    elif isinstance(value, list):
        for member in value:
            _walk(member, path, found)
    elif isinstance(value, str):
        found.add(f"{path}={value}")
