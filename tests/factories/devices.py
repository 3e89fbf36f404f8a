"""Macs and their reports; by default a Mac is enrolled, supervised and in London."""

from datetime import datetime
from typing import Any

from pipeline.state.device import Device, to_us
from pipeline.state.device_folds import apply_authenticated, apply_inventory, apply_token_updated
from schemas.envelope import (
    AuthenticatedEvent,
    CheckedOutEvent,
    CommandReportedEvent,
    InventoryEvent,
    TokenUpdatedEvent,
)
from schemas.events.checkin import MdmAuthenticated, MdmTokenUpdated
from schemas.events.inventory import InventoryReported
from tests.factories.events import make_event
from tests.factories.times import DAY, HOUR, NOW

UDID = "5A0C7D9E-0000-4000-8000-000000000001"
# version: build, day of release
RELEASES: dict[str, tuple[str, str]] = {
    "26.2": ("25C56", "2025-12-12"),
    "26.1": ("25B78", "2025-11-03"),
    "26.0": ("25A354", "2025-09-15"),
    "15.7.3": ("24G419", "2025-12-12"),
    "15.7.2": ("24G325", "2025-11-03"),
    "14.8.3": ("23J220", "2025-12-12"),
    "14.8.2": ("23J126", "2025-11-03"),
    "13.7.8": ("22H730", "2025-08-20"),
}
MODERN: dict[str, Any] = {
    "serial": "C02TEST0001",
    "model": "Mac16,1",
    "device_id": "J604AP",
    "hostname": "lon-001",
    "site": "london",
    "supervised": True,
    "user_approved": True,
    "ade_enrolled": True,
    "bootstrap_token_escrowed": True,
    "volume_owner_available": True,
    "free_disk_gb": 200.0,
    "battery_percent": 90.0,
    "on_ac_power": True,
}


# Fields that count from some sources only.
STATED = ("ownership", "never_erase", "retired", "enrollment_id")


def build_of(version: str) -> str | None:
    """Return the build of a known release, None for another version."""
    return RELEASES[version][0] if version in RELEASES else None


def mac(
    version: str | None = "26.1",
    *,
    udid: str = UDID,
    enrolled: bool = True,
    seen_at: datetime = NOW - HOUR,
    mdm_seen_at: datetime | None = None,
    source: str = "osquery",
    **facts: Any,
) -> Device:
    """Return an enrolled, supervised M4 MacBook Pro in London; a field given as None is unknown."""
    fields = {"os_version": version, "build": build_of(version or "")} | MODERN | facts
    known = {name: value for name, value in fields.items() if value is not None}
    device = Device(udid)
    if enrolled:
        long_ago = to_us(NOW - 100 * DAY)
        device = apply_authenticated(device, MdmAuthenticated(udid=udid), long_ago)
        device = apply_token_updated(device, MdmTokenUpdated(udid=udid, tally=1), long_ago)
        poll = InventoryReported(source="mdm", udid=udid)
        device = apply_inventory(device, poll, to_us(mdm_seen_at or seen_at))
    stated = {name: known.pop(name) for name in STATED if name in known}
    report = InventoryReported.model_validate({"source": source, "udid": udid, **known})
    device = apply_inventory(device, report, to_us(seen_at))
    return with_report(device, seen_at, "admin", **stated) if stated else device


def with_report(device: Device, when: datetime, source: str = "osquery", **facts: Any) -> Device:
    """Return the Mac after one more report."""
    report = InventoryReported.model_validate({"source": source, **facts})
    return apply_inventory(device, report, to_us(when))


def reported(
    udid: str | None = UDID, when: datetime = NOW - HOUR, source: str = "osquery", **facts: Any
) -> InventoryEvent:
    """Return an inventory report with these fields alone."""
    known = {name: value for name, value in facts.items() if value is not None}
    subject = udid or f"serial:{facts.get('serial')}"
    event: InventoryEvent = make_event(
        InventoryEvent, subject, when, {"source": source, "udid": udid, **known}
    )
    return event


def full_report(
    version: str = "26.1", udid: str = UDID, when: datetime = NOW - HOUR, **facts: Any
) -> InventoryEvent:
    """Return a report with every field of `mac`."""
    fields = {"os_version": version, "build": build_of(version)} | MODERN | facts
    return reported(udid, when, **fields)


def enrolled(udid: str = UDID, when: datetime = NOW - 100 * DAY) -> tuple[Any, Any]:
    """Return the check-ins of an enrollment."""
    return (
        make_event(AuthenticatedEvent, udid, when, {"udid": udid}),
        make_event(TokenUpdatedEvent, udid, when, {"udid": udid, "tally": 1}),
    )


def polled(udid: str = UDID, when: datetime = NOW - HOUR) -> CommandReportedEvent:
    """Return the event that the Mac polled its MDM server."""
    event: CommandReportedEvent = make_event(
        CommandReportedEvent, udid, when, {"udid": udid, "status": "Idle"}
    )
    return event


def checked_out(udid: str = UDID, when: datetime = NOW - HOUR) -> CheckedOutEvent:
    """Return the event that the MDM profile was removed."""
    event: CheckedOutEvent = make_event(CheckedOutEvent, udid, when, {"udid": udid})
    return event
