"""The systems on which each method exists, for the decision and for the executor alike. Pure.

Source: github.com/apple/device-management. The enforcement declaration is of macOS 14. Up to macOS
11 ScheduleOSUpdate takes a product key, which Drydock does not know, and from macOS 14 on a Mac
ignores it beside a declaration. Before macOS 12 EraseDevice leaves a Mac without a system.
"""

from collections.abc import Mapping
from typing import Final

from schemas.jobs import Method
from schemas.macos import OSVersion

_ANY: Final = OSVersion(0)
FIRST_SYSTEM: Final[Mapping[Method, OSVersion]] = {
    Method.DDM: OSVersion(14),
    Method.MDM_COMMAND: OSVersion(12),
    Method.ERASE_DEVICE: OSVersion(12),
}
"""The first system of a method; one that is missing has no such limit."""
FIRST_WITHOUT: Final[Mapping[Method, OSVersion]] = {Method.MDM_COMMAND: OSVersion(14)}
"""The first system that no longer has the method; one that is missing has no such limit."""


def exists_on(method: Method, version: OSVersion) -> bool:
    """Return True if a Mac with this system can be given an order by this method."""
    end = FIRST_WITHOUT.get(method)
    return version >= FIRST_SYSTEM.get(method, _ANY) and (end is None or version < end)
