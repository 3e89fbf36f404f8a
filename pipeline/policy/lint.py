"""Warnings about valid policies that probably do not do what their author wants."""

from collections.abc import Iterator
from datetime import date
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Final

from pipeline.policy.file import PolicyDocument
from pipeline.policy.model import SEVERITY_ORDER, Match, Methods, Policy, Window
from pipeline.state.hardware_table import NEWEST_MAJOR
from runtime.located_yaml import Path, Problem, path_text
from schemas.ids import clean_text

# An upgrade takes most of an hour, even from a content cache.
_SHORTEST_WINDOW_MINUTES: Final = 60
_KINDS: Final = ("hostnames", "serials", "udids", "models")
# This line was released (build 26A428) when the table of models was made, which ends before it.
_NEWEST_KNOWN_LINE: Final = NEWEST_MAJOR + 1

_Found = Iterator[tuple[Path, str]]


def lint(document: PolicyDocument, today: date) -> tuple[Problem, ...]:
    """Return the warnings about a valid policy, in the order of their lines.

    An exemption has ended if its `until` is `today` or earlier.
    """
    policy = document.policy
    found = (
        *_times(document),
        *_sites(policy),
        *_all_windows(policy),
        *_upgrades(policy),
        *_methods(policy.methods),
        *_mdm(policy),
        *_exemptions(policy, today),
    )
    return tuple(
        sorted(
            Problem(*document.location_of(path), path_text(path), clean_text(message))
            for path, message in found
        )
    )


def _times(document: PolicyDocument) -> _Found:
    """Yield path and message of each warning about deadlines, deferrals and the cool-down."""
    policy = document.policy
    deadlines, deferrals = policy.deadlines, policy.deferrals
    for severity in SEVERITY_ORDER:
        if deadlines.for_severity(severity) < deferrals.for_severity(severity):
            path: Path = ("deadlines", severity.value)
            if not document.defines(path):  # the deadline is a default; the text has the deferral
                path = ("deferrals", severity.value)
            yield path, "the deadline passes before the deferral ends: jobs are sent after it only"
    for milder, worse in pairwise(SEVERITY_ORDER):
        if deadlines.for_severity(worse) > deadlines.for_severity(milder):
            path = ("deadlines", worse.value)
            if not document.defines(path):
                path = ("deadlines", milder.value)
            yield path, f"{worse.value} has more time than {milder.value}, which is less severe"
    if policy.thresholds.cool_down > policy.thresholds.cool_down_max:
        yield ("thresholds", "cool_down"), "is longer than cool_down_max"


def _sites(policy: Policy) -> _Found:
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
                if other_kind == kind and fnmatchcase(glob.lower(), other_glob.lower()):
                    yield (
                        ("sites", name, "match", kind, index),
                        f"{other!r} comes first and matches all of these ({other_glob!r})",
                    )
                    break
        earlier += [(name, kind, glob) for kind, _, glob in globs]


def _globs(match: Match) -> Iterator[tuple[str, int, str]]:
    """Yield each glob of the match as its list's name, its index in that list, and its text."""
    for kind in _KINDS:
        for index, glob in enumerate(getattr(match, kind)):
            yield kind, index, glob


def _all_windows(policy: Policy) -> _Found:
    """Yield path and message of each warning about the windows of the policy and of its sites."""
    yield from _windows(("windows",), policy.windows)
    for name, site in policy.sites.items():
        if site.windows is not None:
            yield from _windows(("sites", name, "windows"), site.windows)


def _windows(path: Path, windows: tuple[Window, ...]) -> _Found:
    """Yield path and message of each warning about the list of windows at `path`."""
    if not windows:
        yield path, "there is no window: no job is sent before its deadline"
    for index, window in enumerate(windows):
        minutes = (_minutes(window.end) - _minutes(window.start)) % (24 * 60) or 24 * 60
        if minutes < _SHORTEST_WINDOW_MINUTES:
            yield (*path, index), f"is {minutes} minutes long; an upgrade takes about an hour"


def _minutes(clock: str) -> int:
    """Return the minutes since midnight of a time of day `HH:MM`."""
    return int(clock[:2]) * 60 + int(clock[3:])


def _upgrades(policy: Policy) -> _Found:
    """Yield path and message of each warning about `supported_lines` and `to`."""
    upgrades = policy.upgrades
    lines = () if upgrades.supported_lines == "auto" else upgrades.supported_lines
    if upgrades.supported_lines == ():
        yield ("upgrades", "supported_lines"), "is empty: no line counts as supported or as dead"
    for index, line in enumerate(lines):
        if _is_unknown(line):
            yield ("upgrades", "supported_lines", index), f"this Drydock knows no macOS {line}"
    if upgrades.to is None:
        return
    if _is_unknown(upgrades.to):
        yield ("upgrades", "to"), f"this Drydock knows no macOS {upgrades.to}"
    elif lines and upgrades.to not in lines:
        yield ("upgrades", "to"), f"{upgrades.to} is not one of supported_lines"


def _is_unknown(line: str) -> bool:
    """Return True if the macOS line is newer than the newest one known to this version."""
    return int(line.split(".", maxsplit=1)[0]) > _NEWEST_KNOWN_LINE


def _methods(methods: Methods) -> _Found:
    """Yield path and message of each action without a method, and of each method listed twice."""
    for action in type(methods).model_fields:
        allowed = getattr(methods, action)
        if not allowed:
            yield ("methods", action), f"has no method: no {action} is ever sent"
        for index, method in enumerate(allowed):
            if method in allowed[:index]:
                yield ("methods", action, index), f"{method} is listed twice"


def _mdm(policy: Policy) -> _Found:
    """Yield path and message of an MDM server whose URL begins with `http://`."""
    if policy.mdm.server is not None and policy.mdm.server.lower().startswith("http://"):
        yield ("mdm", "server"), "MDM works over https only"


def _exemptions(policy: Policy, today: date) -> _Found:
    """Yield path and message of each exemption that has ended or matches no Mac."""
    for index, exemption in enumerate(policy.exemptions):
        path: Path = ("exemptions", index)
        if exemption.until is not None and exemption.until <= today:
            yield (*path, "until"), f"is over since {exemption.until.isoformat()}"
        if not any(True for _ in _globs(exemption.who)):
            yield (*path, "who"), "matches no Mac: it has no effect"
