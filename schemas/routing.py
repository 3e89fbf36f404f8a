"""Topic and key of each event that comes from outside, and of each dead letter."""

from typing import Any, Final

from schemas.dead_letters import DeadLetter
from schemas.envelope import (
    AdvisoryEvent,
    DeviceEvent,
    Event,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    is_device_event,
)
from schemas.ids import SERIAL_SUBJECT_PREFIX
from schemas.topics import DEAD_LETTERS, TOPICS, Topic

_TOPIC_OF: Final[dict[type[Any], Topic]] = {
    model: topic for topic in TOPICS for model in topic.models
}


def device_key(event: DeviceEvent) -> str:
    """Return the key of the record that the event belongs to.

    The UDID if the event has one, else `serial:` and the serial number, else the subject.
    """
    udid = event.data.udid
    if udid is not None:
        return udid
    serial = getattr(event.data, "serial", None)
    return SERIAL_SUBJECT_PREFIX + serial if serial else event.subject


def event_key(event: Event) -> str:
    """Return the key of any event: of its record in its topic, and of its entry in the log.

    The UDID for an event of a job, `device_key` for another event of a Mac, else the subject.
    """
    if is_device_event(event):
        return device_key(event)
    if isinstance(event, JobIssuedEvent):
        return event.data.job.udid
    if isinstance(event, JobResultedEvent | JobSupersededEvent):
        return event.data.udid
    return event.subject


def route(event: DeviceEvent | AdvisoryEvent) -> tuple[str, str]:
    """Return the topic name, then the key, of an event that comes from outside.

    The key is `device_key` for a device event, and the subject for an advisory event: the advisory
    id, or the CVE if it is of the KEV catalogue.
    """
    key = device_key(event) if isinstance(event, DeviceEvent) else event.subject
    return _TOPIC_OF[type(event)].name, key


def route_dead_letter(letter: DeadLetter) -> tuple[str, str]:
    """Return the topic name, then the key, of a dead letter; the key is the input's SHA-256."""
    return DEAD_LETTERS.name, letter.raw_sha256
