"""Models of YAML files: the text as a pydantic model, or all its problems with line and column."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from runtime.located_yaml import Located, Path, Problem, UnreadableYaml, path_text, read_yaml
from schemas.ids import SITE_PATTERN, clean_text

_A_MAPPING: Final = "must be a mapping: lines of `key: value` below it"
_A_LIST: Final = "must be a list: [one, two], or lines that begin with a hyphen"
_TEXT: Final = "must be text"
_A_TIME: Final = "must be a time with its zone: 2026-12-31T18:00:00Z"

# pydantic's error types, with messages in terms of YAML instead of Python.
_MESSAGES: Final = {
    "model_type": _A_MAPPING,
    "model_attributes_type": _A_MAPPING,
    "dict_type": _A_MAPPING,
    "tuple_type": _A_LIST,
    "frozen_set_type": _A_LIST,
    "list_type": _A_LIST,
    "string_type": _TEXT,
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "date_type": "must be a date: 2026-12-31",
    "date_parsing": "must be a date: 2026-12-31",
    "date_from_datetime_parsing": "must be a date: 2026-12-31",
    "date_from_datetime_inexact": "must be a date: 2026-12-31",
    "datetime_type": _A_TIME,
    "datetime_parsing": _A_TIME,
    "datetime_from_date_parsing": _A_TIME,
    "timezone_aware": _A_TIME,
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}
_SITE_NAME: Final = "a site's name is lower-case letters, digits and hyphens, at most 63"
_LONGEST_LIST_OF_KEYS: Final = 8
# Characters, of the 1,024 of a message.
_LONGEST_LIST_OF_CHOICES: Final = 900
_MOST_PROBLEMS: Final = 200

# Returns the message for an error of pydantic's that only one kind of file has, None for others.
OwnMessage = Callable[[ErrorDetails], str | None]


class StrictModel(BaseModel):
    """Base of every part of a file: frozen, and an unknown key is an error.

    A misspelled key must not fall back to its default. An error does not show the value: it may be
    a secret in the wrong place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class YamlFileError(ValueError):
    """The text does not fit its model; `problems` has at least one, in the order of their lines.

    `root` has the location of each value, None if the text is no YAML of the allowed form. `KIND`
    is the kind of the file in the message.
    """

    KIND = "file"

    def __init__(self, problems: Iterable[Problem], root: Located | None = None) -> None:
        # A hostile file must not bring control characters to an operator's terminal.
        self.problems = tuple(
            Problem(one.line, one.column, clean_text(one.path), clean_text(one.message))
            for one in sorted(problems)
        )
        self.root = root
        more = len(self.problems) - 1
        super().__init__(
            f"invalid {self.KIND}: line {self.problems[0]}"
            + (f" (and {more} more)" if more else "")
        )


ModelT = TypeVar("ModelT", bound=StrictModel)


def read_model(
    text: str, model: type[ModelT], own_message: OwnMessage = lambda _: None
) -> tuple[ModelT, Located]:
    """Return the model of a YAML text, and the root value, which has the location of each value.

    Raises YamlFileError with the problems of the YAML, or else with those of the model: at most
    200, and then one more with their number.
    """
    try:
        root = read_yaml(text)
    except UnreadableYaml as error:
        raise YamlFileError(error.problems) from None
    try:
        return model.model_validate(root.value, by_alias=True, by_name=False), root
    except ValidationError as error:
        details = error.errors(include_url=False)
    problems = _problems(root, details[:_MOST_PROBLEMS], model, own_message)
    if len(details) > _MOST_PROBLEMS:
        problems.append(Problem(root.line, root.column, "", f"{len(details):,} problems in all"))
    raise YamlFileError(problems, root)


class ErrorLocation(NamedTuple):
    """The path, line and column, and value that an error of pydantic's is about.

    `is_union_branch`: the error is about one of several forms that the value may have.
    """

    path: Path
    location: tuple[int, int]
    located: Located
    is_union_branch: bool


def locate(root: Located, loc: Path) -> ErrorLocation:
    """Return the location of the innermost value of the text on the path `loc`.

    `loc` is pydantic's: parts that are no key or index of the text are skipped. For an empty value,
    and after the part `[key]`, line and column are those of its key.
    """
    located, is_union_branch = root, False
    path: Path = ()
    location = (root.line, root.column)
    keys: dict[str, tuple[int, int]] = {}
    for part in loc:
        child = located.children.get(part)
        if child is not None:
            keys = located.keys
            located, path = child, (*path, part)
            location = (child.line, child.column)
            if child.text == "":  # an empty value has no text; report its key
                location = keys.get(str(part), location)
        elif part == "[key]":
            location = keys.get(str(path[-1]), location)
        else:  # a union's branch, or a key that is missing
            is_union_branch = True
    return ErrorLocation(path, location, located, is_union_branch)


def _problems(
    root: Located,
    details: list[ErrorDetails],
    model: type[BaseModel],
    own_message: OwnMessage,
) -> list[Problem]:
    """Return one problem for each unknown or missing key, and one for each value with errors.

    A value that only fits none of several forms, or is only too short, is left out if values inside
    it have errors.
    """
    found: dict[Path, list[tuple[ErrorLocation, ErrorDetails]]] = {}
    whole: list[Problem] = []
    for detail in details:
        spot = locate(root, detail["loc"])
        if detail["type"] in {"missing", "extra_forbidden"}:
            whole.append(_key_problem(root, spot, detail, model))
        else:
            found.setdefault(spot.path, []).append((spot, detail))
    inner = {path[:length] for path in found for length in range(len(path))}
    for path, here in found.items():
        # Either another form fits better, with errors inside the value, or pydantic did not count
        # the list's items that have errors.
        if path in inner and all(
            spot.is_union_branch or detail["type"] == "too_short" for spot, detail in here
        ):
            continue
        spot = here[0][0]
        messages = dict.fromkeys(
            own_message(detail) or _message(spot.located, detail) for spot, detail in here
        )
        whole.append(Problem(*spot.location, path_text(path), ", or ".join(messages)))
    return whole


def _key_problem(
    root: Located, spot: ErrorLocation, detail: ErrorDetails, model: type[BaseModel]
) -> Problem:
    """Return the problem of a missing or unknown key, with a hint to the right key."""
    key = str(detail["loc"][-1])
    if detail["type"] == "missing":
        parent = locate(root, detail["loc"][:-1])
        location = _key_location(root, parent.path) or parent.location
        return Problem(*location, path_text((*parent.path, key)), "is required and missing")
    location = _key_location(root, spot.path) or spot.location
    known = _known_keys(model, detail["loc"][:-1])
    near = get_close_matches(key, known, n=1) or get_close_matches(key.lower(), known, n=1)
    if near:
        hint = f"did you mean {near[0]!r}?"
    elif len(known) <= _LONGEST_LIST_OF_KEYS:
        hint = f"keys here are {', '.join(known)}"
    else:
        hint = "no such setting here"
    return Problem(*location, path_text(spot.path), f"unknown key; {hint}")


def _key_location(root: Located, path: Path) -> tuple[int, int] | None:
    """Return line and column of the last key of the path.

    None if it is an index or not in the text, and for an empty path.
    """
    if not path or isinstance(path[-1], int):
        return None
    return locate(root, path[:-1]).located.keys.get(path[-1])


def _known_keys(model: type[BaseModel], path: Path) -> list[str]:
    """Return the keys that a file of this model may have at this path."""
    names = iter(path)
    for part in names:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        if part not in fields:
            continue  # an index, or a union's branch
        annotation = fields[str(part)].annotation
        model = _model_in(annotation) or model
        if get_origin(annotation) is dict:
            next(names, None)  # a key of the file's own, such as the name of a site
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the first model inside a type annotation; None if it has none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in {Union, UnionType, Annotated, tuple, dict}:
        return next((m for one in get_args(annotation) if (m := _model_in(one))), None)
    return None


def _message(located: Located, detail: ErrorDetails) -> str:
    """Return the message for an error of pydantic's, in terms of YAML."""
    kind, context = detail["type"], detail.get("ctx", {})
    if located.value is None and kind != "value_error":
        return "is empty; give it a value or remove the key"
    if kind in _MESSAGES:
        return _MESSAGES[kind] + _quoting_hint(kind, located)
    if kind in {"literal_error", "enum"}:
        return _choice(str(context["expected"]), detail["input"])
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return _SITE_NAME if pattern == SITE_PATTERN else f"must match {pattern}"
    if kind == "value_error":
        error = str(context["error"])
        quote = isinstance(located.value, int | float) and "string" in error
        return error + (_quoting_hint("string_type", located) if quote else "")
    return detail["msg"].replace("Input should", "must").replace("String should", "must")


def _quoting_hint(kind: str, located: Located) -> str:
    """Return a hint to quote a number, `true` or `false`; empty for other values or errors.

    Without quotes, YAML reads `26.10` as 26.1.
    """
    if kind != "string_type" or not isinstance(located.value, int | float):
        return ""
    return f'; write it in quotes: "{located.text}"'


def _choice(expected: str, given: object) -> str:
    """Return the message for a value that is none of `expected`, with the nearest choice."""
    choices = [choice.strip().strip("'") for choice in expected.replace(" or ", ",").split(",")]
    near = get_close_matches(str(given).lower(), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if len(expected) > _LONGEST_LIST_OF_CHOICES:  # it would be cut, and the hint with it
        return f"is none of the {len(choices)} values that are possible here{hint}"
    return f"must be {expected}{hint}"
