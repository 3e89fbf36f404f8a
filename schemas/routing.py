"""Where a fact goes: its topic, and the key that says who owns it there."""

from typing import Any, Final

from schemas.dead_letters import DeadLetter
from schemas.envelope import AdvisoryEvent, DeviceEvent
from schemas.ids import SERIAL_SUBJECT_PREFIX
from schemas.topics import DEAD_LETTERS, TOPICS, Topic

_TOPIC_OF: Final[dict[type[Any], Topic]] = {
    model: topic for topic in TOPICS for model in topic.models
}


def device_key(event: DeviceEvent) -> str:
    """The key of the record a device event belongs to: its UDID, or `serial:` and the serial."""
    udid = event.data.udid
    if udid is not None:
        return udid
    serial = getattr(event.data, "serial", None)
    return SERIAL_SUBJECT_PREFIX + serial if serial else event.subject


def route(event: DeviceEvent | AdvisoryEvent) -> tuple[str, str]:
    """Topic and key of a fact from outside: a Mac's by its UDID, an advisory's by its id."""
    key = device_key(event) if isinstance(event, DeviceEvent) else event.subject
    return _TOPIC_OF[type(event)].name, key


def route_dead_letter(letter: DeadLetter) -> tuple[str, str]:
    """Topic and key of what was set aside."""
    return DEAD_LETTERS.name, letter.raw_sha256
