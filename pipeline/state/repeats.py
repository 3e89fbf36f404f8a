"""Reports known at a glance: most of a fleet's reports say what the Mac's last one said.

A report that says, but for figures such as free disk, what the Mac's last one said need not be
decoded: a hash of its texts tells that it does.
"""

from datetime import datetime
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from pipeline.state.days import heard
from pipeline.state.device import FIRST_REPORTED, INDEX, SEEN_BY, SEEN_BY_OTHERS, Device, to_us
from pipeline.state.device_folds import reported
from pipeline.state.stamps import since, tell_again
from schemas.envelope import InventoryEvent
from schemas.glance import FIGURES, Glance

_FACTS: Final = slice(-len(FIGURES))
_FIGURES: Final = slice(-len(FIGURES), None)
_FREE_DISK, _BATTERY = (INDEX[name] for name in FIGURES)
_TELLS_FREE_DISK, _TELLS_BATTERY = 1 << _FREE_DISK, 1 << _BATTERY
_MOST_DISK_GB: Final = 1e6
_MOST_BATTERY: Final = 100.0


def remembering(event: InventoryEvent, seen: Glance, device: Device) -> Device:
    """The Mac's state right after this report was folded, with what its repeat is known by;
    without, if its repeat would have to be looked at: it was not the newest word on all it says."""
    things, values = SEEN_BY[event.data.source], device.values
    for index, value in enumerate(reported(event.data.__dict__), FIRST_REPORTED):
        if value is None:
            continue
        if value != values[index]:
            return forgetting(device)  # another word of the same moment was taken
        things |= 1 << index
    _, same = since(device.stamps, to_us(event.time))
    if things & ~same:
        return forgetting(device)
    text = hash(seen.facts()[_FACTS])
    if (text, things) == (device.said_text, device.said_things):
        return device
    return replace(device, said_text=text, said_things=_as_one(things))


def forgetting(device: Device) -> Device:
    """The Mac's state without anything a repeat is known by."""
    return replace(device, said_text=0, said_things=0) if device.said_things else device


def repeated(seen: Glance, device: Device) -> tuple[Device, int] | None:
    """Fold a report that says again what the Mac's newest one said: the state after it, as
    `apply_inventory` gives it, and its time in us. None where it takes a decoder to know."""
    things, values = device.said_things, device.values
    if not things:
        return None
    facts = seen.facts()
    free_disk, battery = facts[_FIGURES]
    if hash(facts[_FACTS]) != device.said_text or (
        (free_disk is None) is bool(things & _TELLS_FREE_DISK)
        or (battery is None) is bool(things & _TELLS_BATTERY)
    ):
        return None
    us = _us_of(seen.time)
    stamps = tell_again(device.stamps, things, us)
    if stamps is None:
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
    if things & SEEN_BY_OTHERS:
        days = heard(days, us)
    return Device(device.udid, values, stamps, days, device.said_text, things), us


@lru_cache(maxsize=4096)
def _as_one(things: int) -> int:
    """The same, as one object for all Macs whose reports tell the same things."""
    return things


def _us_of(time: str) -> int:
    """An event's time; 0, which is before all that was told, if it needs a second look."""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return 0
    return 0 if moment.tzinfo is None else to_us(moment)
