"""The names of a Mac besides its key, in events and decision records: for a search of the log."""

from collections.abc import Iterable
from typing import Literal

from schemas.decisions import DecisionRecord
from schemas.envelope import Event
from schemas.ids import SERIAL_SUBJECT_PREFIX

NameType = Literal["serial", "enrollment_id"]
Names = Iterable[tuple[NameType, str]]
_TYPES: tuple[NameType, ...] = ("serial", "enrollment_id")


def event_names(event: Event) -> Names:
    """Return the serial number and the enrollment id in an event, as far as it has them."""
    data = event.data
    found = ((name_type, getattr(data, name_type, None)) for name_type in _TYPES)
    return [(name_type, name) for name_type, name in found if name]


def record_names(record: DecisionRecord) -> Names:
    """Return the serial number and the enrollment id of a decision's Mac.

    None for a record that has no UDID: its key is made of the serial number.
    """
    if record.decision.udid.startswith(SERIAL_SUBJECT_PREFIX):
        return ()
    enrollment = record.inputs.device.get("facts", {}).get("enrollment_id", (0, None))[1]
    found: tuple[tuple[NameType, str | None], ...] = (
        ("serial", record.decision.serial),
        ("enrollment_id", enrollment),
    )
    return [(name_type, name) for name_type, name in found if name]
