"""Comparison of the state that a store keeps with the state folded from its events."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pipeline.replay.differences import ABSENT, FieldDifference, first_difference
from pipeline.replay.log import UNREADABLE, StateReader
from pipeline.state.device import Device
from pipeline.state.fleet import Fleet
from pipeline.state.jobs import JobEntry


def stored_state_difference(state: StateReader, fleet: Fleet) -> tuple[str, FieldDifference] | None:
    """Return the UDID of the first Mac with a difference, and that difference.

    None if all states are equal. Devices are compared first, then job histories. `left` is the
    stored value, `right` the folded one. A stored state that cannot be read is a difference.
    """
    sides: Iterator[tuple[str, Iterable[tuple[str, bytes]], Mapping[str, Any], _Reread]] = iter(
        (
            (
                "state.device",
                state.devices(),
                {udid: device.to_wire() for udid, device in fleet.devices.items()},
                lambda wire: Device.from_wire(wire).to_wire(),
            ),
            (
                "state.job_history",
                state.job_histories(),
                {
                    udid: [entry.to_wire() for entry in history]
                    for udid, history in fleet.job_histories.items()
                },
                lambda wire: [JobEntry.from_wire(entry).to_wire() for entry in wire],
            ),
        )
    )
    for path, kept, folded, reread in sides:
        found = next(_differences(path, kept, folded, reread), None)
        if found is not None:
            return found
    return None


_Reread = Callable[[Any], Any]


def _differences(
    path: str, kept: Iterable[tuple[str, bytes]], folded: Mapping[str, Any], reread: _Reread
) -> Iterator[tuple[str, FieldDifference]]:
    """Yield the UDID and the first difference of each Mac whose stored and folded state differ.

    `path` is the prefix of the paths; `reread` brings stored JSON into the form of this version. A
    stored state that cannot be read differs.
    """
    seen = set()
    for udid, body in kept:
        seen.add(udid)
        # As this version writes it: nothing to read, the usual case.
        if body == json.dumps(folded.get(udid), separators=(",", ":")).encode():
            continue
        try:
            wire = reread(json.loads(body))
        except UNREADABLE as error:
            yield (
                udid,
                FieldDifference(path, f"cannot be read: {error!r}", "a state that can be read"),
            )
            continue
        difference = first_difference(wire, folded.get(udid, ABSENT), path)
        if difference is not None:
            yield udid, difference
    for udid in folded:
        if udid not in seen:
            yield udid, FieldDifference(path, ABSENT, "a state")
