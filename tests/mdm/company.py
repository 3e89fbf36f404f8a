"""Macs of a company, its policy, and the versions to which the policy leads.

The Macs differ in the ways in which real ones do: some decline commands, are offline, acknowledge
and do nothing, or have a dead enrollment.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from typing import Final
from zoneinfo import ZoneInfo

from agents.simulated.spec import ALWAYS, Faults, MacSpec, Period, SimulatedRelease
from schemas.envelope import AdvisoryPublishedEvent, CloudEvent
from schemas.macos import OSVersion, parse_build, parse_os_version
from tests.mdm.mac import Behavior

POLICY: Final = """\
version: 1
blast_radius: {jobs_per_hour: null, confirmed_only: false}
sites:
  london: {time_zone: Europe/London, max_jobs: 100, match: {hostnames: ["ldn-*"]}}
  tokyo: {time_zone: Asia/Tokyo, max_jobs: 100, match: {hostnames: ["tyo-*"]}}
windows:
  - {from: "00:00", to: "00:00"}
deadlines: {exploited: 1h, critical: 1h, high: 1h, medium: 1h, low: 1h, routine: 1h}
deferrals: {exploited: 0d, critical: 0d, high: 0d, medium: 0d, low: 0d, routine: 0d}
methods:
  update: [ddm, mdm_command]
  upgrade: [ddm]
  reinstall: [erase_device]
  reenroll: [install_profile]
upgrades: {out_of_support: false}
follow_up: {activations: [], compliant: false}
"""
SITES: Final = {"london": "Europe/London", "tokyo": "Asia/Tokyo"}


@dataclass(frozen=True, slots=True)
class Line:
    """The newest release of a line before an advisory, and the one of the advisory."""

    before: tuple[str, str]
    after: tuple[str, str]


# By Apple's releases of 27 July 2026; from then on a Mac with the release before needs an update.
# macOS 13 had its last release earlier. 27.0 is newer than every release that the feed knows.
JULY_2026: Final = {
    "27": Line(("27.0", "26A428"), ("27.0", "26A428")),
    "26": Line(("26.5.2", "25F84"), ("26.6", "25G72")),
    "15": Line(("15.7.7", "24G720"), ("15.7.8", "24G824")),
    "14": Line(("14.8.7", "23J520"), ("14.8.8", "23J620")),
    "13": Line(("13.7.7", "22H722"), ("13.7.8", "22H730")),
}
_STAYING: Final = frozenset({"gone", "idle", "dead", "current", "renews", "loan", "too new"})
# The reasons of the last decision by kind.
REASONS: Final[Mapping[str, frozenset[str]]] = {
    # `exempt`: the policy does not upgrade lines that Apple no longer patches.
    **dict.fromkeys(
        ("healthy", "declines", "away", "current", "renews", "loan"),
        frozenset({"compliant", "exempt"}),
    ),
    **dict.fromkeys(("gone", "idle", "dead"), frozenset({"job_open"})),
    "too new": frozenset({"no_advisory"}),
}


@dataclass(frozen=True, slots=True)
class Group:
    """A number of Macs of one kind on one line."""

    kind: str
    line: str
    macs: int
    faults: Faults = field(default_factory=Faults)
    behavior: Behavior = field(default_factory=Behavior)


@dataclass(frozen=True, slots=True)
class Employee:
    """One Mac of the company, and the version that the policy leads to."""

    kind: str
    spec: MacSpec
    behavior: Behavior
    ends_at: OSVersion


def company_groups(trouble_at: datetime) -> list[Group]:
    """Return the groups of the 50 Macs; the last one is a loan unit.

    The MDM identity of the one that `renews` is about to expire. At `trouble_at` some go offline,
    and one enrollment dies.
    """
    away = Faults(offline=(Period(trouble_at, trouble_at + timedelta(hours=3)),))
    gone = Faults(offline=(Period(trouble_at, trouble_at + timedelta(days=3650)),))
    ignoring = Faults(ignored=ALWAYS)
    return [
        Group("healthy", "26", 11),
        Group("healthy", "15", 8),
        Group("healthy", "14", 6),
        Group("healthy", "13", 4),
        Group("declines", "26", 2, behavior=declining(2)),
        Group("declines", "15", 2, behavior=declining(1)),
        Group("declines", "13", 1, behavior=declining(2)),
        Group("away", "26", 2, away),
        Group("away", "14", 1, away),
        Group("gone", "15", 1, gone),
        Group("idle", "26", 2, ignoring),
        Group("idle", "13", 1, ignoring),
        Group("dead", "26", 1, behavior=Behavior(dies_at=trouble_at)),
        Group("current", "26", 3),
        Group("current", "15", 2),
        Group("renews", "15", 1, behavior=Behavior(first_identity_ends_soon=True)),
        Group("too new", "27", 1),
        Group("loan", "26", 1),
    ]


def declining(times: int) -> Behavior:
    """Return the behavior of a Mac that declines the first commands of an update."""
    return Behavior(not_now={"DeclarativeManagement": times, "ScheduleOSUpdate": times})


def employees(groups: Iterable[Group], lines: Mapping[str, Line]) -> list[Employee]:
    """Return the Macs of these groups, numbered from 1."""
    number = count(1)
    return [
        _employee(next(number), group, lines[group.line])
        for group in groups
        for _ in range(group.macs)
    ]


def _employee(number: int, group: Group, line: Line) -> Employee:
    site = "london" if number % 2 else "tokyo"
    version, build = line.after if group.kind in {"current", "renews", "loan"} else line.before
    spec = MacSpec(
        udid=f"5A0C7D9E-0000-4000-8000-{number:012}",
        serial=f"C02MDM{number:06}",
        site=site,
        hostname=f"{'ldn' if site == 'london' else 'tyo'}-{number:03}",
        model="Mac14,2",
        os_version=parse_os_version(version),
        build=parse_build(build),
        faults=group.faults,
        report_every=timedelta(hours=2),
    )
    stays = group.kind in _STAYING
    ends_at = spec.os_version if stays else parse_os_version(line.after[0])
    behavior = replace(group.behavior, zone=ZoneInfo(SITES[site]))
    return Employee(group.kind, spec, behavior, ends_at)


def releases_of(events: Iterable[CloudEvent]) -> tuple[SimulatedRelease, ...]:
    """Return the releases of these advisories that have a build, as Macs can install them."""
    found: dict[OSVersion, SimulatedRelease] = {}
    for event in events:
        if not isinstance(event, AdvisoryPublishedEvent):
            continue
        version, builds = event.data.os_version, event.data.builds
        if version is not None and builds:
            found[version] = SimulatedRelease(version=version, build=builds[-1])
    return tuple(found.values())
