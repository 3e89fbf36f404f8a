"""The source of each field of a Mac: the logged event that brought its value."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.replay.log import LogEntry, read_event
from pipeline.state.device import to_us
from schemas.envelope import Event, InventoryEvent

# A fact in a device's wire form: time in us since 1970, and value.
Facts = Mapping[str, tuple[int, Any]]


def sources_of(facts: Facts, events: Iterable[LogEntry]) -> dict[str, str]:
    """Return the source of each field for which the log still has the event.

    `events` are the entries of the Mac's events, newest first; they are read until every field has
    its source. A source is that of the report (`osquery`), or the type of another event
    (`mdm.authenticated`). Raises UnreadableLog if an entry cannot be read.
    """
    wanted = {name: us for name, (us, value) in facts.items() if value is not None}
    found: dict[str, str] = {}
    by_time: dict[int, str] = {}
    for entry in events:
        if not wanted:
            break
        event = read_event(entry)
        us = to_us(event.time)
        source = _source(event)
        by_time.setdefault(us, source)
        for name in [name for name, at in wanted.items() if at == us]:
            if getattr(event.data, name, None) is not None:
                found[name] = source
                del wanted[name]
    # A field that an event has under another name, such as a bootstrap token.
    return found | {name: by_time[us] for name, us in wanted.items() if us in by_time}


def _source(event: Event) -> str:
    if isinstance(event, InventoryEvent):
        return event.data.source
    return event.type.removeprefix("drydock.").removesuffix(".v1")
