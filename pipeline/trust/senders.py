"""Senders: the logins that deliver events, and the events that each kind may submit.

| kind | may submit |
| --- | --- |
| `nanomdm`, `micromdm`, `jamf` (the MDM channel) | all events of Macs but those of `admin` |
| `osquery`, `munki` | inventory reports of that source, without enrollment |
| `events` | inventory reports of `osquery`, `munki` and `other`, without enrollment |
| `sofa`, `gdmf`, `kev` | statements of that feed about releases and CVEs |
| `advisories` | statements about releases of the source `other` |
| `admin` | statements of an operator about Macs and releases, of the source `admin` |
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, get_args

from pipeline.ingest.sources import DEVICE_SOURCES, FEEDS, PermittedFields
from schemas.envelope import AdvisoryEvent, DeviceEvent
from schemas.events.inventory import InventoryReported, InventorySource
from schemas.model import WireModel

EVENTS: Final = "events"
ADVISORIES: Final = "advisories"
ADMIN: Final = "admin"
MDM_KINDS: Final = frozenset({"nanomdm", "micromdm", "jamf"})
# Only the MDM channel knows the enrollment of a Mac; anybody else could hide or invent one.
ENROLLMENT_FIELDS: Final = frozenset(
    {"enrollment_id", "mdm_enrolled", "mdm_server", "supervised", "user_approved", "ade_enrolled"}
    | {"bootstrap_token_escrowed", "identity_expires_at"}
)
# Identify the source and the kind of each statement; every sender states them.
ALWAYS_PERMITTED: Final = frozenset({"source", "platform"})


@dataclass(frozen=True, slots=True)
class Scope:
    """The events that a sender may submit.

    - `fields`: the fields that it may state, by the class of an event's data
    - `sources`: values of `source` in the data
    - `devices`: UDIDs and serial numbers in capitals; None means every Mac
    """

    fields: PermittedFields
    sources: frozenset[str]
    devices: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class SenderLimits:
    """Limits of one sender; None is no limit."""

    events_per_request: int | None = None
    requests_per_minute: int | None = None


@dataclass(frozen=True, slots=True)
class Sender:
    """A login that delivered a request.

    `own_device` is the UDID of a login that a Mac has for itself: everything it submits is about
    this Mac.
    """

    name: str
    kind: str
    scope: Scope
    own_device: str | None = None
    limits: SenderLimits = SenderLimits()

    @property
    def recorded_name(self) -> str:
        """The name in stored events and dead letters: NAME, or NAME/UDID for the login of a Mac."""
        return self.name if self.own_device is None else f"{self.name}/{self.own_device}"

    def limited_to(self, udid: str) -> "Sender":
        """Return the login that this Mac has for itself."""
        scope = replace(self.scope, devices=frozenset({udid}))
        return replace(self, scope=scope, own_device=udid)


def _all_fields(models: object) -> dict[type[WireModel], frozenset[str]]:
    data = (event.model_fields["data"].annotation for event in get_args(models))
    return {one: frozenset(one.model_fields) for one in data}


_INVENTORY: Final[PermittedFields] = {
    InventoryReported: frozenset(InventoryReported.model_fields) - ENROLLMENT_FIELDS
}
# Reports of executors are Drydock's own. An MDM server is a program: it owns no Mac, so it states
# neither an owner nor that a Mac is never erased.
_MDM_SOURCES: Final = frozenset(get_args(InventorySource)) - {"executor", "admin"}

SCOPES: Final[Mapping[str, Scope]] = {
    **{feed.name: Scope(feed.permitted_fields, frozenset({feed.name})) for feed in FEEDS},
    **{
        source.name: Scope(_all_fields(DeviceEvent), _MDM_SOURCES)
        if source.name in MDM_KINDS
        else Scope(
            {kind: fields - ENROLLMENT_FIELDS for kind, fields in source.permitted_fields.items()},
            frozenset({source.reports_as}),
        )
        for source in DEVICE_SOURCES
    },
    EVENTS: Scope(_INVENTORY, frozenset({"osquery", "munki", "other"})),
    ADVISORIES: Scope(_all_fields(AdvisoryEvent), frozenset({"other"})),
    ADMIN: Scope(
        {
            InventoryReported: frozenset(InventoryReported.model_fields),
            **_all_fields(AdvisoryEvent),
        },
        frozenset({"admin"}),
    ),
}


_TYPES: Final[Mapping[type[WireModel], str]] = {
    event.model_fields["data"].annotation: event.model_fields["type"].default
    for event in (*get_args(DeviceEvent), *get_args(AdvisoryEvent))
}


def event_types(scope: Scope) -> frozenset[str]:
    """Return the types of the events in a scope."""
    return frozenset(_TYPES[data] for data in scope.fields)


def restricted(scope: Scope, types: frozenset[str] | None, devices: frozenset[str] | None) -> Scope:
    """Return the part of a scope with these event types and Macs; None restricts nothing."""
    fields = {
        data: names
        for data, names in scope.fields.items()
        if types is None or _TYPES[data] in types
    }
    return Scope(fields, scope.sources, devices)


def default_sender(kind: str) -> Sender:
    """Return the sender of a kind that is configured by its secret alone: its name is its kind."""
    return Sender(kind, kind, SCOPES[kind])
