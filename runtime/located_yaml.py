"""YAML text as plain values, each with its line and column.

YAML 1.2, one document of at most 1,048,576 characters, standard tags only. The text is read from
the parser's events: depth, number of values and aliases are limited while reading, before memory is
used, and every duplicate key is reported.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.reader import ReaderError

MAX_CHARACTERS: Final = 1024 * 1024
_MAX_DEPTH: Final = 32
_MAX_VALUES: Final = 200_000
_TAG: Final = "tag:yaml.org,2002:"
_BASES: Final = {"0x": 16, "0o": 8, "0b": 2}

Path = tuple[str | int, ...]


class Problem(NamedTuple):
    """An error in a file: line and column (from 1), path of the value (`sites.tokyo`), message.

    The path is empty for an error of the whole text.
    """

    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.line}:{self.column}: "
        return where + (f"{self.path}: {self.message}" if self.path else self.message)


class UnreadableYaml(ValueError):  # noqa: N818 - named like InvalidEvent
    """The text is not YAML of the allowed form; `problems` has at least one problem."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(str(problems[0]))
        self.problems = problems


@dataclass(slots=True)
class Located:
    """A value with its line and column (from 1), and the values inside it.

    `value` is a Python value: of a mapping a dict, of a list a list. `text` is a scalar's text
    without quotes, and None for a mapping or list. `children` maps a key or an index to a value,
    `keys` a key to the line and column of the key itself. `size` is the number of values in it,
    itself included; an alias counts as all values that it refers to.
    """

    line: int
    column: int
    value: Any = None
    text: str | None = None
    children: dict[str | int, "Located"] = field(default_factory=dict)
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    size: int = 1


def path_text(path: Path) -> str:
    """Return a path as text: `sites.tokyo.windows[0].from`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def read_yaml(text: str) -> Located:
    """Return the root value of the one document in the text.

    Raises UnreadableYaml with every duplicate key, merge key, unsupported tag and unreadable
    scalar. Reading ends at the first error of another kind: text that is too large, empty or not
    YAML, a line that begins with `%`, a second document, or a limit of this module.
    """
    if len(text) > MAX_CHARACTERS:
        raise UnreadableYaml((Problem(1, 1, "", "larger than 1 MiB"),))
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("%"):
            raise UnreadableYaml((Problem(number, 1, "", "% directives are not supported"),))
    reader = _Reader()
    try:
        root = reader.read(text.removeprefix("\ufeff"))
    except _Stop as stop:
        reader.problems.append(stop.problem)
        root = None
    except MarkedYAMLError as error:
        reader.problems.append(_of_marked(error))
        root = None
    except ReaderError as error:
        before = text[: error.position]
        location = (before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
        message = f"character U+{error.character:04X} is not allowed in YAML"
        reader.problems.append(Problem(*location, "", message))
        root = None
    except YAMLError as error:
        first = (str(error).splitlines() or ["unreadable"])[0]
        reader.problems.append(Problem(1, 1, "", f"not YAML: {first}"))
        root = None
    if reader.problems:
        raise UnreadableYaml(tuple(sorted(reader.problems)))
    assert root is not None
    return root


def _location(event: Event) -> tuple[int, int]:
    """Return the line and column (from 1) at which the event begins."""
    mark = event.start_mark
    assert mark is not None
    return mark.line + 1, mark.column + 1


def _integer(text: str) -> int:
    """Return the value of a decimal, hexadecimal, octal or binary number; raises ValueError."""
    digits = text.replace("_", "").lower()
    sign = -1 if digits.startswith("-") else 1
    digits = digits.lstrip("+-")
    return sign * int(digits, _BASES.get(digits[:2], 10))


def _float(text: str) -> float:
    plain = text.replace("_", "").lower()
    return float(plain.replace(".inf", "inf").replace(".nan", "nan"))


def _boolean(text: str) -> bool:
    """Return the value of `true` or `false` in any case. Raises ValueError for other text."""
    if text.lower() not in {"true", "false"}:
        raise ValueError("neither true nor false")
    return text.lower() == "true"


# Dates and times stay text; the fields of a model define their meaning.
_SCALARS: Final[dict[str, Callable[[str], Any]]] = {
    "null": lambda _: None,
    "bool": _boolean,
    "int": _integer,
    "float": _float,
    **dict.fromkeys(("str", "!", "timestamp", "value", "merge"), str),
}


class _Stop(Exception):  # noqa: N818 - never leaves this module
    """Ends the reading of a document with one problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _of_marked(error: MarkedYAMLError) -> Problem:
    """Return the error of the YAML parser as a problem; without a location it is at line 1."""
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
    context = f" {error.context}" if error.context else ""
    return Problem(line, column, "", f"not YAML: {error.problem or 'unreadable'}{context}")


@dataclass(slots=True)
class _OpenCollection:
    """A mapping or list that is being read; `key` is the mapping's key that awaits its value."""

    located: Located
    path: Path
    anchor: str | None
    is_mapping: bool
    key: str | None = None


class _Reader:
    """Builds the values of one document from the parser's events; used once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._yaml = YAML(typ="safe", pure=True)
        self._open: list[_OpenCollection] = []
        self._anchors: dict[str, Located] = {}
        self._root: Located | None = None
        self._values = 0

    def read(self, text: str) -> Located:
        """Return the root value; problems that do not end the reading are added to `problems`.

        Raises _Stop, or an error of ruamel.yaml's. The root value is not valid if there are
        problems.
        """
        for event in self._yaml.parse(text):
            if isinstance(event, DocumentStartEvent) and self._root is not None:
                raise self._stop(_location(event), "a second document begins; only one is allowed")
            if isinstance(event, CollectionEndEvent):
                self._end()
            elif isinstance(event, NodeEvent):
                self._node(event)
        if self._root is None or (self._root.value is None and self._root.text in {"", None}):
            raise _Stop(Problem(1, 1, "", "the file is empty"))
        return self._root

    def _node(self, event: NodeEvent) -> None:
        """Read one value, alias or key, or begin a mapping or list.

        Raises _Stop beyond the limits of values and depth, and for an invalid key or alias.
        """
        self._values += 1
        if self._values > _MAX_VALUES:
            raise self._stop(_location(event), f"more than {_MAX_VALUES:,} values")
        parent = self._open[-1] if self._open else None
        if parent is not None and parent.is_mapping and parent.key is None:
            self._key(event, parent)
            return
        path = self._path()
        if isinstance(event, AliasEvent):
            self._add(self._aliased(event), _location(event))
            return
        line, column = _location(event)
        located = Located(line, column)
        if isinstance(event, ScalarEvent):
            located.text = event.value
            located.value = self._scalar(event, path)
            if event.anchor:
                self._anchors[event.anchor] = located
            self._add(located, (line, column))
            return
        assert isinstance(event, (MappingStartEvent, SequenceStartEvent))
        is_mapping = isinstance(event, MappingStartEvent)
        if event.tag not in {None, "!", f"{_TAG}{'map' if is_mapping else 'seq'}"}:
            self._problem(event, path, f"the tag {event.tag} is not supported")
        if len(self._open) >= _MAX_DEPTH:
            raise self._stop(_location(event), f"nested deeper than {_MAX_DEPTH} levels")
        located.value = {} if is_mapping else []
        self._open.append(_OpenCollection(located, path, event.anchor, is_mapping))

    def _key(self, event: NodeEvent, parent: _OpenCollection) -> None:
        """Store the key for the value that follows; a merge key or duplicate key is a problem.

        Raises _Stop for a key that is not a scalar.
        """
        if not isinstance(event, ScalarEvent):
            raise self._stop(_location(event), "a key must be plain text")
        key = event.value
        if key == "<<" and event.implicit[0]:
            message = "merge keys (<<) are not YAML 1.2; write the keys out"
            self._problem(event, parent.path, message)
        elif key in parent.located.keys:
            first = parent.located.keys[key][0]
            message = f"duplicate key; it is already on line {first}"
            self._problem(event, (*parent.path, key), message)
        else:
            parent.located.keys[key] = _location(event)
        parent.key = key

    def _add(self, located: Located, location: tuple[int, int]) -> None:
        """Put a complete value into the innermost open collection, or make it the root.

        `location` is for the error. Raises _Stop if aliases repeat too many values.
        """
        if not self._open:
            self._root = located
            return
        parent = self._open[-1]
        parent.located.size += located.size
        if parent.located.size > _MAX_VALUES:
            raise self._stop(location, "its aliases repeat too many values")
        if not parent.is_mapping:
            parent.located.children[len(parent.located.value)] = located
            parent.located.value.append(located.value)
            return
        assert parent.key is not None
        if parent.key not in parent.located.children:  # of duplicate keys the first is kept
            parent.located.children[parent.key] = located
            parent.located.value[parent.key] = located.value
        parent.key = None

    def _end(self) -> None:
        """Add the innermost open collection, now complete, to the one around it.

        Without one around it, it becomes the root.
        """
        closed = self._open.pop()
        if closed.anchor:
            self._anchors[closed.anchor] = closed.located
        if not self._open:
            self._root = closed.located
            return
        self._add(closed.located, (closed.located.line, closed.located.column))

    def _aliased(self, event: AliasEvent) -> Located:
        """Return the value that an alias refers to.

        Raises _Stop if no anchor of this name precedes it, or if the alias is inside its own
        anchor.
        """
        located = self._anchors.get(event.anchor)
        if any(one.anchor == event.anchor for one in self._open):
            raise self._stop(_location(event), f"*{event.anchor} is used inside its own anchor")
        if located is None:
            raise self._stop(
                _location(event), f"*{event.anchor}: no anchor of this name precedes it"
            )
        return located

    def _path(self) -> Path:
        """Return the path of the next value; empty for the root."""
        if not self._open:
            return ()
        parent = self._open[-1]
        part = parent.key if parent.is_mapping else len(parent.located.value)
        assert part is not None
        return (*parent.path, part)

    def _scalar(self, event: ScalarEvent, path: Path) -> Any:
        """Return the Python value of a scalar.

        None for `null`. Also None, with a problem added, if its tag is not supported or its text
        does not fit the tag.
        """
        tag = event.tag
        if tag is None:
            tag = self._yaml.resolver.resolve(ScalarNode, event.value, event.implicit)
        kind = str(tag).removeprefix(_TAG)
        if kind not in _SCALARS:
            self._problem(event, path, f"the tag {tag} is not supported")
            return None
        try:
            return _SCALARS[kind](event.value)
        except ValueError:
            self._problem(event, path, f"not a readable {kind}")
            return None

    def _problem(self, event: Event, path: Path, message: str) -> None:
        """Add a problem; the reading continues."""
        self.problems.append(Problem(*_location(event), path_text(path), message))

    def _stop(self, location: tuple[int, int], message: str) -> _Stop:
        """Return the exception, for the caller to raise, that ends the reading."""
        path = path_text(self._open[-1].path) if self._open else ""
        return _Stop(Problem(*location, path, message))
