"""Search of the log for a Mac, by the names that people use."""

from pipeline.replay.log import LogReader
from schemas.ids import SERIAL_SUBJECT_PREFIX


def find_device_key(log: LogReader, name: str) -> str | None:
    """Return the key of the Mac with this UDID, serial number or enrollment id; None if unknown.

    A name that is not the key of a decision is searched among the names of decisions: the last Mac
    that had the name is returned. Then the events are searched, for Macs without any decision.
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
    decided = log.key_of_name(wanted, "decision")
    if decided is not None:
        return decided
    for key in (*keys, SERIAL_SUBJECT_PREFIX + wanted.upper()):
        if next(log.entries(key=key), None) is not None:
            return key
    return log.key_of_name(wanted, "event")
