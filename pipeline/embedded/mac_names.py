"""Search of a fleet for a Mac, by the names that people use."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Final

from pipeline.state.fleet import Fleet
from schemas.ids import SERIAL_SUBJECT_PREFIX

# Comparing a name with 100,000 others takes seconds: at most so many are compared.
_MANY: Final = 1000
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
    found = None if len(serial) > 1 else fleet.find(given)
    if found is not None:
        return found
    # Every Mac is visited for a host name, which has no index.
    named = set(serial) if len(serial) > 1 else set(udids_with_hostname(fleet, given))
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
    # The host name of a Mac is that of one of its records; joining them takes longer than reading.
    named = {
        fleet.canonical_udid(key) or key
        for key, record in fleet.devices.items()
        if record.hostname is not None and record.hostname.casefold() == wanted
    }
    for udid in sorted(named):
        hostname = fleet.merged_device(udid).hostname
        if hostname is not None and hostname.casefold() == wanted and not fleet.is_forgotten(udid):
            yield udid


def hint_for_writing(fleet: Fleet, name: str) -> str:
    """Return a hint for a name that is no UDID or serial number: its Mac, or similar names.

    A request that changes something accepts no host name: the owner of a Mac can change it.
    """
    hosts = " and ".join(udids_with_hostname(fleet, name))
    return f"; it is the host name of {hosts}" if hosts else near_names(fleet, name)


def near_names(fleet: Fleet, name: str) -> str:
    """Return `; did you mean ...?` with UDIDs, serial numbers or host names; empty without one."""
    known = {
        one.casefold(): one
        for key, record in fleet.devices.items()
        if not fleet.is_forgotten(key)
        for one in (key.removeprefix(SERIAL_SUBJECT_PREFIX), record.serial, record.hostname)
        if one is not None
    }
    return _suggestion(name.strip().casefold(), known)


def suggestion(text: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` with up to three similar names; empty without one."""
    return _suggestion(text, {one: one for one in known})


def _suggestion(text: str, shown: Mapping[str, str]) -> str:
    """Return `suggestion` for these names, each with its text to print."""
    near = get_close_matches(text, _alike(text, shown), n=3, cutoff=0.7)
    return f"; did you mean {' or '.join(shown[one] for one in near)}?" if near else ""


def _alike(text: str, names: Collection[str]) -> Collection[str]:
    """Return the names; of many only those that share the longest begin or end with the text."""
    size, found = _PART - 1, names
    while len(found) > _MANY and size < len(text):
        size += 1
        begin, end = text[:size], text[-size:]
        longer = [one for one in found if one.startswith(begin) or one.endswith(end)]
        if not longer and size > _PART:
            break
        found = longer
    return list(islice(found, _MANY))
