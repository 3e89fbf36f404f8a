"""The change that an event makes in the state, and the lines that a new catalogue changes. Pure."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from pipeline.state.advisories import Advisories
from schemas.macos import Build, OSVersion


class Change(NamedTuple):
    """The records that an event changed, and the Macs whose decisions it can change.

    - `udids`: keys of changed records: Macs, and records that now belong to another Mac
    - `is_material`: more than telemetry of `udids` may have changed: a field, a check-in, a job or
      an approval
    - `is_rename_only`: only the host name changed
    - `lines`: each line whose advisories changed, with the newest version that they can concern
      (None: any version)
    - `builds`: each build that the catalogue then gives another version, or none
    - `affects_all`: the decision of every Mac may have changed
    """

    udids: tuple[str, ...] = ()
    is_material: bool = False
    is_rename_only: bool = False
    lines: Mapping[str, OSVersion | None] = MappingProxyType({})
    builds: frozenset[Build] = frozenset()
    affects_all: bool = False


NO_CHANGE: Final = Change()


def merge_changes(changes: Iterable[Change]) -> Change:
    """Return one change of the broadcast state that affects the Macs that any of these affects."""
    udids: dict[str, None] = {}
    lines: dict[str, OSVersion | None] = {}
    builds: frozenset[Build] = frozenset()
    affects_all = False
    for change in changes:
        udids |= dict.fromkeys(change.udids)
        builds |= change.builds
        affects_all = affects_all or change.affects_all
        for line, upto in change.lines.items():
            known = lines.get(line, upto)
            lines[line] = None if known is None or upto is None else max(known, upto)
    return Change(tuple(udids), lines=lines, builds=builds, affects_all=affects_all)


def changed_lines(before: Advisories, after: Advisories) -> dict[str, OSVersion | None]:
    """Return the lines whose releases differ in any property, with the newest version that differs.

    The version is None if the line gained its first release or lost its last one, if its newest
    release is another one, or if a list of devices differs: that concerns every Mac on the line.
    """
    changed: dict[str, OSVersion | None] = {}
    for line in sorted(before.lines.keys() | after.lines.keys()):
        old = {one.version: one for one in before.lines.get(line, ())}
        new = {one.version: one for one in after.lines.get(line, ())}
        differ = [one for one in old.keys() | new.keys() if old.get(one) != new.get(one)]
        if not differ:
            continue
        lists_differ = any(
            getattr(old.get(one), "device_ids", None) != getattr(new.get(one), "device_ids", None)
            for one in differ
        )
        newest = before.newest_of_line.get(line)
        is_limited = (
            newest is not None
            and newest == after.newest_of_line.get(line)
            and max(old) == max(new)
            and not lists_differ
        )
        changed[line] = max(differ) if is_limited else None
    return changed


def changed_builds(before: Advisories, after: Advisories) -> frozenset[Build]:
    """Return the builds of which the two catalogues know different versions, or one knows none."""
    old, new = before.version_of_build, after.version_of_build
    return frozenset(one for one in old.keys() | new.keys() if old.get(one) != new.get(one))
