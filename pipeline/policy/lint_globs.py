"""Warnings about the globs of a valid policy: those without effect, and those for every Mac."""

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Final

from pipeline.policy.lint_times import Found
from pipeline.policy.model import Match, Policy
from pipeline.state.hardware_table import MODELS, RESTORED_BY_ASR
from runtime.located_yaml import Path

# A glob has neither of these; a regular expression usually has.
_REGULAR_EXPRESSION: Final = re.compile(r"^\^|\$$|\.\*|\.\+|\\[dws.]|\(\?|\|")
_IN_GLOBS: Final = ((r"\d", "[0-9]"), (r"\.", "."), (".*", "*"), (".+", "*"), ("^", ""), ("$", ""))


def all_globs(policy: Policy) -> Found:
    """Yield path and message of each glob that is a regular expression or has an open bracket."""
    for path, glob in _every_glob(policy):
        if _REGULAR_EXPRESSION.search(glob):
            meant = glob
            for expression, replacement in _IN_GLOBS:
                meant = meant.replace(expression, replacement)
            hint = f"; did you mean {meant!r}?" if meant and not set("()|\\") & set(meant) else ""
            yield path, f"is a glob, not a regular expression{hint}"
        elif "]" not in glob[glob.rfind("[") + 1 :] and "[" in glob:
            yield path, "has a [ without its ], which matches only itself"


def _every_glob(policy: Policy) -> Iterator[tuple[Path, str]]:
    """Yield path and text of each glob of the policy."""
    for name, site in policy.sites.items():
        for kind, index, glob in _globs(site.match):
            yield ("sites", name, "match", kind, index), glob
    for number, exemption in enumerate(policy.exemptions):
        for kind, index, glob in _globs(exemption.who):
            yield ("exemptions", number, "who", kind, index), glob
    for key in ("firmware", "images"):
        for number, rule in enumerate(getattr(policy, key)):
            for index, glob in enumerate(rule.models):
                yield (key, number, "models", index), glob


def sites(policy: Policy) -> Found:
    """Yield path and message of each site without a match, and of each glob without effect.

    `default_site` needs no match. A glob has no effect if a glob of an earlier site covers it.
    """
    earlier: list[tuple[str, str, str]] = []
    for name, site in policy.sites.items():
        globs = list(_globs(site.match))
        if not globs and name != policy.default_site:
            yield (
                ("sites", name),
                "has no match and is not default_site: it has only Macs whose reports name it",
            )
        for kind, index, glob in globs:
            for other, other_kind, other_glob in earlier:
                if other_kind == kind and _covers(other_glob, glob):
                    yield (
                        ("sites", name, "match", kind, index),
                        f"{other!r} comes first and matches all of these ({other_glob!r})",
                    )
                    break
        earlier += [(name, kind, glob) for kind, _, glob in globs]


def exemptions(policy: Policy) -> Found:
    """Yield path and message of each exemption that matches no Mac, and of each glob for all."""
    for number, exemption in enumerate(policy.exemptions):
        path: Path = ("exemptions", number, "who")
        globs = list(_globs(exemption.who))
        if not globs:
            yield path, "matches no Mac: it has no effect"
        for kind, index, glob in globs:
            if _matches_everything(glob):
                yield (*path, kind, index), "matches every Mac: the whole fleet gets no jobs"


def firmware(policy: Policy) -> Found:
    """Yield path and message of each firmware rule for a model and version of an earlier rule."""
    for number, rule in enumerate(policy.firmware):
        for index, glob in enumerate(rule.models):
            for earlier, other in enumerate(policy.firmware[:number]):
                is_same = any(_covers(one, glob) for one in other.models)
                if is_same and other.version == rule.version:
                    message = f"has no effect: firmware[{earlier}] comes first and has these models"
                    yield ("firmware", number, "models", index), message
                    break


def images(policy: Policy) -> Found:
    """Yield path and message of each glob of an image for models that `asr` cannot restore."""
    for number, image in enumerate(policy.images):
        for index, glob in enumerate(image.models):
            known = [row for name, row in MODELS.items() if _covers(glob, name)]
            path: Path = ("images", number, "models", index)
            if not known:
                yield path, "matches no model that this Drydock knows"
            elif all(row.hardware not in RESTORED_BY_ASR for row in known):
                kinds = ", ".join(sorted({row.hardware.value for row in known}))
                yield (
                    path,
                    f"asr restores none of these models ({kinds}): the image is never used",
                )


def _globs(match: Match) -> Iterator[tuple[str, int, str]]:
    """Yield each glob of the match as its list's name, its index in that list, and its text."""
    for kind in type(match).model_fields:
        for index, glob in enumerate(getattr(match, kind)):
            yield kind, index, glob


def _covers(glob: str, other: str) -> bool:
    """Return True if a glob matches the text of another glob, or a name, in any case."""
    return fnmatchcase(other.lower(), glob.lower())


def _matches_everything(glob: str) -> bool:
    return "*" in glob and not glob.strip("*?")
