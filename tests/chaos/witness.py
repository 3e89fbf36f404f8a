"""The state of each Mac computed from the topics alone: the newest value of each field.

It uses none of Drydock's folds, because the checker compares their results with it.
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
# For each event: its fields that describe the Mac, and the names under which they are kept.
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
    """Return the microseconds since 1970."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def reported_fields(event: DeviceEvent) -> dict[str, Any]:
    """Return the fields of the Mac that an event sets, by the names of kept fields."""
    values = event.data.model_dump(mode="json", exclude_none=True)
    names = _FACTS.get(type(event))
    if names is None:
        return {name: value for name, value in values.items() if name not in _NO_FACT}
    return {fact: values[name] for name, fact in names.items() if name in values}


def source_of(event: DeviceEvent) -> str:
    """Return the source of an event, as kept states name it."""
    if isinstance(event, InventoryEvent):
        return event.data.source
    return "ddm" if isinstance(event, DdmStatusEvent) else "mdm"


@dataclass(slots=True)
class KnownMac:
    """The expected state of one Mac.

    `facts` has the time of each field's newest value, and all values reported at that time.
    `seen` has the newest time of each source, `checkins` of each kind of check-in. Times are
    microseconds since 1970.
    """

    facts: dict[str, tuple[int, list[Any]]] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    checkins: list[int] = field(default_factory=lambda: [0, 0, 0])

    def add(self, event: DeviceEvent) -> None:
        """Fold one event; the order of events does not matter."""
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
    """Return the expected state of each Mac, by UDID."""
    known: dict[str, KnownMac] = {}
    for event in events:
        known.setdefault(event.subject, KnownMac()).add(event)
    return known


def state_differences(known: KnownMac, kept: Mapping[str, Any]) -> list[str]:
    """Return the differences between a Mac's kept state and its expected one.

    `kept` has the form of the device in a state row.
    """
    wrong = []
    for fact, (us, values) in known.facts.items():
        when, value = kept["facts"].get(fact, (0, None))
        if when != us:
            wrong.append(f"{fact} is of {when}, reported at {us}")
        elif not any(_same(value, one) for one in values):
            wrong.append(f"{fact} is {value!r}, reported was {values}")
    wrong += [
        f"{source} seen at {kept['seen'].get(source, 0)}, reported at {us}"
        for source, us in known.seen.items()
        if kept["seen"].get(source, 0) != us
    ]
    if list(kept["checkins"]) != known.checkins:
        wrong.append(f"check-ins {kept['checkins']}, reported {known.checkins}")
    return wrong


def includes(kept: Mapping[str, Any], event: DeviceEvent) -> bool:
    """Return True if the kept state has every field of this event, or newer values."""
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
