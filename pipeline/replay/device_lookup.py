"""Search of the log for a Mac, by the names that people use."""

from collections.abc import Iterable, Iterator

from pipeline.replay.log import Kind, LogEntry, LogReader, read_event, read_record
from schemas.decisions import DecisionRecord
from schemas.ids import SERIAL_SUBJECT_PREFIX


def find_device_key(log: LogReader, name: str) -> str | None:
    """Return the key of the Mac with this UDID, serial number or enrollment id; None if unknown.

    A name that is not the key of a decision is searched in the recorded decisions: the last Mac
    that had the name is returned. Then the events are searched, for Macs without any decision.
    Raises UnreadableLog if an entry with the name cannot be read.
    """
    wanted = name.strip()
    if wanted.lower().startswith(SERIAL_SUBJECT_PREFIX):
        wanted = wanted[len(SERIAL_SUBJECT_PREFIX) :]
        record = SERIAL_SUBJECT_PREFIX + wanted.upper()
        if next(log.entries(key=record, kind="decision"), None) is not None:
            return record
    keys = tuple(dict.fromkeys((wanted, wanted.upper())))
    for key in keys:
        if next(log.entries(key=key, kind="decision"), None) is not None:
            return key
    decided = _last_decided(log, wanted, keys)
    if decided is not None:
        return decided
    for key in (*keys, SERIAL_SUBJECT_PREFIX + wanted.upper()):
        if next(log.entries(key=key), None) is not None:
            return key
    return _last_reported(log, wanted, keys)


def _last_decided(log: LogReader, name: str, keys: tuple[str, ...]) -> str | None:
    """Return the UDID of the last decision about a Mac with this name; None if there is none.

    Decisions about a record known by serial number only are left out. `keys` are the name's
    spellings.
    """
    found = None
    for entry in _mentions(log, keys, "decision"):
        record = read_record(entry)
        if _is_named(record, name) and not entry.key.startswith(SERIAL_SUBJECT_PREFIX):
            found = record.decision.udid
    return found


def _last_reported(log: LogReader, name: str, keys: tuple[str, ...]) -> str | None:
    """Return the key of the last event that has this serial number or enrollment id, or None."""
    found = None
    for entry in _mentions(log, keys, "event"):
        data = read_event(entry).data
        names = (getattr(data, "serial", None), getattr(data, "enrollment_id", None))
        if name.upper() == names[0] or name == names[1]:
            found = entry.key
    return found


def _mentions(log: LogReader, names: Iterable[str], kind: Kind) -> Iterator[LogEntry]:
    """Yield the entries whose bytes contain one of the names; decoding all would take minutes."""
    needles = tuple(name.encode() for name in names)
    return (
        entry for entry in log.entries(kind=kind) if any(needle in entry.body for needle in needles)
    )


def _is_named(record: DecisionRecord, name: str) -> bool:
    """Return True if `name` is the UDID, serial number or enrollment id of the decision's Mac."""
    wanted = name.strip()
    facts = record.inputs.device.get("facts", {})
    enrollment = facts.get("enrollment_id", (0, None))[1]
    upper = wanted.upper()
    if wanted == enrollment or upper == record.decision.serial:
        return True
    return record.decision.udid in (wanted, upper, SERIAL_SUBJECT_PREFIX + upper)
