"""Two statements about one system: the build decides which version is right, in every source."""

import json
from typing import Any

import pytest

from tests.unit.ingest.device_bodies import (
    command_response,
    fields_of,
    jamf,
    munki_report,
    osquery_added,
    reasons,
    status_report,
    translate,
)

PARTS = ("major", "minor", "patch")


def row(version: str | None, build: str | None, parts: str = "") -> dict[str, str]:
    """Return a row of osquery's os_version, with the parts of the version `parts`."""
    columns = {"platform": "darwin", "version": version, "build": build}
    split = dict(zip(PARTS, parts.split("."), strict=False)) if parts else {}
    return {name: text for name, text in {**columns, **split}.items() if text is not None}


@pytest.mark.parametrize(
    ("version", "build", "parts", "want"),
    [
        ("26.6", "25G72", "26.6.0", "26.6"),
        ("16.6", "25G72", "16.6.0", "26.6"),
        ("16.6.1", "25G76", "", "26.6.1"),
        ("24.6.0", "24G90", "15.6.1", "15.6.1"),
        (None, "25G76", "26.6.1", "26.6.1"),
        ("", "25G76", "26.6.1", "26.6.1"),
        ("26.6", None, "26.6", "26.6"),
        ("16.4", None, "26.4", "26.4"),
        ("10.15.7", "19H15", "", "10.15.7"),
        ("26.6", "25G72", "24.6.0", "26.6"),
        ("27.0", "26A428", "", "27.0"),
    ],
)  # fmt: skip
def test_the_version_of_the_builds_train_is_used(
    version: str | None, build: str | None, parts: str, want: str
) -> None:
    translation = translate("osquery", osquery_added("os_version", row(version, build, parts)))
    assert reasons(translation) == []
    assert fields_of(translation).get("os_version") == want
    assert fields_of(translation).get("build") == build


@pytest.mark.parametrize(
    ("version", "build", "parts"),
    [
        ("10.16", "20C69", "10.16.0"),
        ("24.6.0", "24G90", ""),
        ("15.6.1", "25G72", ""),
        ("26.6", "24G90", "26.6.0"),
        ("16.6", None, ""),
        ("10.16", None, ""),
        ("25.6", None, "25.6.0"),
        ("26.5", "25G72", "26.6.0"),
        ("26.5", None, "26.6.0"),
        ("16.6", "24G90", ""),
    ],
)  # fmt: skip
def test_no_version_is_better_than_a_wrong_one(version: str, build: str | None, parts: str) -> None:
    translation = translate("osquery", osquery_added("os_version", row(version, build, parts)))
    assert reasons(translation) == [("bad_value", "$.columns.version")]
    assert "os_version" not in fields_of(translation)
    assert fields_of(translation).get("build") == build


def pending(version: str, build: str) -> dict[str, Any]:
    return {"softwareupdate": {"pending-version": {"os-version": version, "build-version": build}}}


def system(version: str, build: str) -> dict[str, Any]:
    return {"device": {"operating-system": {"version": version, "build-version": build}}}


@pytest.mark.parametrize(
    ("source", "raw", "kind", "name", "where"),
    [
        (
            "nanomdm",
            command_response({"QueryResponses": {"OSVersion": "10.16", "BuildVersion": "20C69"}}),
            "inventory.reported",
            "os_version",
            "plist: QueryResponses.OSVersion",
        ),
        (
            "nanomdm",
            status_report({"StatusItems": system("15.7", "25G72")}),
            "mdm.ddm_status_reported",
            "os_version",
            "plist: Data.StatusItems.device.operating-system.version",
        ),
        (
            "nanomdm",
            status_report({"StatusItems": pending("15.7", "25G72")}),
            "mdm.ddm_status_reported",
            "pending_version",
            "plist: Data.StatusItems.softwareupdate.pending-version.os-version",
        ),
        (
            "jamf",
            jamf(
                "ComputerInventoryCompleted",
                {"serialNumber": "C02FAKE00001", "osVersion": "10.16", "osBuild": "20C69"},
            ),
            "inventory.reported",
            "os_version",
            "$.event.osVersion",
        ),
        (
            "munki",
            munki_report(
                {"serial_number": "C02FAKE00001", "os_vers": "24.6.0", "os_build_number": "24G90"}
            ),
            "inventory.reported",
            "os_version",
            "plist: MachineInfo.os_vers",
        ),
    ],
    ids=["mdm", "ddm-system", "ddm-pending", "jamf", "munki"],
)
def test_every_source_compares_version_and_build(
    source: str, raw: bytes, kind: str, name: str, where: str
) -> None:
    translation = translate(source, raw)
    assert reasons(translation) == [("bad_value", where)]
    assert name not in fields_of(translation, kind)
    assert fields_of(translation, kind)[
        name.replace("os_version", "build").replace("_version", "_build")
    ]


@pytest.mark.parametrize(
    ("machine", "want"),
    [
        ({"os_vers_major": 26, "os_vers_minor": 6, "os_vers_patch": 1}, "26.6.1"),
        ({"os_vers_major": "26", "os_vers_minor": "6"}, "26.6"),
        (
            {"os_vers": "16.6.1", "os_vers_major": 26, "os_vers_minor": 6, "os_vers_patch": 1},
            "26.6.1",
        ),
        ({"os_vers": "26.6.1", "os_vers_major": 26, "os_vers_minor": 6}, "26.6.1"),
        (
            {"os_vers": "25.6.0", "os_vers_major": 26, "os_vers_minor": 6, "os_vers_patch": 1},
            "26.6.1",
        ),
    ],
    ids=["parts", "text", "older-sdk", "no-patch", "kernel"],
)
def test_munki_reports_a_version_in_parts(machine: dict[str, Any], want: str) -> None:
    known = {"serial_number": "C02FAKE00001", "os_build_number": "25G76"}
    translation = translate("munki", munki_report(known | machine))
    assert reasons(translation) == []
    assert fields_of(translation)["os_version"] == want


@pytest.mark.parametrize("value", ["26.10", "26.1", "1e1"])
def test_a_number_is_no_version(value: str) -> None:
    raw = osquery_added("os_version", row("26.6", "25G72"))
    number = raw.replace(b'"26.6"', value.encode())
    translation = translate("osquery", number)
    assert reasons(translation) == [
        ("bad_shape", "$.columns.version"),
    ]
    assert fields_of(translation) == {"build": "25G72"}


def test_a_number_is_a_problem_in_a_snapshot_too() -> None:
    rows = [{"version": 26.1, "build": "25G72", "platform": "darwin"}]
    body = json.loads(osquery_added("os_version", {}, action="snapshot", snapshot=rows))
    del body["columns"]
    translation = translate("osquery", json.dumps(body).encode())
    assert reasons(translation) == [("bad_shape", "$.snapshot[0].version")]
