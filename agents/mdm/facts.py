"""Facts about a Mac from its check-ins, answers and status reports. Pure.

Each fact has the time of the newest event that named it; older events change nothing, so the order
of events does not matter. None as a value means that the fact became unknown: a new enrollment ends
the facts of the one before (github.com/micromdm/nanomdm, issue 71).

Only the events of MDM servers count. Reports of other sources are for the pipeline.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from schemas.envelope import (
    AuthenticatedEvent,
    BootstrapTokenEvent,
    CheckedOutEvent,
    CommandReportedEvent,
    DdmStatusEvent,
    Event,
    InventoryEvent,
    TokenUpdatedEvent,
)
from schemas.events.checkin import MdmTokenUpdated
from schemas.macos import Build, OSVersion, parse_build, parse_os_version
from schemas.topics import INVENTORY

Value = str | float | bool | None


class Name(StrEnum):
    """The facts. That of an event (`authenticated`) has the value True."""

    ENROLLMENT_ID = "enrollment_id"
    SERVER = "server"
    AUTHENTICATED = "authenticated"
    TOKEN_UPDATED = "token_updated"
    ENROLLED = "enrolled"
    CHECKED_OUT = "checked_out"
    AWAITING_CONFIGURATION = "awaiting_configuration"
    IN_SETUP_ASSISTANT = "in_setup_assistant"
    BOOTSTRAP_TOKEN = "bootstrap_token"
    USER_APPROVED = "user_approved"
    OS_VERSION = "os_version"
    BUILD = "build"
    SERIAL = "serial"
    APPLE_SILICON = "apple_silicon"
    FREE_DISK_GB = "free_disk_gb"
    BATTERY_PERCENT = "battery_percent"
    ERASE_PREFLIGHT = "erase_preflight"
    PIN_REQUIRED = "pin_required"
    INSTALL_STATE = "install_state"
    FAILURE_AT = "failure_at"
    FAILURE_REASON = "failure_reason"
    DECLARATION_ID = "declaration_id"


# The source of an MDM server's report, as `schemas.envelope.encode` writes it.
_SOURCE_MDM: Final = b'"source":"mdm"'
_ENDED_BY_ENROLLMENT: Final = (
    Name.BOOTSTRAP_TOKEN,
    Name.USER_APPROVED,
    Name.ERASE_PREFLIGHT,
    Name.INSTALL_STATE,
    Name.FAILURE_AT,
    Name.FAILURE_REASON,
    Name.DECLARATION_ID,
)
_INVENTORY: Final = (
    Name.OS_VERSION,
    Name.BUILD,
    Name.SERIAL,
    Name.APPLE_SILICON,
    Name.USER_APPROVED,
    Name.FREE_DISK_GB,
    Name.BATTERY_PERCENT,
)
_CONDITIONS: Final = (
    Name.ENROLLMENT_ID,
    Name.ERASE_PREFLIGHT,
    Name.PIN_REQUIRED,
    Name.AWAITING_CONFIGURATION,
)
_STATUS: Final = (
    Name.OS_VERSION,
    Name.BUILD,
    Name.INSTALL_STATE,
    Name.FAILURE_AT,
    Name.FAILURE_REASON,
    Name.DECLARATION_ID,
)


@dataclass(frozen=True, slots=True)
class Fact:
    """A value, the time of the newest event that named it, and of the first with this value."""

    value: Value
    at: datetime
    since: datetime


@dataclass(frozen=True, slots=True)
class MacFacts:
    """The facts about one Mac; a fact that is missing or None is unknown."""

    facts: Mapping[Name, Fact]

    def value(self, name: Name, newer_than: datetime | None = None) -> Value:
        """Return the value; None if it is unknown or its event is not `newer_than` this time."""
        fact = self.facts.get(name)
        if fact is None or (newer_than is not None and fact.at <= newer_than):
            return None
        return fact.value

    def at(self, name: Name) -> datetime | None:
        """Return the time of the newest event that named this fact, None without one."""
        fact = self.facts.get(name)
        return None if fact is None else fact.at

    def text(self, name: Name) -> str | None:
        """Return the value of a text, None if it is unknown."""
        value = self.value(name)
        return value if isinstance(value, str) else None

    def flag(self, name: Name, newer_than: datetime | None = None) -> bool | None:
        """Return the value of a flag; None if it is unknown or not `newer_than` this time."""
        value = self.value(name, newer_than)
        return value if isinstance(value, bool) else None

    def number(self, name: Name, newer_than: datetime | None = None) -> float | None:
        """Return the value of a number; None if it is unknown or not `newer_than` this time."""
        value = self.value(name, newer_than)
        return None if isinstance(value, bool | str) else value

    @property
    def os_version(self) -> OSVersion | None:
        """The version that the Mac runs, None if it is unknown."""
        text = self.text(Name.OS_VERSION)
        return None if text is None else parse_os_version(text)

    @property
    def build(self) -> Build | None:
        """The build that the Mac runs, None if it is unknown."""
        text = self.text(Name.BUILD)
        return None if text is None else parse_build(text)

    @property
    def version_since(self) -> datetime | None:
        """The first report of the present version: the Mac booted into it before; None if unknown.

        MDM reports no time of a boot.
        """
        fact = self.facts.get(Name.OS_VERSION)
        return None if fact is None or fact.value is None else fact.since

    @property
    def authenticated_at(self) -> datetime | None:
        """The begin of the present enrollment; the server cleared its queue. None if unknown."""
        return self.at(Name.AUTHENTICATED)

    @property
    def is_enrolled(self) -> bool | None:
        """True after a complete enrollment, False after its end, None if neither was seen."""
        out, updated = self.at(Name.CHECKED_OUT), self.at(Name.TOKEN_UPDATED)
        if out is not None and (updated is None or updated < out):
            return False
        return None if updated is None else True


def may_have_facts(topic: str, raw: bytes) -> bool:
    """Return False for the record of an inventory report that no MDM server made; no parsing.

    Such a report changes nothing, so its signature need not be verified. Most records of a fleet
    are such reports.
    """
    return topic != INVENTORY.name or _SOURCE_MDM in raw


def facts_of(event: Event) -> Iterator[tuple[Name, Value]]:
    """Yield the facts of an event about one Mac; none for other events."""
    match event:
        case AuthenticatedEvent(data=data):
            yield Name.AUTHENTICATED, True
            yield from ((name, None) for name in _ENDED_BY_ENROLLMENT)
            yield from _known(data, (Name.ENROLLMENT_ID, Name.SERVER, Name.OS_VERSION, Name.BUILD))
        case TokenUpdatedEvent(data=data):
            yield from _token_facts(data)
        case CheckedOutEvent():
            yield Name.CHECKED_OUT, True
        case BootstrapTokenEvent(data=data):
            yield Name.BOOTSTRAP_TOKEN, data.escrowed
        case DdmStatusEvent(data=data):
            yield from _known(data, _STATUS)
        case CommandReportedEvent(data=data):
            yield from _known(data, _CONDITIONS)
        case InventoryEvent(data=data) if data.source == "mdm":
            yield from _known(data, _INVENTORY)


def _token_facts(data: MdmTokenUpdated) -> Iterator[tuple[Name, Value]]:
    yield Name.TOKEN_UPDATED, True
    yield Name.AWAITING_CONFIGURATION, data.awaiting_configuration is True
    if data.awaiting_configuration:
        yield Name.IN_SETUP_ASSISTANT, True
    if data.tally in (1, None):
        yield Name.ENROLLED, True
    yield from _known(data, (Name.ENROLLMENT_ID, Name.SERVER))


def _known(data: object, names: tuple[Name, ...]) -> Iterator[tuple[Name, Value]]:
    """Yield the fields of these names that are not None; versions, builds and times as texts."""
    for name in names:
        value = getattr(data, name.value)
        if value is not None:
            is_text = isinstance(value, tuple | datetime)  # a version, a build or a time
            yield name, str(value) if is_text else value
