"""A row that is decoded into structs gives the Device that a row of dictionaries gives."""

import json
import sys
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.compact.device_row import DeviceRow, device_of_row
from pipeline.state.device import FIELDS, SOURCES, Device
from tests.strategies import devices

TIMES = st.sampled_from([-1, 0, 1, 5, 1 << 40, 1.5, "1", None])
# Changes that other versions or a fault can make in a stored row: part, name and value.
CHANGES = st.one_of(
    st.tuples(
        st.just("facts"),
        st.sampled_from([*FIELDS, "colour"]),
        st.none() | st.tuples(TIMES, st.sampled_from([None, "x", "26.2", 1, True, ["a"]])),
    ),
    st.tuples(st.just("seen"), st.sampled_from([*SOURCES, "satellite"]), TIMES),
    st.tuples(st.just("checkins"), st.integers(0, 2), TIMES),
)


def _read(read: Any) -> Device | None:
    """Return the Device; None if it cannot be read."""
    try:
        device: Device = read()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return device


@given(devices())
def test_row_gives_the_device_that_was_written(device: Device) -> None:
    raw = json.dumps(device.to_wire()).encode()
    row = msgspec.json.decode(raw, type=DeviceRow)
    assert device_of_row(device.udid, row) == Device.from_wire(json.loads(raw)) == device


@given(devices(), st.lists(CHANGES, max_size=3))
def test_row_of_any_version_reads_as_a_dictionary_does(
    device: Device, changes: list[tuple[str, Any, Any]]
) -> None:
    wire = json.loads(json.dumps(device.to_wire()))
    for part, name, value in changes:
        wire[part][name] = value
    raw = json.dumps(wire).encode()
    fast = _read(lambda: device_of_row(device.udid, msgspec.json.decode(raw, type=DeviceRow)))
    plain = _read(lambda: Device.from_wire(json.loads(raw)))
    assert fast == plain
    if fast is not None and plain is not None:
        assert (fast.values, fast.timestamps) == (plain.values, plain.timestamps)


@given(devices())
def test_shared_texts_are_equal_texts(device: Device) -> None:
    raw = json.dumps(device.to_wire()).encode()
    one, other = (
        device_of_row(device.udid, msgspec.json.decode(raw, type=DeviceRow), sys.intern)
        for _ in range(2)
    )
    assert one == other == device
    assert one.model is other.model
    assert one.site is other.site
