"""Policy files: YAML text to a Policy, or all its problems, each with line and column."""

import hashlib
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.policy.located_yaml import (
    Located,
    Path,
    Problem,
    UnreadableYaml,
    path_text,
    read_yaml,
)
from pipeline.policy.model import Policy
from schemas.ids import clean_text

__all__ = [
    "PolicyDocument",
    "PolicyError",
    "Problem",
    "policy_digest",
    "read_document",
    "read_policy",
]

_A_MAPPING: Final = "must be a mapping: lines of `key: value` below it"
_A_LIST: Final = "must be a list: [one, two], or lines that begin with a hyphen"
_TEXT: Final = "must be text"

# pydantic's error types, with messages in terms of YAML instead of Python.
_MESSAGES: Final = {
    "model_type": _A_MAPPING,
    "model_attributes_type": _A_MAPPING,
    "dict_type": _A_MAPPING,
    "tuple_type": _A_LIST,
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
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}
_SITE_NAME: Final = "a site's name is lower-case letters, digits and hyphens, at most 63"
_CLOCK: Final = "a time of day is HH:MM, 00:00 to 23:59"
_LONGEST_LIST_OF_KEYS: Final = 8
_MOST_PROBLEMS: Final = 200


class PolicyError(ValueError):
    """The text is not a valid policy; `problems` are in the order of their lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        # A hostile file must not bring control characters to an operator's terminal.
        self.problems = tuple(
            Problem(one.line, one.column, clean_text(one.path), clean_text(one.message))
            for one in sorted(problems)
        )
        more = len(self.problems) - 1
        super().__init__(
            f"invalid policy: line {self.problems[0]}" + (f" (and {more} more)" if more else "")
        )


class PolicyDocument(NamedTuple):
    """A valid policy with its digest, and `root`, which has the location of each value."""

    policy: Policy
    digest: str
    root: Located

    def location_of(self, path: Path) -> tuple[int, int]:
        """Return line and column (from 1) of a value.

        If the text does not have it, they are those of the innermost value around it.
        """
        return _locate(self.root, path).location

    def defines(self, path: Path) -> bool:
        """Return True if the text itself has this value; False if it is a default."""
        return _locate(self.root, path).path == path


@lru_cache(maxsize=8)  # admission, the fold and the decisions read the same text
def read_policy(text: str) -> Policy:
    """Return the policy of a YAML text.

    Raises PolicyError if the text is not YAML or not a valid policy.
    """
    return read_document(text).policy


def read_document(text: str) -> PolicyDocument:
    """Return the policy with the location of its values.

    Raises PolicyError with the problems of the YAML, or else with those of the policy: at most 200,
    and then one more with their number.
    """
    try:
        root = read_yaml(text)
    except UnreadableYaml as error:
        raise PolicyError(error.problems) from None
    try:
        policy = Policy.model_validate(root.value, by_alias=True, by_name=False)
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems = _problems(root, details[:_MOST_PROBLEMS])
        if len(details) > _MOST_PROBLEMS:
            problems.append(
                Problem(root.line, root.column, "", f"{len(details):,} problems in all")
            )
        raise PolicyError([*problems, *_default_site_problem(root, details)]) from None
    return PolicyDocument(policy, policy_digest(text), root)


def policy_digest(text: str) -> str:
    """Return the SHA-256 of the text as UTF-8, in hex. Decision records name their policy by it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class _ErrorLocation(NamedTuple):
    """The path, line and column, and value that an error of pydantic's is about.

    `is_union_branch`: the error is about one of several forms that the value may have.
    """

    path: Path
    location: tuple[int, int]
    located: Located
    is_union_branch: bool


def _locate(root: Located, loc: Path) -> _ErrorLocation:
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
    return _ErrorLocation(path, location, located, is_union_branch)


def _problems(root: Located, details: list[ErrorDetails]) -> list[Problem]:
    """Return one problem for each unknown or missing key, and one for each value with errors.

    A value that only fits none of several forms is left out if values inside it have errors.
    """
    found: dict[Path, list[tuple[_ErrorLocation, ErrorDetails]]] = {}
    whole: list[Problem] = []
    for detail in details:
        spot = _locate(root, detail["loc"])
        if detail["type"] in {"missing", "extra_forbidden"}:
            whole.append(_key_problem(root, spot, detail))
        else:
            found.setdefault(spot.path, []).append((spot, detail))
    inner = {path[:length] for path in found for length in range(len(path))}
    for path, here in found.items():
        if path in inner and all(spot.is_union_branch for spot, _ in here):
            continue  # another form fits better: it has errors inside the value
        spot = here[0][0]
        messages = dict.fromkeys(_message(spot.located, detail) for spot, detail in here)
        whole.append(Problem(*spot.location, path_text(path), ", or ".join(messages)))
    return whole


def _default_site_problem(root: Located, details: list[ErrorDetails]) -> list[Problem]:
    """Return the problem of an unknown `default_site` in a list.

    The list is empty if there is no such problem, or if `details` has one of `default_site`.
    pydantic does not make this check, the only one across keys, while a site has an error.
    """
    wanted, sites = root.children.get("default_site"), root.children.get("sites")
    if wanted is None or sites is None or not isinstance(wanted.value, str) or not sites.keys:
        return []
    if wanted.value in sites.keys or any(one["loc"] == ("default_site",) for one in details):
        return []
    message = f"no such site: {wanted.value!r}; sites are {', '.join(sites.keys)}"
    return [Problem(wanted.line, wanted.column, "default_site", message)]


def _key_problem(root: Located, spot: _ErrorLocation, detail: ErrorDetails) -> Problem:
    """Return the problem of a missing or unknown key, with a hint to the right key."""
    key = str(detail["loc"][-1])
    if detail["type"] == "missing":
        parent = _locate(root, detail["loc"][:-1])
        location = _key_location(root, parent.path) or parent.location
        return Problem(*location, path_text((*parent.path, key)), "is required and missing")
    location = _key_location(root, spot.path) or spot.location
    known = _known_keys(detail["loc"][:-1])
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
    return _locate(root, path[:-1]).located.keys.get(path[-1])


def _known_keys(path: Path) -> list[str]:
    """Return the keys that the policy allows at this path."""
    model: type[BaseModel] = Policy
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
    if kind == "less_than_equal" and "timedelta" in detail["msg"]:
        return "a duration is at most 3650d"
    if kind == "string_pattern_mismatch":
        return _pattern(str(context["pattern"]), detail["loc"])
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
    return f"must be {expected}{hint}"


def _pattern(pattern: str, loc: Path) -> str:
    """Return the message for text that does not match the pattern of its field."""
    if loc[0] in {"sites", "default_site"} and loc[-1] in {"[key]", "default_site"}:
        return _SITE_NAME
    if loc[-1] in {"from", "to"}:
        return _CLOCK
    return f"must match {pattern}"
