"""The settings of a policy that the gates of a decision compared with."""

from datetime import timedelta
from typing import Any, Final, NamedTuple

from pipeline.decide.needs.need import Need
from pipeline.decide.needs.update import is_open
from pipeline.decide.situation import Situation, matched_hostname
from pipeline.decide.texts import text_of
from pipeline.policy.file import Path, PolicyDocument, path_text
from pipeline.state.hardware import HardwareClass
from schemas.decisions import Decision, Gate, Reason
from schemas.jobs import Action

_INSTALLERS: Final = frozenset({Action.UPGRADE, Action.REINSTALL})
_APPLE: Final = frozenset({HardwareClass.APPLE_SILICON, HardwareClass.VM})


class PolicyRule(NamedTuple):
    """One setting: its path, its value as text, and its line in the policy.

    `value` is empty for a list or a group of settings; `line` is None for a default.
    """

    path: str
    value: str
    line: int | None

    def __str__(self) -> str:
        value = f": {self.value}" if self.value else ""
        return f"{self.path}{value} ({'default' if self.line is None else f'line {self.line}'})"


def rules_of(
    s: Situation, decision: Decision, need: Need | None, document: PolicyDocument
) -> dict[str, PolicyRule]:
    """Return the rule of each gate of the decision that compared with a setting of the policy.

    `need` is the need that the decision is about; None if it has none.
    """
    found = {}
    for gate in decision.gates:
        path = _path(s, decision, need, gate)
        if path is not None:
            found[gate.gate] = rule_at(document, path)
    return found


def rule_at(document: PolicyDocument, path: Path) -> PolicyRule:
    """Return the setting at a path, which the text need not have."""
    if document.defines(path):
        value = document.text_of(path) or ""
        return PolicyRule(path_text(path), value, document.line_of(path))
    default: Any = document.policy
    for part in path:
        is_group = isinstance(default, dict | tuple)
        default = default[part] if is_group else getattr(default, str(part))
    return PolicyRule(path_text(path), _text(default), None)


def _text(value: Any) -> str:
    """Return a default as text; empty for a group of settings, or a list of groups."""
    if isinstance(value, timedelta):
        return text_of(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, tuple) and all(isinstance(one, str) for one in value):
        return ", ".join(value)
    return value if isinstance(value, str) else ""


def _path(s: Situation, decision: Decision, need: Need | None, gate: Gate) -> Path | None:
    """Return the path of the setting that a gate compared with; None if it read none."""
    site, action = decision.site, decision.action
    if gate.gate == "exemption":
        if not gate.passed and decision.reason is Reason.LOCKED and site is not None:
            return "sites", site, "destructive"
        return None if gate.passed else _exemption(s, action)
    if gate.gate == "site":
        return ("sites",) if site is None else ("sites", site)
    if gate.gate == "window":
        return _window(s, decision, gate)
    if gate.gate == "deferral":
        return None if gate.passed else _deferral(s, need)
    if gate.gate == "site_slots":
        return _capacity(s, decision)
    if gate.gate == "method":
        return None if action is None else ("methods", action.value)
    name = _threshold(s, decision, gate)
    return None if name is None else ("thresholds", name)


def _capacity(s: Situation, decision: Decision) -> Path | None:
    site, action = decision.site, decision.action
    if site is None or action is None:
        return None
    if not s.is_confirmed:
        return "blast_radius", "confirmed_only"
    issued = dict(s.site_hour_jobs).get(action.value, 0)
    limit = s.policy.blast_radius.limit(action, s.site_macs)
    if limit is not None and issued >= limit:
        return "blast_radius", "jobs_per_hour", action.value
    return None if action is Action.REENROLL else ("sites", site, "max_jobs")


def _threshold(s: Situation, decision: Decision, gate: Gate) -> str | None:
    """Return the name of the threshold that a gate compared with; None if it compared with none."""
    if gate.gate == "fresh":
        return "stale_after"
    if not gate.detail:
        return None
    if gate.gate == "disk":
        return "disk_upgrade_gb" if decision.action in _INSTALLERS else "disk_update_gb"
    if gate.gate == "power":
        apple = s.device.hardware in _APPLE
        return "battery_apple_silicon" if apple else "battery_intel"
    if gate.gate == "cool_down":
        return "cool_down" if decision.reason is not Reason.DRY_RUN else None
    return "max_attempts" if gate.gate == "attempts" else None


def _exemption(s: Situation, action: Action | None) -> Path | None:
    device = s.device
    for index, one in enumerate(s.policy.exemptions):
        matches = one.who.matches(
            hostname=matched_hostname(device, s.policy),
            serial=device.serial,
            udid=device.udid,
            model=device.model,
        )
        if matches and (not one.actions or action in one.actions):
            return "exemptions", index
    return None


def _window(s: Situation, decision: Decision, gate: Gate) -> Path | None:
    if s.site is None or decision.site is None or not gate.detail:
        return None
    if decision.deadline_at is not None and decision.deadline_at <= s.now:
        return None if decision.severity is None else ("deadlines", decision.severity.value)
    return ("windows",) if s.site.windows is None else ("sites", decision.site, "windows")


def _deferral(s: Situation, need: Need | None) -> Path | None:
    if need is None:
        return None
    if need.action is Action.UPGRADE and not is_open(s, need):
        return ("upgrades", "not_before" if s.policy.upgrades.not_before else "deferral")
    return ("deferrals", need.severity.value)
