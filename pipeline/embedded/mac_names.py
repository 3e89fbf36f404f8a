"""Search of a fleet for a Mac, by the names that people use."""

from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from typing import Final

from pipeline.state.fleet import Fleet

# Comparing a name with 100,000 others takes seconds: then only those with its begin or end count.
_MANY: Final = 5000
_PART: Final = 3
_NAMES: Final = "UDID, serial number, enrollment id or host name"


class UnknownMacError(ValueError):
    """No Mac, or more than one, has a name; the message is for people."""


def udid_of(fleet: Fleet, name: str) -> str:
    """Return the UDID of the Mac with this UDID, serial number, enrollment id or host name.

    Serial numbers and host names are compared without case. Raises UnknownMacError if none has it,
    with similar names, or if several have it.
    """
    given = name.strip()
    serial = fleet.udids_with_serial(given.upper())
    named = set(serial) if len(serial) > 1 else set(udids_with_hostname(fleet, given))
    found = None if len(serial) > 1 else fleet.find(given)
    if found is not None:
        return found
    if not named:
        hint = near_names(fleet, given) or f": give a {_NAMES}"
        raise UnknownMacError(f"no Mac is known as {given!r}{hint}")
    if len(named) > 1:
        udids = " or ".join(sorted(named))
        raise UnknownMacError(f"{len(named)} Macs are known as {given!r}: give a UDID, {udids}")
    return named.pop()


def udids_with_hostname(fleet: Fleet, name: str) -> Iterator[str]:
    """Yield the UDIDs of the Macs with this host name, compared without case."""
    wanted = name.strip().casefold()
    for udid in fleet.macs():
        hostname = fleet.merged_device(udid).hostname
        if hostname is not None and hostname.casefold() == wanted:
            yield udid


def hint_for_writing(fleet: Fleet, name: str) -> str:
    """Return a hint for a name that is no UDID or serial number: its Mac, or similar names.

    A request that changes something accepts no host name: the owner of a Mac can change it.
    """
    hosts = " and ".join(udids_with_hostname(fleet, name))
    return f"; it is the host name of {hosts}" if hosts else near_names(fleet, name)


def near_names(fleet: Fleet, name: str) -> str:
    """Return `; did you mean ...?` with UDIDs, serial numbers or host names; empty without one."""
    known: dict[str, str] = {}
    for udid in fleet.macs():
        device = fleet.merged_device(udid)
        known |= {one.casefold(): one for one in (udid, device.serial, device.hostname) if one}
    return suggestion(name.strip().casefold(), known, known.values())


def suggestion(text: str, known: Collection[str], shown: Iterable[str] | None = None) -> str:
    """Return `; did you mean ...?` with up to three similar names; empty without one.

    `shown` are the names to print for those of `known`, in their order.
    """
    names = dict(zip(known, known if shown is None else shown, strict=True))
    compared: Iterable[str] = names
    if len(names) > _MANY:
        begin, end = text[:_PART], text[-_PART:]
        compared = [one for one in names if one[:_PART] == begin or one[-_PART:] == end]
    near = get_close_matches(text, list(compared), n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(names[one] for one in near)}?" if near else ""
