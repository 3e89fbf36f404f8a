"""Policy files: YAML text to a Policy, or all its problems, each with line and column."""

import hashlib
from functools import lru_cache
from typing import NamedTuple

from pydantic_core import ErrorDetails

from pipeline.policy.model import CLOCK_PATTERN, Policy
from runtime.located_yaml import Located, Path, Problem, path_text
from runtime.yaml_model import YamlFileError, locate, read_model

__all__ = [
    "Path",
    "PolicyDocument",
    "PolicyError",
    "Problem",
    "path_text",
    "policy_digest",
    "read_document",
    "read_policy",
]


class PolicyError(YamlFileError):
    """The text is not a valid policy; `problems` are in the order of their lines."""

    KIND = "policy"


class PolicyDocument(NamedTuple):
    """A valid policy with its digest, and `root`, which has the location of each value."""

    policy: Policy
    digest: str
    root: Located

    def location_of(self, path: Path) -> tuple[int, int]:
        """Return line and column (from 1) of a value.

        If the text does not have it, they are those of the innermost value around it.
        """
        return locate(self.root, path).location

    def line_of(self, path: Path) -> int:
        """Return the line of the key of a value, or of the value itself in a list."""
        keys = locate(self.root, path[:-1]).located.keys
        return keys[str(path[-1])][0] if path[-1] in keys else self.location_of(path)[0]

    def text_of(self, path: Path) -> str | None:
        """Return a scalar as the text has it, without quotes; None for a list or a default."""
        spot = locate(self.root, path)
        return spot.located.text if spot.path == path else None

    def defines(self, path: Path) -> bool:
        """Return True if the text itself has this value; False if it is a default."""
        return locate(self.root, path).path == path


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
        policy, root = read_model(text, Policy, _own_message)
    except YamlFileError as error:
        raise PolicyError([*error.problems, *_default_site_problem(error)]) from None
    return PolicyDocument(policy, policy_digest(text), root)


def policy_digest(text: str) -> str:
    """Return the SHA-256 of the text as UTF-8, in hex. Decision records name their policy by it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _default_site_problem(error: YamlFileError) -> list[Problem]:
    """Return the problem of an unknown `default_site` in a list.

    The list is empty if there is no such problem, or if the error has one of `default_site`.
    pydantic does not make this check, the only one across keys, while a site has an error.
    """
    if error.root is None or any(one.path == "default_site" for one in error.problems):
        return []
    wanted, sites = error.root.children.get("default_site"), error.root.children.get("sites")
    if wanted is None or sites is None or not isinstance(wanted.value, str) or not sites.keys:
        return []
    if wanted.value in sites.keys:
        return []
    message = f"no such site: {wanted.value!r}; sites are {', '.join(sites.keys)}"
    return [Problem(wanted.line, wanted.column, "default_site", message)]


def _own_message(detail: ErrorDetails) -> str | None:
    """Return the message for an error in a duration or a time of day; None for other errors."""
    if detail["type"] == "less_than_equal" and "timedelta" in detail["msg"]:
        return "a duration is at most 3650d"
    if detail.get("ctx", {}).get("pattern") == CLOCK_PATTERN:
        return "a time of day is HH:MM, 00:00 to 23:59"
    return None
