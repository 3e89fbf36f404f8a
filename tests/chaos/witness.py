"""What Macs' reports say together, worked out from the topics alone: for each fact the newest word.

Drydock's own folds are not used: this is what they are measured against.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from schemas.envelope import (
    AuthenticatedEvent,
    BootstrapTokenEvent,
    CheckedOutEvent,
    CloudEvent,
    CommandReportedEvent,
    DdmStatusEvent,
    DeviceEvent,
    InventoryEvent,
    TokenUpdatedEvent,
)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ENROLMENT: Final = ("enrollment_id", "enrollment_type")
# Of each event: the fields that say something of the Mac, and the facts they are kept as.
_FACTS: Final[dict[type[CloudEvent], Mapping[str, str]]] = {
    AuthenticatedEvent: {
        name: name for name in ("serial", "os_version", "build", "model", "hostname", *_ENROLMENT)
    }
    | {"server": "mdm_server"},
    TokenUpdatedEvent: {name: name for name in _ENROLMENT} | {"server": "mdm_server"},
    CheckedOutEvent: {"enrollment_id": "enrollment_id"},
    CommandReportedEvent: {"enrollment_id": "enrollment_id"},
    BootstrapTokenEvent: {"escrowed": "bootstrap_token_escrowed"},
    DdmStatusEvent: {
        name: name
        for name in (
            *("install_state", "pending_version", "pending_build", "failure_count"),
            *("failure_reason", "serial", "os_version", "build", "model", "device_id"),
            *_ENROLMENT,
        )
    },
}
_NO_FACT: Final = frozenset({"source", "udid"})
_CHECKINS: Final[tuple[type[CloudEvent], ...]] = (
    AuthenticatedEvent,
    TokenUpdatedEvent,
    CheckedOutEvent,
)


def microseconds(moment: datetime) -> int:
    """Since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def reported_fields(event: DeviceEvent) -> dict[str, Any]:
    """What an event says of its Mac, fact by fact."""
    results = event.data.model_dump(mode="json", exclude_none=True)
    names = _FACTS.get(type(event))
    if names is None:
        return {name: value for name, value in results.items() if name not in _NO_FACT}
    return {fact: results[name] for name, fact in names.items() if name in results}


def source_of(event: DeviceEvent) -> str:
    """Which source told it."""
    if isinstance(event, InventoryEvent):
        return event.data.source
    return "ddm" if isinstance(event, DdmStatusEvent) else "mdm"


@dataclass(slots=True)
class KnownMac:
    """What is known of one Mac: of each fact when it was last told and all that was told then, and
    when each source and each kind of check-in was last heard."""

    facts: dict[str, tuple[int, list[Any]]] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    checkins: list[int] = field(default_factory=lambda: [0, 0, 0])

    def add(self, event: DeviceEvent) -> None:
        """Hear one event; any order gives the same."""
        us = microseconds(event.time)
        for fact, value in reported_fields(event).items():
            when, values = self.facts.get(fact, (0, []))
            if us > when:
                self.facts[fact] = (us, [value])
            elif us == when:
                values.append(value)
        source = source_of(event)
        self.seen[source] = max(self.seen.get(source, 0), us)
        if type(event) in _CHECKINS:
            which = _CHECKINS.index(type(event))
            self.checkins[which] = max(self.checkins[which], us)


def known_by_mac(events: Iterable[DeviceEvent]) -> dict[str, KnownMac]:
    """What is known of each Mac, by UDID."""
    known: dict[str, KnownMac] = {}
    for event in events:
        known.setdefault(event.subject, KnownMac()).add(event)
    return known


def unlike(known: KnownMac, kept: Mapping[str, Any]) -> list[str]:
    """Where a Mac's kept state is not what was told of it; `kept` is as state rows have it."""
    wrong = []
    for fact, (us, values) in known.facts.items():
        when, value = kept["facts"].get(fact, (0, None))
        if when != us:
            wrong.append(f"{fact} is of {when}, told at {us}")
        elif not any(_same(value, one) for one in values):
            wrong.append(f"{fact} is {value!r}, told was {values}")
    wrong += [
        f"{source} heard at {kept['seen'].get(source, 0)}, told at {us}"
        for source, us in known.seen.items()
        if kept["seen"].get(source, 0) != us
    ]
    if list(kept["checkins"]) != known.checkins:
        wrong.append(f"check-ins {kept['checkins']}, told {known.checkins}")
    return wrong


def holds(kept: Mapping[str, Any], event: DeviceEvent) -> bool:
    """Whether the kept state knows all that this event said, or something newer."""
    us = microseconds(event.time)
    facts = all(kept["facts"].get(fact, (0, None))[0] >= us for fact in reported_fields(event))
    return facts and kept["seen"].get(source_of(event), 0) >= us


def _same(kept: Any, reported: Any) -> bool:
    return kept == reported or _moment(kept) == _moment(reported) is not None


def _moment(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
