"""Earlier host names and serial numbers of a Mac: kept in any order of reports, a few of them."""

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.compact.device_row import DeviceRow, device_of_row
from pipeline.state.device import Device
from pipeline.state.device_folds import merge
from pipeline.state.earlier_values import KEPT_VALUES
from tests.factories import HOUR, NOW, UDID, with_report

NAMES = st.sampled_from(["lon-1", "lon-2", "blr-3", "Annas-MacBook", "tyo-4", "x", "y"])
REPORTS = st.lists(st.tuples(st.integers(0, 9), NAMES, st.none() | NAMES), max_size=12)


def folded(reports: list[tuple[int, str, str | None]]) -> Device:
    device = Device(UDID)
    for hours, name, serial in reports:
        device = with_report(device, NOW + hours * HOUR, hostname=name, serial=serial)
    return device


def names(device: Device) -> list[str]:
    return [name for name, _ in device.earlier_hostnames or ()]


def test_earlier_names_are_kept_newest_first() -> None:
    device = folded([(0, "lon-1", None), (1, "blr-3", None), (2, "x", None)])
    assert (device.hostname, names(device)) == ("x", ["blr-3", "lon-1"])
    again = with_report(device, NOW + 3 * HOUR, hostname="lon-1")
    assert (again.hostname, names(again)) == ("lon-1", ["x", "blr-3"])


def test_mac_that_was_never_renamed_has_no_earlier_names() -> None:
    device = folded([(0, "lon-1", "C1"), (1, "lon-1", "C1")])
    assert (device.earlier_hostnames, device.earlier_serials) == (None, None)
    assert "earlier_hostnames" not in device.to_wire()["facts"]


def test_late_report_of_an_earlier_name_does_not_replace_the_present_one() -> None:
    device = folded([(5, "x", None), (1, "blr-3", None)])
    assert (device.hostname, names(device)) == ("x", ["blr-3"])


@given(REPORTS, st.randoms(use_true_random=False))
def test_order_and_repeats_of_reports_change_nothing(
    reports: list[tuple[int, str, str | None]], random: Any
) -> None:
    shuffled = [*reports, *reports]
    random.shuffle(shuffled)
    device, other = folded(reports), folded(shuffled)
    assert device == other
    assert len(device.earlier_hostnames or ()) <= KEPT_VALUES


@given(REPORTS, REPORTS)
def test_records_of_one_mac_are_merged_as_one_record_would_be(
    ours: list[tuple[int, str, str | None]], theirs: list[tuple[int, str, str | None]]
) -> None:
    assert merge(folded(ours), folded(theirs)) == folded([*ours, *theirs])


@given(REPORTS)
def test_stored_state_is_read_back_equal(reports: list[tuple[int, str, str | None]]) -> None:
    device = folded(reports)
    raw = msgspec.json.encode(device.to_wire())
    assert Device.from_wire(msgspec.json.decode(raw)) == device
    assert device_of_row(UDID, msgspec.json.decode(raw, type=DeviceRow)) == device
