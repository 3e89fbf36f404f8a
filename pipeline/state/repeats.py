"""Reports known by their bytes: most of a fleet's reports say what the Mac's last one said.

A report whose data is, but for figures such as free disk, that of the Mac's last one need not be
decoded: its text tells which facts it states, the Mac's state what they are.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from pipeline.state.days import heard
from pipeline.state.device import FIRST_REPORTED, INDEX, SEEN_BY, SEEN_BY_OTHERS, Device, to_us
from pipeline.state.device_folds import reported
from pipeline.state.stamps import since, tell, when
from schemas.envelope import Glance, InventoryEvent
from schemas.events.inventory import InventoryReported

_REPORT: Final = InventoryEvent.model_fields["type"].default

# Numbers as `InventoryReported` takes them, but for their upper bounds.
_NUMBERS: Final = re.compile(
    rb'("(?:free_disk_gb|battery_percent)":)((?:0|[1-9][0-9]{0,5})(?:\.[0-9]{1,16})?)(?=[,}])'
)
_NUMBERED: Final = {
    b'"free_disk_gb":': (INDEX["free_disk_gb"], 1e6),
    b'"battery_percent":': (INDEX["battery_percent"], 100.0),
}


class Said(NamedTuple):
    """A report by which its repeat is known: the hash of its data without figures, the values of
    the state it led to, and the things of `Device.stamps` that it told."""

    text: int
    values: tuple[Any, ...]
    things: int


def what_was_said(event: InventoryEvent, data: bytes, device: Device) -> Said | None:
    """How to know this report's data again, for the Mac's state right after it was folded; None if
    its repeat would have to be looked at: it was not the newest word on all it says."""
    said = reported(event.data.__dict__)
    things = SEEN_BY[event.data.source]
    for index, value in enumerate(said, FIRST_REPORTED):
        if value is None:
            continue
        if value != device.values[index]:
            return None  # another word of the same moment was taken
        things |= 1 << index
    text, figures = _split(data)
    _, same = since(device.stamps, to_us(event.time))
    if things & ~same or not _are_figures_of(event.data, figures):
        return None
    return Said(text, device.values, _as_one(things))


def repeated(seen: Glance, said: Said, device: Device) -> tuple[Device, Said, int] | None:
    """Fold a report that says again what was `said`, if it is that and nothing else was learnt
    since: the Mac's state after it as `apply_inventory` gives it, what is said now, and its time
    in us. None where it takes a decoder to know."""
    if seen.type != _REPORT or device.values is not said.values:
        return None
    text, figures = _split(bytes(seen.data))
    if text != said.text:
        return None
    us = _us_of(seen.time)
    if us is None or us <= when(device.stamps, said.things) or not seen.is_plain:
        return None
    changed = _with_figures(said.values, figures)
    if changed is None:
        return None
    days = device.inventory_days
    if said.things & SEEN_BY_OTHERS:
        days = heard(days, us)
    again = Device(device.udid, changed, tell(device.stamps, said.things, us), days)
    if changed is not said.values:
        said = Said(said.text, changed, said.things)
    return again, said, us


def _split(data: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    """The hash of a report's JSON without the numbers that move with every report, and these
    numbers by name.

    In JSON text a quote is escaped inside a string, so nothing but a key can look like one; but
    it may be another object's key: `_are_figures_of` says whether they are the report's own.
    """
    parts = _NUMBERS.split(data)
    figures = [*zip(parts[1::3], parts[2::3], strict=True)]
    del parts[2::3]
    return hash(tuple(parts)), figures


def _are_figures_of(data: InventoryReported, figures: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether these are the report's own figures, each once."""
    told = [(_NUMBERED[name][0], float(number)) for name, number in figures]
    said = reported(data.__dict__)
    own = {key: said[key - FIRST_REPORTED] for key, _ in _NUMBERED.values()}
    return sorted(told) == sorted((key, it) for key, it in own.items() if it is not None)


def _with_figures(
    values: tuple[Any, ...], figures: Iterable[tuple[bytes, bytes]]
) -> tuple[Any, ...] | None:
    """The facts with these figures: the same object if they are these; None if one is too great."""
    changed: list[Any] | None = None
    for name, number in figures:
        key, most = _NUMBERED[name]
        value = float(number)
        if value > most:
            return None
        if value != values[key]:
            changed = list(values) if changed is None else changed
            changed[key] = value
    return values if changed is None else tuple(changed)


@lru_cache(maxsize=4096)
def _as_one(things: int) -> int:
    """The same, as one object for all Macs whose reports tell the same things."""
    return things


def _us_of(time: str) -> int | None:
    """An event's time, if it is one that needs no second look."""
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        return None
    return None if moment.tzinfo is None else to_us(moment)
