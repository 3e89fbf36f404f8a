"""The Macs that reported a serial number or an enrollment id, in few bytes a Mac.

Nearly every alias has one Mac: its UDID is then kept without a tuple around it.
"""

from typing import Final

from schemas.ids import is_real_serial

# Of invented Macs that all report one serial number, more would cost time and show nothing new.
MOST_UDIDS: Final = 16


class AliasIndex:
    """The UDIDs of the Macs that reported an alias at any time, in the order of their reports.

    Of an alias that more than MOST_UDIDS Macs reported, the first ones.
    """

    def __init__(self) -> None:
        self._udids: dict[str, str | tuple[str, ...]] = {}

    def __contains__(self, alias: str) -> bool:
        return alias in self._udids

    def add(self, alias: str | None, udid: str) -> None:
        """Add the UDID to those of the alias.

        No effect for None, for placeholders of serial numbers, and for a UDID that is there.
        """
        if alias is None or not is_real_serial(alias):
            return
        known = self._udids.get(alias)
        if known is None:
            self._udids[alias] = udid
        elif isinstance(known, str):
            if known != udid:
                self._udids[alias] = (known, udid)
        elif udid not in known and len(known) < MOST_UDIDS:
            self._udids[alias] = (*known, udid)

    def remove(self, alias: str | None, udid: str) -> None:
        """Remove the UDID from those of the alias; no effect if it is not there."""
        if alias is None or alias not in self._udids:
            return
        left = tuple(one for one in self.udids(alias) if one != udid)
        if left:
            self._udids[alias] = left[0] if len(left) == 1 else left
        else:
            del self._udids[alias]

    def udids(self, alias: str | None) -> tuple[str, ...]:
        """Return the UDIDs of the alias; empty if no Mac reported it."""
        known = None if alias is None else self._udids.get(alias)
        if known is None:
            return ()
        return (known,) if isinstance(known, str) else known

    def is_shared(self, alias: str) -> bool:
        """Return True if several Macs reported the alias."""
        return isinstance(self._udids.get(alias), tuple)
