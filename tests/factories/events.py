"""Events of any type, and the Kafka key of each."""

from datetime import datetime
from typing import Any

from schemas.envelope import CloudEvent, DeviceEvent
from schemas.ids import event_id
from schemas.results import JobResult
from schemas.routing import device_key
from schemas.topics import TOPICS

_TOPIC_OF: dict[type[Any], str] = {model: topic.name for topic in TOPICS for model in topic.models}


def make_event(kind: type[Any], subject: str, when: datetime, data: Any) -> Any:
    """Return a valid event; the id follows from all arguments."""
    name = event_id(kind.__name__, subject, when.isoformat(), repr(data))
    return kind.model_validate(
        {"id": name, "source": "/test", "subject": subject, "time": when, "data": data}
    )


def key_of(event: CloudEvent) -> str:
    """Return the Kafka key that an event is published under."""
    if isinstance(event, DeviceEvent):
        return device_key(event)
    return event.data.udid if isinstance(event.data, JobResult) else event.subject  # type: ignore[attr-defined]


def topic_of(event: CloudEvent) -> str:
    """Return the name of the topic that carries an event."""
    return _TOPIC_OF[type(event)]
