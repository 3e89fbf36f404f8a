"""A Mac's state: the newest value of each field, and the properties derived from it."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from pipeline.state.device import Device, from_us, to_us
from pipeline.state.device_folds import (
    apply_authenticated,
    apply_bootstrap_token,
    apply_checked_out,
    apply_command_reported,
    apply_ddm_status,
    apply_inventory,
    apply_token_updated,
    merge,
)
from schemas.events.checkin import (
    BootstrapTokenSet,
    DdmStatusReported,
    MdmAuthenticated,
    MdmCheckedOut,
    MdmCommandReported,
    MdmTokenUpdated,
)
from schemas.events.inventory import InventoryReported
from schemas.macos import parse_build, parse_os_version
from tests.factories import DAY, HOUR, NOW, UDID, mac, with_report

US = to_us(NOW)


def test_newest_report_of_each_field_wins() -> None:
    device = with_report(mac(None), NOW - HOUR, "jamf", hostname="new", os_version="26.1")
    device = with_report(device, NOW - 2 * HOUR, "osquery", hostname="old", firmware="1.0")
    assert (device.hostname, device.firmware, str(device.os_version)) == ("new", "1.0", "26.1")


def test_build_reported_before_the_version_is_unknown() -> None:
    device = with_report(
        with_report(Device(UDID), NOW - DAY, build="25B78"), NOW, os_version="26.2"
    )
    assert device.build is None
    assert with_report(device, NOW, build="25C56").build is not None


def test_a_report_without_new_values_keeps_the_same_values_object() -> None:
    device = mac()
    later = with_report(device, NOW, hostname=device.hostname)
    assert later.values is device.values
    assert later.last_seen_us == US
    assert with_report(later, NOW - HOUR, model="Mac15,12") is later


def test_equal_times_in_other_zones_are_the_same_bytes() -> None:
    tokyo = timezone(timedelta(hours=9))
    one = with_report(Device(UDID), NOW, boot_at=NOW - HOUR)
    two = with_report(Device(UDID), NOW, boot_at=(NOW - HOUR).astimezone(tokyo))
    assert one.to_wire() == two.to_wire()


CHECKINS = [
    pytest.param([], False, False, False, id="nothing-known"),
    pytest.param([("auth", 0)], False, True, False, id="began"),
    pytest.param([("auth", 0), ("token", 1)], True, False, False, id="enrolled"),
    pytest.param([("auth", 30), ("token", 0)], True, False, False, id="webhooks-in-wrong-order"),
    pytest.param([("auth", 90), ("token", 0)], False, True, False, id="began-again"),
    pytest.param([("auth", 0), ("token", 1), ("out", 2)], False, False, True, id="checked-out"),
    pytest.param([("out", 0), ("auth", 1), ("token", 2)], True, False, False, id="came-back"),
    pytest.param([("token", 0)], True, False, False, id="enrolled-before-the-event-log"),
]


@pytest.mark.parametrize(("steps", "is_enrolled", "enrolling", "is_out"), CHECKINS)
def test_enrollment_follows_from_the_times_of_checkins(
    steps: list[tuple[str, int]], is_enrolled: bool, enrolling: bool, is_out: bool
) -> None:
    for order in (steps, steps[::-1]):
        device = Device(UDID)
        for kind, seconds in order:
            us = US + seconds * 1_000_000
            if kind == "auth":
                device = apply_authenticated(device, MdmAuthenticated(udid=UDID), us)
            elif kind == "token":
                device = apply_token_updated(device, MdmTokenUpdated(udid=UDID), us)
            else:
                device = apply_checked_out(device, MdmCheckedOut(udid=UDID), us)
        assert (device.enrolled, device.enrolling, device.checked_out) == (
            is_enrolled,
            enrolling,
            is_out,
        )


def _later(device: Device, minutes: int, source: str, **fields: Any) -> Device:
    return with_report(device, NOW + timedelta(minutes=minutes), source, **fields)


LOST_CHECKINS = [
    pytest.param(60, "osquery", True, False, id="an-hour-later"),
    pytest.param(59, "osquery", True, True, id="less-than-an-hour-later"),
    pytest.param(600, "osquery", False, True, id="not-enrolled"),
    pytest.param(600, "osquery", None, True, id="enrollment-not-reported"),
    pytest.param(60, "mdm", None, False, id="through-mdm"),
    pytest.param(59, "mdm", None, True, id="through-mdm-less-than-an-hour-later"),
]


@pytest.mark.parametrize(("minutes", "source", "mdm_enrolled", "is_out"), LOST_CHECKINS)
def test_reports_of_an_enrollment_replace_its_lost_checkins(
    minutes: int, source: str, mdm_enrolled: bool | None, is_out: bool
) -> None:
    device = apply_checked_out(mac(), MdmCheckedOut(udid=UDID), US)
    device = _later(device, minutes, source, serial="X", mdm_enrolled=mdm_enrolled)
    assert (device.checked_out, device.enrolled) == (is_out, not is_out)
    again = apply_checked_out(device, MdmCheckedOut(udid=UDID), US + 3600 * 11 * 1_000_000)
    assert again.checked_out


@pytest.mark.parametrize(
    ("minutes", "source", "enrolling"),
    [
        pytest.param(60, "mdm", False, id="through-mdm"),
        pytest.param(59, "mdm", True, id="through-mdm-less-than-an-hour-later"),
        pytest.param(600, "osquery", True, id="not-through-mdm"),
    ],
)
def test_contact_through_mdm_replaces_a_lost_token_update(
    minutes: int, source: str, enrolling: bool
) -> None:
    device = apply_authenticated(Device(UDID), MdmAuthenticated(udid=UDID), US)
    device = _later(device, minutes, source, serial="X", mdm_enrolled=True)
    assert (device.enrolling, device.enrolled) == (enrolling, not enrolling)


def test_a_status_report_is_incremental() -> None:
    device = apply_ddm_status(mac(), DdmStatusReported(udid=UDID, install_state="downloading"), US)
    device = apply_ddm_status(device, DdmStatusReported(udid=UDID, failure_count=2), US + 1)
    assert (device.install_state, device.failure_count) == ("downloading", 2)


def test_merged_records_have_the_newest_value_of_each_field() -> None:
    one = with_report(Device(UDID), NOW - HOUR, hostname="a", firmware="1")
    two = with_report(Device("serial:X"), NOW, "jamf", hostname="b")
    assert merge(one, two).udid == UDID
    assert (merge(one, two).hostname, merge(one, two).firmware) == ("b", "1")
    assert merge(one, two).last_seen_us == merge(two, one).last_seen_us == US


def test_fields_of_a_newer_version_are_dropped_on_read() -> None:
    wire = mac().to_wire()
    wire["facts"]["colour"] = [1, "space grey"]
    wire["seen"]["satellite"] = 2
    assert Device.from_wire(wire) == mac()


@pytest.mark.parametrize("us", [1.5, 1 << 64, "1"])
def test_row_with_an_invalid_time_is_refused(us: Any) -> None:
    wire = mac().to_wire()
    wire["facts"]["hostname"][0] = us
    with pytest.raises((ValueError, TypeError)):
        Device.from_wire(wire)


def test_row_round_trips_with_its_names() -> None:
    facts = {
        "failure_count": [US - 3, 2],
        "serial": [US - 9, "C02TEST0001"],
        "os_version": [US, "26.2"],
        "build": [US, "25C56"],
        "supervised": [US - 9, True],
        "activations": [US - 1, ["a"]],
        "boot_at": [US, "2026-01-20T11:00:00+00:00"],
        "free_disk_gb": [US, 12.5],
    }
    row = {
        "udid": UDID,
        "facts": facts,
        "seen": {"mdm": US - 9, "ddm": US - 3, "osquery": US, "admin": US - 1},
        "checkins": [US - 9, US - 8, 0],
        "inventory_days": 1342046209,
    }
    device = Device.from_wire(row)
    assert (device.to_wire(), list(device.to_wire()["facts"])) == (row, list(facts))
    assert (str(device.os_version), device.boot_at, device.checkins) == (
        "26.2",
        NOW - HOUR,
        (US - 9, US - 8, 0),
    )
    assert (device.last_seen_us, device.mdm_seen_us, device.inventory_seen_us) == (US, US - 3, US)


def test_reports_dated_1970_or_earlier_are_ignored() -> None:
    device = Device(UDID)
    assert with_report(device, datetime(1970, 1, 1, tzinfo=UTC), hostname="old") is device


@pytest.mark.parametrize(
    "time",
    [
        NOW,
        NOW.replace(microsecond=1),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ],
    ids=["now", "a-microsecond", "year-1", "year-9999"],
)
def test_microseconds_round_trip(time: datetime) -> None:
    assert from_us(to_us(time)) == time


def test_times_outside_the_calendar_become_its_limits() -> None:
    assert from_us(1 << 62) == datetime.max.replace(tzinfo=UTC)
    assert from_us(-(1 << 62)) == datetime.min.replace(tzinfo=UTC)


def test_an_administrators_report_does_not_count_as_contact() -> None:
    report = InventoryReported(source="admin", udid=UDID, site="london")
    assert apply_inventory(Device(UDID), report, US).last_seen_us == 0


def test_devices_that_differ_only_in_the_remembered_report_are_equal() -> None:
    plain, remembered = Device("MAC-1"), Device("MAC-1", report_hash=5, report_fields=3)
    assert plain == remembered
    assert not plain != remembered  # noqa: SIM202 - `!=` has a method of its own
    assert plain != Device("MAC-2")


# --- edges of the fold's laws ---


def test_greater_text_wins_between_reports_of_equal_time_in_any_order() -> None:
    for order in (("alpha", "beta"), ("beta", "alpha")):
        device = Device(UDID)
        for name in order:
            device = with_report(device, NOW, hostname=name)
        assert device.hostname == "beta"
        assert with_report(device, NOW - HOUR, hostname="zeta").hostname == "beta"


def test_mdm_report_adds_no_inventory_day() -> None:
    by_mdm = with_report(Device(UDID), NOW, "mdm", hostname="one")
    assert by_mdm.inventory_days == Device(UDID).inventory_days
    assert with_report(by_mdm, NOW, "osquery").inventory_days != by_mdm.inventory_days


def test_first_microsecond_of_1970_counts() -> None:
    report = InventoryReported(source="osquery", udid=UDID, hostname="one")
    assert apply_inventory(Device(UDID), report, 0) == Device(UDID)
    assert apply_inventory(Device(UDID), report, 1).hostname == "one"


def test_report_without_news_returns_the_same_device() -> None:
    device = with_report(Device(UDID), NOW, hostname="one")
    assert with_report(device, NOW, hostname="one") is device
    assert with_report(device, NOW - HOUR, hostname="one", serial=None) is not None


def test_authenticate_sets_the_properties_of_the_mac() -> None:
    began = MdmAuthenticated(
        udid=UDID,
        serial="C02TEST0009",
        os_version=parse_os_version("26.1"),
        build=parse_build("25B78"),
        model="Mac16,1",
        hostname="lon-9",
        enrollment_id="E-1",
        enrollment_type="Device",
        server="https://mdm.example/",
    )
    device = apply_authenticated(Device(UDID), began, US)
    assert (device.serial, str(device.os_version), str(device.build)) == (
        "C02TEST0009",
        "26.1",
        "25B78",
    )
    assert (device.model, device.hostname) == ("Mac16,1", "lon-9")
    assert (device.enrollment_id, device.enrollment_type) == ("E-1", "Device")
    assert device.mdm_server == "https://mdm.example/"
    assert device.mdm_seen_us == US


def test_later_checkins_update_enrollment_and_server() -> None:
    pushed = MdmTokenUpdated(
        udid=UDID, enrollment_id="E-2", enrollment_type="User", server="https://two.example/"
    )
    device = apply_token_updated(Device(UDID), pushed, US)
    assert (device.enrollment_id, device.enrollment_type) == ("E-2", "User")
    assert device.mdm_server == "https://two.example/"
    command = MdmCommandReported(udid=UDID, status="Idle", enrollment_id="E-3")
    for seen in (
        apply_checked_out(device, MdmCheckedOut(udid=UDID, enrollment_id="E-3"), US + 1),
        apply_command_reported(device, command, US + 1),
    ):
        assert (seen.enrollment_id, seen.mdm_seen_us) == ("E-3", US + 1)
    escrowed = apply_bootstrap_token(device, BootstrapTokenSet(udid=UDID, escrowed=True), US + 1)
    assert (escrowed.bootstrap_token_escrowed, escrowed.mdm_seen_us) == (True, US + 1)


def test_a_newer_report_wins_whatever_its_text() -> None:
    device = Device(UDID)
    for number, state in enumerate(("waiting", "downloading", "installing", "failed")):
        device = apply_ddm_status(
            device, DdmStatusReported(udid=UDID, install_state=state), US + number
        )
        assert device.install_state == state


@pytest.mark.parametrize(
    ("version", "build", "expected"),
    [("16.2", "25C56", "26.2"), ("15.7.3", "25C56", None), ("16.2", None, None)],
)
def test_every_report_of_a_version_is_compared_with_its_build(
    version: str, build: str | None, expected: str | None
) -> None:
    """The version of a report that contradicts itself does not replace the known one."""
    fields = {"udid": UDID, "os_version": version, "build": build}
    start, us = mac(None, build=None), to_us(NOW)
    found = [
        apply_inventory(start, InventoryReported(source="other", **fields), us),
        apply_authenticated(start, MdmAuthenticated(**fields), us),
        apply_ddm_status(start, DdmStatusReported(**fields), us),
    ]
    assert [device.os_version and str(device.os_version) for device in found] == [expected] * 3
    assert {device.build and str(device.build) for device in found} == {build}
