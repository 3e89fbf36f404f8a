"""Recognise a report that repeats the Mac's newest report, without decoding it.

Most reports of a fleet differ from the Mac's previous report only in time and telemetry such as
free disk space. A hash of the other fields identifies them.
"""

from datetime import datetime
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from pipeline.state.compact.seen_days import add_day
from pipeline.state.compact.timestamps import changed_since, newest_bits, record_if_newer
from pipeline.state.device import INDEX, SEEN_BY, SEEN_BY_OTHERS, Device, to_us
from pipeline.state.device_folds import reported_values
from schemas.envelope import InventoryEvent
from schemas.fast.report_peek import TELEMETRY_FIELDS, ReportPeek

_STABLE_FIELDS: Final = slice(-len(TELEMETRY_FIELDS))
_TELEMETRY: Final = slice(-len(TELEMETRY_FIELDS), None)
_FREE_DISK, _BATTERY = (INDEX[name] for name in TELEMETRY_FIELDS)
_HAS_FREE_DISK, _HAS_BATTERY = 1 << _FREE_DISK, 1 << _BATTERY
_MOST_DISK_GB: Final = 1e6
_MOST_BATTERY: Final = 100.0


def remember_report(event: InventoryEvent, peek: ReportPeek, device: Device) -> Device:
    """Return the state with the hash of this report, so that a repeat is recognised.

    `device` must be the state right after the fold of this report, and `peek` the peek at its
    bytes. The state has no hash if the report is not the newest of every field in it: a repeat must
    then be decoded.
    """
    bits, values = SEEN_BY[event.data.source], device.values
    for index, value in reported_values(event.data):
        if value is None:
            continue
        if value != values[index]:
            return forget_report(device)  # a newer report, or one of the same time, won this field
        bits |= 1 << index
    _, same = changed_since(device.timestamps, to_us(event.time))
    if bits & ~same:
        return forget_report(device)
    return _with_hash(peek, bits, device)


def remember_newest_report(peek: ReportPeek, device: Device) -> Device:
    """Return `remember_report` for a report that is newer than all that the Mac sent before it.

    Then each of its values is in the state, and the newest entry of the timestamps has its bits.
    """
    return _with_hash(peek, newest_bits(device.timestamps), device)


def _with_hash(peek: ReportPeek, bits: int, device: Device) -> Device:
    text = hash(peek.values()[_STABLE_FIELDS])
    if (text, bits) == (device.report_hash, device.report_fields):
        return device
    return replace(device, report_hash=text, report_fields=_intern(bits))


def forget_report(device: Device) -> Device:
    """Return the state without the hash of the Mac's newest report; the same object if it has none.

    The next report of the Mac is then decoded, even if it is a repeat.
    """
    return replace(device, report_hash=0, report_fields=0) if device.report_fields else device


def apply_duplicate(peek: ReportPeek, device: Device) -> tuple[Device, int] | None:
    """Fold a report that repeats the Mac's newest report, without decoding it.

    Returns the state that `apply_inventory` gives, and the report's time in us. None if the caller
    must decode the report: `device` has no hash or another one, the report is not newer, it has
    other telemetry fields than the report of the hash, or its time or telemetry is invalid.
    """
    bits, values = device.report_fields, device.values
    if not bits:
        return None
    reported = peek.values()
    free_disk, battery = reported[_TELEMETRY]
    if hash(reported[_STABLE_FIELDS]) != device.report_hash or (
        (free_disk is None) is bool(bits & _HAS_FREE_DISK)
        or (battery is None) is bool(bits & _HAS_BATTERY)
    ):
        return None
    us = _us_of(peek.time)
    timestamps = record_if_newer(device.timestamps, bits, us)
    if timestamps is None:
        return None
    if free_disk is None:
        free_disk = values[_FREE_DISK]
    elif not 0 <= free_disk <= _MOST_DISK_GB:
        return None
    if battery is None:
        battery = values[_BATTERY]
    elif not 0 <= battery <= _MOST_BATTERY:
        return None
    if free_disk != values[_FREE_DISK] or battery != values[_BATTERY]:
        values = (*values[:_FREE_DISK], free_disk, battery, *values[_BATTERY + 1 :])
    days = device.inventory_days
    if bits & SEEN_BY_OTHERS:
        days = add_day(days, us)
    return Device(device.udid, values, timestamps, days, device.report_hash, bits), us


@lru_cache(maxsize=4096)
def _intern(bits: int) -> int:
    """Return the same integer, as one object for all Macs whose reports have equal fields."""
    return bits


def _us_of(time: str) -> int:
    """Return the time in us since 1970; 0 for text that is not a time with a UTC offset.

    0 is older than any report, so the report is decoded.
    """
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return 0
    return 0 if moment.tzinfo is None else to_us(moment)
