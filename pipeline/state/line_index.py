"""The Macs that a change of a line's advisories concerns, without a look at every Mac. Mutable."""

from collections.abc import Mapping
from typing import Final

from pipeline.state.compact.timestamps import unpack_timestamps
from pipeline.state.device import INDEX, Device
from schemas.macos import OSVersion

_OS_VERSION, _BUILD = INDEX["os_version"], INDEX["build"]
_LOAN_RETURNED: Final = INDEX["loan_returned_at"]
_VERSION_BIT, _BUILD_BIT = 1 << _OS_VERSION, 1 << _BUILD


class LineIndex:
    """Keys of records: by OS version, of loan units, and of Macs whose build is the newer report.

    The inner dicts are sets in order of insertion, so that every run iterates alike.
    """

    def __init__(self) -> None:
        self.by_version: dict[OSVersion | None, dict[str, None]] = {}
        self._loan_units: dict[str, None] = {}
        self._by_build: dict[str, None] = {}

    def put(self, old: Device | None, new: Device) -> None:
        """Index a record in place of `old`, which has the same key and is indexed."""
        udid, values = new.udid, new.values
        version = values[_OS_VERSION]
        if old is None or old.values[_OS_VERSION] != version:
            if old is not None:
                del self.by_version[old.values[_OS_VERSION]][udid]
            known = self.by_version.get(version)
            if known is None:
                known = self.by_version[version] = {}
            known[udid] = None
        if values[_LOAN_RETURNED] is not None:
            self._loan_units[udid] = None
        elif self._loan_units:
            self._loan_units.pop(udid, None)
        self.put_times(new)

    def put_times(self, device: Device) -> None:
        """Index a record again of which only times, the name and telemetry have changed."""
        if _is_build_newer(device):
            self._by_build[device.udid] = None
        elif self._by_build:
            self._by_build.pop(device.udid, None)

    def remove(self, device: Device) -> None:
        """Remove a record."""
        self.by_version.get(device.os_version, {}).pop(device.udid, None)
        self._loan_units.pop(device.udid, None)
        self._by_build.pop(device.udid, None)

    def concerned(
        self,
        lines: Mapping[str, OSVersion | None],
        *,
        supported: tuple[str, ...],
        upgrades_to: str | None,
    ) -> dict[str, None]:
        """Return the keys of the records that a change of `lines` concerns (see `Change.lines`).

        `supported` are the supported lines; `upgrades_to` is the line to which the policy upgrades,
        None for none. A change of a line's advisories concerns the Macs on the line: up to the
        newest changed version on a supported line, else all. If the line is supported or is
        `upgrades_to`, it also concerns all Macs on unsupported lines; if it is `upgrades_to`, all
        Macs on other lines. Any change of a line concerns each loan unit, which is erased with a
        release of its own line or of a newer one, and each Mac whose build was reported later than
        its version: the catalogue may name another version for the build. Another Mac without a
        known version is not concerned.
        """
        found: dict[str, None] = {}
        if not lines:
            return found
        movable = any(line in lines for line in (*supported, upgrades_to))
        for version, udids in self.by_version.items():
            if version is None:
                continue
            supports = version.line in supported
            concerned = False
            if version.line in lines:
                upto = lines[version.line]
                # `missing_on_unsupported_line` depends on the last release of the line, for
                # every version of the Mac.
                concerned = upto is None or not supports or version.release <= upto.release
            moved = upgrades_to in lines and version.line != upgrades_to
            if concerned or moved or (movable and not supports):
                found.update(udids)
        return found | self._loan_units | self._by_build


def _is_build_newer(device: Device) -> bool:
    """Return True if the build was reported later than the version, or no version is known."""
    for _, bits in unpack_timestamps(device.timestamps):
        if bits & (_VERSION_BIT | _BUILD_BIT):
            is_together = bits & _VERSION_BIT and device.values[_OS_VERSION] is not None
            return bool(bits & _BUILD_BIT) and not is_together and device.build is not None
    return False
