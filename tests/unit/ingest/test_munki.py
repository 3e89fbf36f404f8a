"""Translation of Munki's ManagedInstallReport."""

import plistlib
from datetime import datetime
from typing import Any

import pytest

from tests.unit.ingest.device_bodies import (
    RECEIVED_AT,
    fields_of,
    kept,
    munki_report,
    plist,
    reasons,
    translate,
)
from tests.unit.ingest.hostile_payloads import MACHINE

FIELDS = {
    "serial": "C02FAKE00001",
    "os_version": "26.2",
    "build": "25C56",
    "model": "Mac15,12",
    "device_id": "J613AP",
    "hostname": "fake-mac-01",
    "apple_silicon": True,
}


def test_a_report_is_identified_by_its_serial_number() -> None:
    translation = translate("munki", munki_report(MACHINE))
    assert reasons(translation) == []
    (event,) = translation.events
    assert event.subject == "serial:C02FAKE00001"
    assert fields_of(translation) == FIELDS


def test_a_binary_report_gives_the_same_event() -> None:
    raw = plist({"MachineInfo": MACHINE}, plistlib.FMT_BINARY)
    assert fields_of(translate("munki", raw)) == FIELDS


@pytest.mark.parametrize(
    ("machine", "field", "value"),
    [
        ({"machine_model": "UNKNOWN"}, "model", None),
        ({"device_id": "J614sAP"}, "device_id", "J614sAP"),
        ({"device_id": "Mac-937A206F2EE63C01"}, "device_id", None),
        ({"arch": "x86_64"}, "apple_silicon", None),
        ({"os_vers": "15.7", "os_build_number": "24G222"}, "os_version", "15.7"),
    ],
    ids=["unknown-model", "device-id", "board-id", "rosetta", "version"],
)
def test_only_what_is_certain_is_reported(machine: dict[str, str], field: str, value: Any) -> None:
    translation = translate("munki", munki_report({**MACHINE, **machine}))
    assert reasons(translation) == []
    assert fields_of(translation).get(field) == value


@pytest.mark.parametrize(
    ("kilobytes", "free"), [(97_656_250, 100.0), (1, 0.0), (0, None)], ids=["much", "none", "error"]
)
def test_disk_space_is_in_kb_of_1024_bytes(kilobytes: int, free: float | None) -> None:
    found = fields_of(translate("munki", munki_report(MACHINE, AvailableDiskSpace=kilobytes)))
    assert found.get("free_disk_gb") == free


ENDED = datetime(2026, 11, 23, 10, 5)  # noqa: DTZ001 - a plist's date has no zone


@pytest.mark.parametrize(
    ("times", "time"),
    [
        ({"EndTime": ENDED}, "2026-11-23T10:05:00+00:00"),
        ({"StartTime": "2026-11-23 12:00:00 +0200"}, "2026-11-23T10:00:00+00:00"),
        (
            {"StartTime": "2026-11-23 10:00:00 +0000", "EndTime": "2026-11-23 10:05:00 +0000"},
            "2026-11-23T10:05:00+00:00",
        ),
        ({}, RECEIVED_AT.isoformat()),
        ({"EndTime": ENDED.replace(year=2099)}, RECEIVED_AT.isoformat()),
        ({"EndTime": ENDED.replace(year=1970)}, RECEIVED_AT.isoformat()),
        ({"EndTime": ENDED.replace(year=1)}, RECEIVED_AT.isoformat()),
    ],
    ids=["date", "text-with-zone", "both", "neither", "future", "flat-battery", "year-one"],
)
def test_the_end_of_the_run_dates_the_report(times: dict[str, Any], time: str) -> None:
    translation = translate("munki", munki_report(MACHINE, **times))
    assert reasons(translation) == []
    assert translation.events[0].time.isoformat() == time


@pytest.mark.parametrize(
    ("raw", "code", "location"),
    [
        (plist({"CommandUUID": "x"}), "unknown_type", "plist: root"),
        (plist(["x"]), "unknown_type", "plist: root"),
        (munki_report({}), "no_device", "plist: MachineInfo.serial_number"),
        (
            munki_report({"serial_number": "UNKNOWN"}),
            "no_device",
            "plist: MachineInfo.serial_number",
        ),
        (b"{}", "not_plist", ""),
    ],
    ids=["other-plist", "list", "empty", "placeholder", "json"],
)
def test_any_other_body_is_a_dead_letter_with_its_path(
    raw: bytes, code: str, location: str
) -> None:
    translation = translate("munki", raw)
    assert (reasons(translation), translation.events) == ([(code, location)], ())


def test_an_invalid_time_is_a_dead_letter() -> None:
    translation = translate("munki", munki_report(MACHINE, EndTime="yesterday"))
    assert reasons(translation) == [("bad_value", "plist: EndTime")]
    assert translation.events[0].time == RECEIVED_AT


def test_the_report_is_kept_without_secrets() -> None:
    raw = munki_report(MACHINE, Conditions={"password": "hunter2hunter2"})
    (event,) = translate("munki", raw).events
    assert event.rawmediatype == "application/x-plist"
    assert b"hunter2" not in (kept(event) or b"hunter2")
