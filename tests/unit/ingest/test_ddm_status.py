"""Declarative status reports in webhooks of an MDM server."""

from typing import Any

import pytest

from tests.unit.ingest.device_bodies import fields_of, kept, reasons, status_report, translate


def status(**items: Any) -> dict[str, Any]:
    translation = translate("nanomdm", status_report({"StatusItems": items, "Errors": []}))
    assert reasons(translation) == []
    found = fields_of(translation, "mdm.ddm_status_reported")
    del found["status_items"]
    return found


def test_an_undocumented_install_state_is_kept() -> None:
    assert status(softwareupdate={"install-state": "marinating"}) == {"install_state": "marinating"}


def test_an_incremental_report_gives_only_the_items_in_it() -> None:
    system = {"operating-system": {"supplemental": {"build-version": "22E772610a"}}}
    assert status(device=system) == {}


def test_a_supplement_in_a_status_report_is_part_of_the_version() -> None:
    system = {
        "version": "13.3.1",
        "build-version": "22E261",
        "supplemental": {"extra-version": "a", "build-version": "22E772610a"},
    }
    found = status(device={"operating-system": system})
    assert found == {"os_version": "13.3.1 (a)", "build": "22E772610a"}


def test_an_empty_pending_version_is_none() -> None:
    pending = {"os-version": "", "build-version": ""}
    assert status(softwareupdate={"pending-version": pending}) == {}


@pytest.mark.parametrize(
    ("report", "code", "location"),
    [
        (b"{notjson", "not_json", "plist: Data: line 1 column 2"),
        (b"", "not_json", "plist: Data: line 1 column 1"),
        (b"\xff{}", "not_utf8", "plist: Data: byte 0"),
        (b"[" * 5000, "not_json", None),
        (b"[" * 200 + b"]" * 200, "too_deep", "plist: Data"),
        ([1], "bad_shape", "plist: Data"),
    ],
    ids=["no-json", "empty", "no-utf8", "unclosed", "deep", "a-list"],
)
def test_an_unreadable_status_report_is_a_dead_letter_with_its_location(
    report: Any, code: str, location: str | None
) -> None:
    translation = translate("nanomdm", status_report(report))
    assert translation.events == ()
    ((found, where),) = reasons(translation)
    if location is not None:
        assert (found, where) == (code, location)
    else:
        assert found in (code, "too_deep")


def test_an_invalid_item_of_a_status_report_loses_only_that_item() -> None:
    report = {
        "StatusItems": {
            "device": {"operating-system": {"version": "many", "build-version": "23H311"}},
            "softwareupdate": {"failure-reason": {"count": -1, "timestamp": "noon"}, "x": 1},
        },
        "Errors": ["?"],
    }
    translation = translate("nanomdm", status_report(report))
    assert {location for _, location in reasons(translation)} == {
        "plist: Data.StatusItems.device.operating-system.version",
        "plist: Data.StatusItems.softwareupdate.failure-reason.count",
        "plist: Data.StatusItems.softwareupdate.failure-reason.timestamp",
        "plist: Data.Errors[0]",
    }
    assert fields_of(translation, "mdm.ddm_status_reported")["build"] == "23H311"


def test_a_huge_status_report_keeps_its_parsed_fields() -> None:
    report = {"StatusItems": {"softwareupdate": {"install-state": "none"}, "x": "y" * 300_000}}
    translation = translate("nanomdm", status_report(report))
    assert reasons(translation) == [("too_large", "plist: Data.StatusItems.")]
    assert fields_of(translation, "mdm.ddm_status_reported") == {"install_state": "none"}
    assert kept(translation.events[0]) is None


def test_the_push_token_in_a_status_report_is_fingerprinted() -> None:
    report = {"StatusItems": {"management": {"push-token": "c2VjcmV0"}}}
    found = fields_of(translate("nanomdm", status_report(report)), "mdm.ddm_status_reported")
    assert found["status_items"]["management"]["push-token"].startswith("hmac-sha256:")
