"""The Macs that a change of a line's advisories concerns, without a look at every Mac. Mutable."""

from collections.abc import Mapping
from typing import Final

from pipeline.state.change import Change
from pipeline.state.device import INDEX, Device
from schemas.macos import Build, OSVersion

_OS_VERSION, _BUILD = INDEX["os_version"], INDEX["build"]
_LOAN_RETURNED: Final = INDEX["loan_returned_at"]


class LineIndex:
    """Keys of records by OS version and build as last reported, and of loan units.

    The inner dicts are sets in order of insertion, so that every run iterates alike.
    """

    def __init__(self) -> None:
        self.by_version: dict[tuple[OSVersion | None, Build | None], dict[str, None]] = {}
        self._loan_units: dict[str, None] = {}

    def put(self, old: Device | None, new: Device) -> None:
        """Index a record in place of `old`, which has the same key and is indexed."""
        udid, values = new.udid, new.values
        pair = values[_OS_VERSION], values[_BUILD]
        was = None if old is None else (old.values[_OS_VERSION], old.values[_BUILD])
        if was != pair:
            if was is not None:
                del self.by_version[was][udid]
            known = self.by_version.get(pair)
            if known is None:
                known = self.by_version[pair] = {}
            known[udid] = None
        if values[_LOAN_RETURNED] is not None:
            self._loan_units[udid] = None
        elif self._loan_units:
            self._loan_units.pop(udid, None)

    def remove(self, device: Device) -> None:
        """Remove a record."""
        pair = device.values[_OS_VERSION], device.values[_BUILD]
        self.by_version.get(pair, {}).pop(device.udid, None)
        self._loan_units.pop(device.udid, None)

    def concerned(
        self,
        change: Change,
        version_of_build: Mapping[Build, OSVersion],
        *,
        supported: tuple[str, ...],
        upgrades_to: str | None,
    ) -> dict[str, None]:
        """Return the keys of the records that `change.lines` and `change.builds` concern.

        `supported` are the supported lines; `upgrades_to` is the line to which the policy upgrades,
        None for none. A change of a line's advisories concerns the Macs on the line: up to the
        newest changed version on a supported line, else all. If the line is supported or is
        `upgrades_to`, it also concerns all Macs on unsupported lines; if it is `upgrades_to`, all
        Macs on other lines. Any change of a line concerns each loan unit, which is erased with a
        release of its own line or of a newer one.

        A Mac counts with its reported version and with that of its build, because either can be
        the one that runs. A Mac for which both are unknown is not concerned by a line.
        """
        found: dict[str, None] = {}
        if not change.lines:
            return found
        for (reported, build), udids in self.by_version.items():
            built = None if build is None else version_of_build.get(build)
            if build in change.builds or any(
                _is_concerned(version, change.lines, supported, upgrades_to)
                for version in {reported, built}
                if version is not None
            ):
                found.update(udids)
        return found | self._loan_units


def _is_concerned(
    version: OSVersion,
    lines: Mapping[str, OSVersion | None],
    supported: tuple[str, ...],
    upgrades_to: str | None,
) -> bool:
    """Return True if a change of `lines` concerns the Macs that run this version."""
    supports = version.line in supported
    if version.line in lines:
        upto = lines[version.line]
        # `missing_on_unsupported_line` depends on the last release of the line, for every version.
        if upto is None or not supports or version.release <= upto.release:
            return True
    if upgrades_to in lines and version.line != upgrades_to:
        return True
    return not supports and any(line in lines for line in (*supported, upgrades_to))
