"""Translation of osquery's result log."""

import json
from typing import Any

import pytest

from pipeline.ingest.osquery import MAX_RESULTS, translate_lines
from tests.unit.ingest.device_bodies import (
    RECEIVED_AT,
    REDACTOR,
    UDID,
    fields_of,
    kept,
    osquery_added,
    reasons,
    translate,
)
from tests.unit.ingest.hostile_payloads import OS_ROW, SYSTEM_ROW

OS_FIELDS = {"os_version": "26.2", "build": "25C56", "apple_silicon": True}
NAMED_ROW = {"version": "26.2", "build": "25C56", "arch": "arm64"}
ZERO_UUID = "00000000-0000-0000-0000-000000000000"
SYSTEM_FIELDS = {
    "serial": "C02FAKE00001",
    "model": "Mac15,12",
    "hostname": "fake-mac-01",
    "apple_silicon": True,
}


def result(**fields: Any) -> bytes:
    return json.dumps({"hostIdentifier": UDID, "unixTime": 1795457865, **fields}).encode()


@pytest.mark.parametrize(
    "raw",
    [
        osquery_added("os_version", OS_ROW),
        result(name="pack_it_os_version", action="snapshot", snapshot=[OS_ROW]),
        result(name="inventory", diffResults={"added": [OS_ROW], "removed": ""}),
        result(name="inventory", diffResults={"added": [OS_ROW], "removed": [OS_ROW]}),
        osquery_added("pack/Global/os_version", NAMED_ROW),
        json.dumps([json.loads(osquery_added("os_version", OS_ROW))]).encode(),
        json.dumps(
            {
                "node_key": "k" * 20,
                "log_type": "result",
                "data": [json.loads(osquery_added("os_version", OS_ROW))],
            }
        ).encode(),
    ],
    ids=["added", "snapshot", "batch", "batch-pair", "by-name", "array", "tls-logger"],
)  # fmt: skip
def test_every_shape_of_result_is_read(raw: bytes) -> None:
    translation = translate("osquery", raw)
    assert reasons(translation) == []
    assert fields_of(translation) == OS_FIELDS
    (event,) = translation.events
    assert (event.subject, event.time.isoformat()) == (UDID, "2026-11-23T18:17:45+00:00")


@pytest.mark.parametrize(
    ("name", "row", "want"),
    [
        ("system_info", SYSTEM_ROW, SYSTEM_FIELDS),
        ("joined", {**OS_ROW, **SYSTEM_ROW}, {**OS_FIELDS, **SYSTEM_FIELDS}),
        (
            "os_version",
            {**OS_ROW, "version": "26.3.1", "extra": "(a)"},
            {**OS_FIELDS, "os_version": "26.3.1 (a)"},
        ),
        ("os_version", {**OS_ROW, "arch": "x86_64"}, {"os_version": "26.2", "build": "25C56"}),
        (
            "battery",
            {"percent_remaining": "81", "state": "AC Power"},
            {"battery_percent": 81.0, "on_ac_power": True},
        ),
        (
            "battery",
            {"percent_remaining": 81, "state": "Battery Power"},
            {"battery_percent": 81.0, "on_ac_power": False},
        ),
        (
            "mounts",
            {"path": "/", "blocks_available": "25000000", "blocks_size": "4096"},
            {"free_disk_gb": 102.4},
        ),
        (
            "mdm",
            {
                "enrolled": "true",
                "server_url": "https://mdm.example.org",
                "installed_from_dep": "true",
                "user_approved": "unknown",
            },
            {"mdm_enrolled": True, "mdm_server": "https://mdm.example.org", "ade_enrolled": True},
        ),
        (
            "mdm",
            {"enrolled": "false", "installed_from_dep": "", "user_approved": ""},
            {},
        ),
    ],
    ids=[
        "system", "join", "supplement", "rosetta", "ac", "battery", "disk", "mdm", "mdm-unsure",
    ],
)  # fmt: skip
def test_a_row_gives_only_certain_fields(
    name: str, row: dict[str, Any], want: dict[str, Any]
) -> None:
    translation = translate("osquery", osquery_added(name, row))
    assert reasons(translation) == []
    assert fields_of(translation) == want


def test_removed_rows_record_only_a_contact() -> None:
    raw = result(name="os_version", action="removed", columns=OS_ROW)
    assert fields_of(translate("osquery", raw)) == {}


@pytest.mark.parametrize(
    ("fields", "subject"),
    [
        ({"hostIdentifier": UDID.lower()}, UDID),
        ({"hostIdentifier": "mac.local", "decorations": {"host_uuid": UDID.lower()}}, UDID),
        (
            {"hostIdentifier": "mac.local", "decorations": {"hardware_serial": "c02fake00001"}},
            "serial:C02FAKE00001",
        ),
        (
            {
                "hostIdentifier": "22222222-2222-4222-8222-222222222222",
                "decorations": {"host_uuid": UDID},
            },
            UDID,
        ),
    ],
    ids=["host", "decoration", "serial", "decoration-before-host"],
)
def test_a_mac_is_identified_by_hardware_uuid_or_serial_number(
    fields: dict[str, Any], subject: str
) -> None:
    (event,) = translate("osquery", osquery_added("os_version", OS_ROW, **fields)).events
    assert event.subject == subject


def test_the_hardware_uuid_of_the_row_identifies_the_mac() -> None:
    raw = osquery_added("system_info", SYSTEM_ROW, hostIdentifier="mac.local")
    (event,) = translate("osquery", raw).events
    assert event.subject == UDID


@pytest.mark.parametrize(
    ("raw", "code", "location"),
    [
        (osquery_added("processes", {"pid": "1"}), "unknown_type", "$.name"),
        (osquery_added("os_version", OS_ROW, hostIdentifier="m"), "no_device", "$.hostIdentifier"),
        (
            osquery_added("os_version", OS_ROW, hostIdentifier=ZERO_UUID),
            "no_device",
            "$.hostIdentifier",
        ),
        (
            osquery_added("os_version", {**OS_ROW, "platform": "rhel", "name": "CentOS"}),
            "not_a_mac",
            "$.columns.platform",
        ),
        (
            osquery_added("os_version", {"name": "Microsoft Windows 11", "version": "10.0.22631"}),
            "not_a_mac",
            "$.columns.platform",
        ),
        (
            osquery_added(
                "system_info",
                {**SYSTEM_ROW, "hardware_vendor": "LENOVO", "hardware_model": "20XW"},
            ),
            "not_a_mac",
            "$.columns.hardware_vendor",
        ),
        (result(name="os_version"), "bad_shape", "$.action"),
        (result(name="os_version", action="added", columns=[]), "bad_shape", "$.action"),
        (b'{"severity": 0, "message": "started"}', "unknown_type", "$.name"),
        (b'{"name": ', "not_json", "line 1 column 10"),
        (b"[1]", "bad_shape", "$[0]"),
        (b"[]", "bad_shape", "$"),
        (b'{"node_key": "k", "log_type": "result", "data": []}', "bad_shape", "$"),
        (b"[" + b"1," * MAX_RESULTS + b"1]", "too_large", "$"),
    ],
    ids=[
        "other-query", "hostname", "zero-uuid", "linux", "windows", "hardware", "no-rows",
        "columns-list", "status-log", "cut", "number", "empty", "empty-log",
        "too-many",
    ],
)  # fmt: skip
def test_any_other_body_is_a_dead_letter_with_its_path(
    raw: bytes, code: str, location: str
) -> None:
    translation = translate("osquery", raw)
    assert (reasons(translation), translation.events) == ([(code, location)], ())


def test_a_dead_letter_names_the_query() -> None:
    (letter,) = translate("osquery", osquery_added("processes", {"pid": "1"})).dead_letters
    assert "processes" in letter.detail


@pytest.mark.parametrize("time", ["1795457865", 1795457865, "0", None, 4_000_000_000], ids=str)
def test_the_macs_clock_is_used_up_to_a_day_ahead(time: Any) -> None:
    (event,) = translate("osquery", osquery_added("os_version", OS_ROW, unixTime=time)).events
    plausible = str(time) == "1795457865"
    assert (event.time.isoformat() == "2026-11-23T18:17:45+00:00") == plausible
    assert plausible or event.time == RECEIVED_AT


def test_lines_are_read_one_by_one() -> None:
    lines = [osquery_added("os_version", OS_ROW), b"", b"{broken", osquery_added("x", {"a": "b"})]
    raw = b"\n".join(lines) + b"\n"
    assert [code for code, _ in reasons(translate("osquery", raw))] == ["not_json", "unknown_type"]
    found = translate_lines(
        iter(raw.splitlines(keepends=True)),
        origin="osqueryd.results.log",
        received_at=RECEIVED_AT,
        redactor=REDACTOR,
    )
    translations = list(found)
    assert [len(one.events) for one in translations] == [1, 0, 0]
    origins = [letter.origin for one in translations for letter in one.dead_letters]
    assert origins == ["osqueryd.results.log:3", "osqueryd.results.log:4"]


def test_a_result_is_the_same_event_alone_and_in_an_array() -> None:
    raw = osquery_added("os_version", OS_ROW)
    (alone,) = translate("osquery", raw).events
    (listed,) = translate("osquery", b"[" + raw + b"]").events
    assert alone.id == listed.id


def test_credentials_in_columns_are_not_kept() -> None:
    raw = osquery_added("settings", {"api_key": "hunter2hunter2"})
    (letter,) = translate("osquery", raw).dead_letters
    assert b"hunter2" not in (kept(letter) or b"hunter2")
