"""Identity of an event: present, printable, and equal to its subject.

An event is recorded under a key that is derived from its data. A subject that differs from this key
would give a record of another name to readers of the log, and a Mac without UDID and serial number
would get a job that nothing can decode.
"""

from typing import Final

from schemas.dead_letters import DeadLetterCode, Problem
from schemas.envelope import AdvisoryEvent, DeviceEvent, is_device_event
from schemas.ids import advisory_id, is_real_serial, is_real_udid
from schemas.routing import device_key

_TEXTS: Final = ("id", "source", "subject")


def identity_problem(event: DeviceEvent | AdvisoryEvent) -> Problem | None:
    """Return the reason for which an event's identity cannot be used; None if it can.

    The letters of the subject may differ in case from the key: UDIDs are compared without it.
    """
    if not f"{event.id}{event.source}{event.subject}".isprintable():
        name = next(one for one in _TEXTS if not getattr(event, one).isprintable())
        return Problem(DeadLetterCode.BAD_IDENTITY, "contains unprintable characters", f"$.{name}")
    problem = _device_problem(event) if is_device_event(event) else None
    if problem is not None:
        return problem
    keys = subjects_of(event)
    if event.subject in keys or event.subject.upper() in (key.upper() for key in keys):
        return None
    wanted = f"the subject is not {keys[0]!r}, which the data names" if keys else "no subject fits"
    return Problem(DeadLetterCode.BAD_IDENTITY, wanted, "$.subject")


def subjects_of(event: DeviceEvent | AdvisoryEvent) -> tuple[str, ...]:
    """Return the subjects that fit the event's data, the usual one first.

    The key of a Mac's record; the id of a release; of the KEV catalogue each CVE of the entry.
    """
    if is_device_event(event):
        return (device_key(event),)
    assert isinstance(event, AdvisoryEvent)
    data = event.data
    if data.os_version is None:
        return data.cves or data.exploited_cves
    return (advisory_id(data.platform, str(data.os_version)),)


def _device_problem(event: DeviceEvent) -> Problem | None:
    """Return the problem of a UDID or serial number that identifies no Mac."""
    udid, serial = event.data.udid, getattr(event.data, "serial", None)
    if udid is not None:
        if is_real_udid(udid):
            return None
        return Problem(DeadLetterCode.NO_DEVICE, "the UDID is a placeholder", "$.data.udid")
    if serial is None:
        return Problem(DeadLetterCode.NO_DEVICE, "neither a UDID nor a serial number", "$.data")
    if is_real_serial(serial):
        return None
    return Problem(DeadLetterCode.NO_DEVICE, "the serial number is a placeholder", "$.data.serial")
