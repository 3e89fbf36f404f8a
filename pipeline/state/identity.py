"""The identity of a Mac among the other Macs: who has its serial number and its enrollment id too.

Two Macs never have one UDID or one serial number, but records do: a logic board was exchanged (an
old UDID and a new one with the same serial number), a virtual machine was cloned, a report is
wrong or forged. Until it is known which, each Mac concerned is in conflict.

| observation | the Mac is |
| --- | --- |
| its serial number is reported by another Mac too | in conflict: `serial_shared` |
| a report under its UDID had another serial number | in conflict: `serial_changed` |
| its enrollment id is a Mac of its own, or of another Mac too | in conflict: `enrollment_shared` |
| the other Mac enrolled with the serial number after this Mac's last contact | replaced |
| MDM has contact with the other Mac, and this Mac was silent for SILENT_US before | replaced |

A replaced Mac is history: its logic board is gone. In the last row the other Mac stays in conflict,
because no enrollment has confirmed its serial number. Operators settle the rest (`Settlements`):
a settlement holds until a later report contradicts it.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from schemas.events.control import IdentitySettled
from schemas.findings import FindingCode

# So long without a contact, while MDM has contact with another Mac of the same serial number, and a
# Mac counts as replaced.
SILENT_US: Final = 14 * 86_400 * 1_000_000
# One is enough to stop a job; many would only lengthen each decision.
SHOWN_CONFLICTS: Final = 4


class Identity(msgspec.Struct, frozen=True):
    """The identity of one Mac: the UDID of the Mac that replaced it, or None, and its conflicts.

    A conflict is its code, and the UDID, serial number or enrollment id of the other side.
    """

    replaced_by: str | None = None
    conflicts: tuple[tuple[FindingCode, str], ...] = ()

    def to_wire(self) -> dict[str, Any] | None:
        """Return the identity as JSON values; None for a Mac that is certainly itself."""
        return None if self == CERTAIN else msgspec.to_builtins(self)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any] | None) -> "Identity":
        """Return the identity that `to_wire` wrote. Raises ValueError for other input."""
        try:
            return CERTAIN if wire is None else msgspec.convert(wire, cls)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error


CERTAIN: Final = Identity()


class Settlements:
    """The newest settlement of each pair of identifiers, and of each forgotten Mac."""

    def __init__(self) -> None:
        self.by_key: dict[str, tuple[int, IdentitySettled]] = {}

    def __bool__(self) -> bool:
        return bool(self.by_key)

    def add(self, settled: IdentitySettled, us: int) -> bool:
        """Add a settlement of time `us`; return False if there is a newer one of its key."""
        old = self.by_key.get(settled.key)
        if old is not None and (us, settled.model_dump_json()) <= (
            old[0],
            old[1].model_dump_json(),
        ):
            return False
        self.by_key[settled.key] = (us, settled)
        return True

    def forgotten_us(self, udid: str) -> int:
        """Return the time, in us, up to which reports of a Mac are forgotten; 0 for none."""
        found = self.by_key.get(udid) if self.by_key else None
        return 0 if found is None else found[0]

    def of_pair(self, one: str, other: str) -> tuple[int, IdentitySettled] | None:
        """Return the newest settlement between two identifiers, with its time in us, or None."""
        if not self.by_key:
            return None
        return self.by_key.get(" ".join(sorted((one, other))))
