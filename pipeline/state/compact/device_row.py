"""Read stored rows of Macs fast: typed structs instead of dictionaries, and shared texts.

A worker reads up to a million rows at its start; building dictionaries takes most of that time.
Equal texts of many Macs become one object, which saves memory.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from pipeline.state.compact.timestamps import pack_timestamps
from pipeline.state.device import CHECKIN, FIELDS, INDEX, SEEN_BY, SOURCES, Device
from pipeline.state.wire_values import FROM_WIRE

_FieldsRow = msgspec.defstruct(
    "_FieldsRow", [(name, tuple[int, Any] | None, None) for name in FIELDS], gc=False
)
_Seen = msgspec.defstruct("_Seen", [(name, int, 0) for name in SOURCES], gc=False)


class DeviceRow(msgspec.Struct, gc=False):
    """The decoded form of `Device.to_wire`."""

    # The key of stored rows and decision records; the word of the code is fields.
    facts: _FieldsRow  # type: ignore[valid-type]
    seen: _Seen  # type: ignore[valid-type]
    checkins: tuple[int, int, int]
    inventory_days: int = 0


_astuple: Final[Callable[[Any], tuple[Any, ...]]] = msgspec.structs.astuple
_FIELD_BITS: Final = tuple(1 << index for index in range(len(FIELDS)))
_SEEN_AND_CHECKINS: Final = (*SEEN_BY.values(), *CHECKIN)
_READERS: Final = tuple((INDEX[name], read) for name, read in FROM_WIRE.items())
# Fields that have the same text on many Macs.
_SHARED_TEXTS: Final = tuple(
    INDEX[name]
    for name in (
        *("model", "device_id", "site", "firmware"),
        *("mdm_server", "enrollment_type", "install_state"),
    )
)


def device_of_row(udid: str, row: DeviceRow, share: Callable[[str], str] = str) -> Device:
    """Return the Device of a decoded row, as `Device.from_wire` does.

    `share` gets a text and returns an equal one, so that Macs with equal values can share one
    object. Raises ValueError or TypeError for a value that no version wrote.
    """
    values: list[Any] = []
    bits_by_us: dict[int, int] = {}
    push, get, last, bits = values.append, bits_by_us.get, 0, 0
    for given, bit in zip(_astuple(row.facts), _FIELD_BITS, strict=False):
        if given is None:
            push(None)
            continue
        us, value = given
        push(value)
        if us != last:  # most fields have the time of the field before
            bits_by_us[last] = get(last, 0) | bits
            last, bits = us, 0
        bits |= bit
    bits_by_us[last] = get(last, 0) | bits
    for at, read in _READERS:
        value = values[at]
        if value is not None:
            values[at] = read(value)
    for at in _SHARED_TEXTS:
        value = values[at]
        if isinstance(value, str):
            values[at] = share(value)
    for us, bit in zip(_astuple(row.seen) + row.checkins, _SEEN_AND_CHECKINS, strict=False):
        if us:
            bits_by_us[us] = get(us, 0) | bit
    timestamps = pack_timestamps([one for one in bits_by_us.items() if one[0] > 0 and one[1]])
    return Device(udid, tuple(values), timestamps, row.inventory_days)
