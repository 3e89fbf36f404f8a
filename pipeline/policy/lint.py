"""Warnings about valid policies that probably do not do what their author wants.

Those about times, limits and windows are in `lint_times`, those about globs in `lint_globs`.
"""

from collections.abc import Iterator
from datetime import date
from typing import Final

from pipeline.policy import lint_globs, lint_times
from pipeline.policy.file import PolicyDocument
from pipeline.policy.lint_times import LONGEST_DEFERRAL, Found
from pipeline.policy.model import Methods, Policy
from pipeline.state.hardware_table import NEWEST_MAJOR
from runtime.located_yaml import Problem, path_text
from schemas.ids import clean_text
from schemas.jobs import SSH_METHODS, Action

# This line was released (build 26A428) when the table of models was made, which ends before it.
_NEWEST_KNOWN_LINE: Final = NEWEST_MAJOR + 1


def lint(document: PolicyDocument, today: date) -> tuple[Problem, ...]:
    """Return the warnings about a valid policy, in the order of their lines.

    An exemption has ended if its `until` is `today` or earlier.
    """
    policy = document.policy
    found = (
        *lint_times.times(document),
        *lint_times.limits(document),
        *lint_times.windows(document),
        *lint_globs.all_globs(policy),
        *lint_globs.sites(policy),
        *lint_globs.firmware(policy),
        *lint_globs.images(policy),
        *lint_globs.exemptions(policy),
        *_upgrades(policy),
        *_methods(policy.methods),
        *_sites_without_ssh(policy),
        *_mdm(policy),
        *_ended_exemptions(policy, today),
    )
    return tuple(
        sorted(
            Problem(*document.location_of(path), path_text(path), clean_text(message))
            for path, message in found
        )
    )


def _upgrades(policy: Policy) -> Found:
    """Yield path and message of each warning about `supported_lines` and `to`."""
    upgrades = policy.upgrades
    lines = () if upgrades.supported_lines == "auto" else upgrades.supported_lines
    if upgrades.supported_lines == ():
        yield ("upgrades", "supported_lines"), "is empty: no line counts as supported or as dead"
    for index, line in enumerate(lines):
        if _is_unknown(line):
            yield ("upgrades", "supported_lines", index), f"this Drydock knows no macOS {line}"
    if upgrades.deferral > LONGEST_DEFERRAL:
        yield ("upgrades", "deferral"), "is more than the 90 days that Apple allows"
    if upgrades.to is None:
        return
    if upgrades.deadline is not None and upgrades.not_before is None:
        message = "counts from the release of the line without not_before: it may have passed"
        yield ("upgrades", "deadline"), message
    if _is_unknown(upgrades.to):
        yield ("upgrades", "to"), f"this Drydock knows no macOS {upgrades.to}"
    elif lines and upgrades.to not in lines:
        yield ("upgrades", "to"), f"{upgrades.to} is not one of supported_lines"


def _is_unknown(line: str) -> bool:
    """Return True if the macOS line is newer than the newest one known to this version."""
    return int(line.split(".", maxsplit=1)[0]) > _NEWEST_KNOWN_LINE


def _methods(methods: Methods) -> Found:
    """Yield path and message of each action without a method, and of each method listed twice."""
    for action in type(methods).model_fields:
        allowed = getattr(methods, action)
        if not allowed:
            yield ("methods", action), f"has no method: no {action} is ever sent"
        for index, method in enumerate(allowed):
            if method in allowed[:index]:
                yield ("methods", action, index), f"{method} is listed twice"


def _sites_without_ssh(policy: Policy) -> Found:
    """Yield path and message of each site without SSH at which an action has no method left."""
    for name, site in policy.sites.items():
        actions = () if site.ssh else tuple(_actions_by_ssh(policy))
        if actions:
            yield (
                ("sites", name, "ssh"),
                f"is false, and every allowed method needs it for: {', '.join(actions)}",
            )


def _actions_by_ssh(policy: Policy) -> Iterator[str]:
    """Yield each action whose allowed methods all need SSH.

    Not `reimage`: its only method needs it, and an image is for few models. Nor `activate` without
    an activation over SSH.
    """
    left_out = {Action.REIMAGE}
    if not policy.follow_up.over_ssh:
        left_out.add(Action.ACTIVATE)
    for action in Action:
        allowed = policy.methods.of(action)
        if allowed and action not in left_out and SSH_METHODS.issuperset(allowed):
            yield action.value


def _mdm(policy: Policy) -> Found:
    """Yield path and message of an MDM server whose URL begins with `http://`."""
    if policy.mdm.server is not None and policy.mdm.server.lower().startswith("http://"):
        yield ("mdm", "server"), "MDM works over https only"


def _ended_exemptions(policy: Policy, today: date) -> Found:
    """Yield path and message of each exemption that has ended."""
    for index, exemption in enumerate(policy.exemptions):
        if exemption.until is not None and exemption.until <= today:
            yield ("exemptions", index, "until"), f"is over since {exemption.until.isoformat()}"
