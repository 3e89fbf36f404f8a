"""The messages that Macs send over MDM, kind by kind."""

import json
import plistlib
from typing import Any

import pytest

from schemas.envelope import InventoryEvent
from schemas.events.inventory import InventoryReported
from tests.unit.ingest.device_bodies import (
    CREATED_AT,
    RECEIVED_AT,
    UDID,
    command_response,
    event_data,
    fields_of,
    kept,
    plist,
    reasons,
    status_report,
    translate,
    webhook,
)

CHECKOUT = {"MessageType": "CheckOut", "UDID": UDID}
IDLE = {"Status": "Idle", "UDID": UDID}


def device(**responses: Any) -> dict[str, Any]:
    """Return the inventory fields of a DeviceInformation response without dead letters."""
    translation = translate("nanomdm", command_response({"QueryResponses": responses}))
    assert reasons(translation) == []
    return fields_of(translation)


def test_a_supplement_is_part_of_the_version_and_its_build_is_the_running_one() -> None:
    found = device(
        OSVersion="26.3.1",
        BuildVersion="25D2128",
        SupplementalOSVersionExtra="(a)",
        SupplementalBuildVersion="25D771280a",
    )
    assert (found["os_version"], found["build"]) == ("26.3.1 (a)", "25D771280a")


@pytest.mark.parametrize("extra", [{}, {"SupplementalOSVersionExtra": ""}], ids=["absent", "empty"])
def test_without_a_supplement_the_release_build_is_the_running_one(extra: dict[str, str]) -> None:
    found = device(
        OSVersion="26.3.1", BuildVersion="25D2128", SupplementalBuildVersion="25D2128", **extra
    )
    assert (found["os_version"], found["build"]) == ("26.3.1", "25D2128")


@pytest.mark.parametrize(
    ("battery", "percent"),
    [
        ({"BatteryLevel": 0.87}, 87.0),
        ({"BatteryLevel": 1}, 100.0),
        ({"BatteryLevel": 0.0}, 0.0),
        ({"BatteryLevel": -1.0}, None),
        ({"BatteryLevel": 0.5, "HasBattery": False}, None),
    ],
    ids=["part", "full", "empty", "unknown", "none-built-in"],
)
def test_battery_level_becomes_percent(battery: dict[str, Any], percent: float | None) -> None:
    assert device(SerialNumber="C02", **battery).get("battery_percent") == percent


@pytest.mark.parametrize(
    ("version", "free"), [("11.7.10", 107.374), ("12.0", 100.0), ("26.2", 100.0)]
)
def test_free_space_was_in_gib_before_macos_12(version: str, free: float) -> None:
    assert device(OSVersion=version, AvailableDeviceCapacity=100.0)["free_disk_gb"] == free


@pytest.mark.parametrize("serial", ["", "0", "Not Available", " System Serial# "])
def test_a_placeholder_is_not_used_as_a_serial_number(serial: str) -> None:
    assert "serial" not in device(SerialNumber=serial, DeviceName="mac")


def test_control_characters_are_removed_from_text() -> None:
    raw = plist(
        {**IDLE, "QueryResponses": {"DeviceName": "Ma\x1b[31mc\u202e"}}, plistlib.FMT_BINARY
    )
    assert fields_of(translate("nanomdm", raw))["hostname"] == "Ma[31mc"


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("OSVersion", "Ventura", "bad_value"),
        ("OSVersion", 13, "bad_shape"),
        ("BuildVersion", "??", "bad_value"),
        ("SupplementalOSVersionExtra", "(first)", "bad_value"),
        ("IsSupervised", "yes", "bad_shape"),
        ("AvailableDeviceCapacity", -5.0, "bad_value"),
        ("AvailableDeviceCapacity", float("inf"), "bad_value"),
        ("AvailableDeviceCapacity", "10", "bad_shape"),
        ("BatteryLevel", 55, "bad_value"),
        ("SerialNumber", "C02 FAKE", "bad_value"),
        ("SerialNumber", "C0" * 33, "bad_value"),
    ],
)
def test_an_invalid_field_loses_only_that_field(name: str, value: Any, code: str) -> None:
    responses = {"DeviceName": "mac", "ProductName": "Mac15,12", name: value}
    translation = translate("nanomdm", command_response({"QueryResponses": responses}))
    assert reasons(translation) == [(code, f"plist: QueryResponses.{name}")]
    assert fields_of(translation) == {"hostname": "mac", "model": "Mac15,12", "mdm_enrolled": True}


def test_ios_fields_are_ignored() -> None:
    found = device(DeviceName="mac", IMEI="123", CellularTechnology=3, ModemFirmwareVersion=[])
    assert found == {"hostname": "mac", "mdm_enrolled": True}


def test_permission_to_use_a_bootstrap_token_is_no_proof_of_escrow() -> None:
    info = {
        "BootstrapTokenAllowedForAuthentication": "allowed",
        "BootstrapTokenRequiredForSoftwareUpdate": True,
    }
    translation = translate("nanomdm", command_response({"SecurityInfo": info}))
    assert [event.type for event in translation.events] == ["drydock.mdm.command_reported.v1"]


def test_list_of_profiles_gives_their_identifiers() -> None:
    listed = [
        {"PayloadIdentifier": "org.pppc", "PayloadContent": [{"PayloadType": "com.apple.TCC"}]},
        {"PayloadIdentifier": "org.kext"},
        {"PayloadDisplayName": "without an identifier"},
    ]
    for profiles, found in ((listed, ["org.kext", "org.pppc"]), ([], [])):
        translation = translate("micromdm", command_response({"ProfileList": profiles}))
        assert fields_of(translation, "inventory.reported")["profiles"] == found


def test_unreadable_list_of_profiles_reports_none() -> None:
    translation = translate("nanomdm", command_response({"ProfileList": {"a": 1}}))
    assert [event.type for event in translation.events] == ["drydock.mdm.command_reported.v1"]


def test_a_failed_entry_of_an_acknowledged_update_has_its_errors() -> None:
    update = {
        "ProductKey": "_OSX_14.7.2",
        "InstallAction": "Error",
        "Status": "Idle",
        "ErrorChain": [{"ErrorCode": 12067, "ErrorDomain": "MCMDMErrorDomain"}],
    }
    found = fields_of(
        translate("nanomdm", command_response({"UpdateResults": [update]})), "mdm.command_reported"
    )
    assert found["install_actions"] == [["_OSX_14.7.2", "Error", "Idle (MCMDMErrorDomain 12067)"]]


def test_an_invalid_link_of_an_error_chain_loses_only_that_link() -> None:
    chain = [{"ErrorCode": "x"}, "y", {"ErrorCode": 5, "ErrorDomain": "D"}]
    translation = translate("nanomdm", command_response({"ErrorChain": chain}))
    assert [location for _, location in reasons(translation)] == [
        "plist: ErrorChain[0].ErrorCode",
        "plist: ErrorChain[1]",
    ]
    found = fields_of(translation, "mdm.command_reported")
    assert found["error_chain"] == [{"code": 5, "domain": "D"}]


@pytest.mark.parametrize("token", [{}, {"BootstrapToken": b""}], ids=["absent", "empty"])
def test_no_bootstrap_token_clears_the_escrowed_one(token: dict[str, bytes]) -> None:
    message = {"MessageType": "SetBootstrapToken", "UDID": UDID, **token}
    translation = translate("nanomdm", webhook("mdm.SetBootstrapToken", message))
    assert fields_of(translation, "mdm.bootstrap_token_set") == {"escrowed": False}


@pytest.mark.parametrize("kind", ["GetBootstrapToken", "GetToken"])
def test_request_for_a_token_shows_only_that_mdm_was_in_contact(kind: str) -> None:
    translation = translate("nanomdm", webhook(f"mdm.{kind}", {"MessageType": kind, "UDID": UDID}))
    assert reasons(translation) == []
    assert fields_of(translation) == {}


# --- device, channel and server ---


@pytest.mark.parametrize(
    ("message", "server_fields"),
    [
        (IDLE, {"ids": {"id": f"{UDID}:USER", "type": "User", "parent_id": UDID}}),
        (IDLE, {"ids": {"id": f"{UDID}:USER", "type": "Device"}}),
        (IDLE, {"ids": {"id": "E", "type": "User Enrollment"}}),
        (IDLE, {"ids": {"id": "E", "type": "Shared iPad"}}),
        ({**IDLE, "UserID": "AAAA"}, {}),
        ({**IDLE, "EnrollmentUserID": "AAAA"}, {"ids": None}),
    ],
    ids=["type", "id", "user-enrollment", "shared", "message", "message-without-ids"],
)
def test_a_message_of_a_user_channel_is_a_dead_letter(
    message: dict[str, Any], server_fields: dict[str, Any]
) -> None:
    translation = translate("nanomdm", webhook("mdm.Connect", message, **server_fields))
    assert [code for code, _ in reasons(translation)] == ["user_channel"]
    assert translation.events == ()


@pytest.mark.parametrize(
    "raw",
    [
        webhook(
            "mdm.Authenticate",
            {"MessageType": "Authenticate", "UDID": UDID, "ProductName": "iPhone17,1"},
        ),
        command_response({"QueryResponses": {"ProductName": "AppleTV14,1"}}),
        webhook(
            "mdm.TokenUpdate", {"MessageType": "TokenUpdate", "UDID": UDID, "UnlockToken": b"x"}
        ),
        status_report({"StatusItems": {"device": {"model": {"family": "iPad"}}}}),
        status_report({"StatusItems": {"device": {"operating-system": {"family": "visionOS"}}}}),
        plist({"Status": "Idle", "UDID": "663b07bb783e9ade1dae4fbb92ea12afc0ce5b69"}),
    ],
    ids=["iphone", "apple-tv", "unlock-token", "family", "system", "sha1-udid"],
)
def test_another_apple_product_is_a_dead_letter(raw: bytes) -> None:
    translation = translate("nanomdm", raw)
    assert [code for code, _ in reasons(translation)] == ["not_a_mac"]
    assert translation.events == ()


def test_server_and_message_must_name_the_same_device() -> None:
    translation = translate("nanomdm", webhook("mdm.CheckOut", {**CHECKOUT, "UDID": "OTHER"}))
    assert reasons(translation) == [("bad_value", "$.checkin_event.udid")]


def test_topic_and_message_type_must_agree() -> None:
    translation = translate("nanomdm", webhook("mdm.TokenUpdate", CHECKOUT))
    assert reasons(translation) == [("bad_value", "plist: MessageType")]


def test_a_message_without_a_udid_is_a_dead_letter() -> None:
    raw = webhook("mdm.CheckOut", {"MessageType": "CheckOut"}, udid=None, ids=None)
    assert reasons(translate("nanomdm", raw)) == [("no_device", "plist: UDID")]


def test_the_udid_becomes_upper_case_and_the_servers_id_keeps_its_case() -> None:
    lower = UDID.lower()
    raw = webhook(
        "mdm.CheckOut",
        {**CHECKOUT, "UDID": lower},
        udid=lower,
        ids={"id": lower, "type": "Device"},
    )
    (event,) = translate("nanomdm", raw).events
    assert event.subject == UDID
    assert getattr(event.data, "enrollment_id", None) == lower


def test_url_parameters_name_site_and_server() -> None:
    raw = command_response(
        {"QueryResponses": {"DeviceName": "mac"}},
        url_params={"site": "london", "server": "mdm.example.org", "x": "1&2"},
    )
    found = fields_of(translate("nanomdm", raw))
    assert (found["site"], found["mdm_server"]) == ("london", "mdm.example.org")


@pytest.mark.parametrize("site", ["London HQ", "-a", "a" * 64, "../x"])
def test_an_invalid_site_name_is_a_dead_letter(site: str) -> None:
    translation = translate("nanomdm", webhook("mdm.CheckOut", CHECKOUT, url_params={"site": site}))
    assert reasons(translation) == [("bad_value", "$.checkin_event.url_params.site")]
    assert len(translation.events) == 1


# --- the envelope ---


@pytest.mark.parametrize(
    ("raw", "code", "location"),
    [
        (b"", "not_json", "line 1 column 1"),
        (b"[]", "bad_shape", "$"),
        (b"{}", "unknown_type", "$.topic"),
        (b'{"topic": "acme.Event"}', "unknown_type", "$.topic"),
        (b'{"topic": "mdm.CheckOut"}', "bad_shape", "$.checkin_event"),
        (webhook("mdm.New", {"MessageType": "New"}), "unknown_type", "plist: MessageType"),
        (webhook("mdm.CheckOut", b"junk"), "not_plist", "$.checkin_event.raw_payload"),
        (
            webhook("mdm.CheckOut", b"<plist>\n<dict>"),
            "not_plist",
            "$.checkin_event.raw_payload: line 2",
        ),
        (
            webhook("mdm.CheckOut", CHECKOUT, raw_payload="&&&"),
            "bad_value",
            "$.checkin_event.raw_payload",
        ),
        (
            webhook("mdm.CheckOut", CHECKOUT, raw_payload=7),
            "bad_shape",
            "$.checkin_event.raw_payload",
        ),
        (webhook("mdm.CheckOut", plist([1])), "bad_shape", "plist: root"),
        (webhook("mdm.CheckOut", CHECKOUT, created_at="noon"), "bad_value", "$.created_at"),
        (webhook("mdm.CheckOut", CHECKOUT, created_at=1795457865), "bad_shape", "$.created_at"),
        (
            webhook("mdm.CheckOut", CHECKOUT, created_at="2026-11-23T18:17:45"),
            "bad_value",
            "$.created_at",
        ),
        (
            webhook("mdm.CheckOut", CHECKOUT, created_at="9999-12-31T23:59:59-12:00"),
            "bad_value",
            "$.created_at",
        ),
        (webhook("mdm.Connect", {"UDID": UDID}), "bad_shape", "plist: Status"),
    ],
    ids=[
        "empty", "list", "no-topic", "other-topic", "no-event", "new-topic", "no-plist",
        "cut-plist", "no-base64", "payload-number", "plist-list", "no-time", "time-number",
        "time-without-zone", "time-out-of-range", "no-status",
    ],
)  # fmt: skip
def test_an_unreadable_body_is_a_dead_letter_with_its_path(
    raw: bytes, code: str, location: str
) -> None:
    translation = translate("nanomdm", raw)
    assert (reasons(translation), translation.events) == ([(code, location)], ())


@pytest.mark.parametrize(
    ("created_at", "time"),
    [
        (CREATED_AT, "2026-11-23T18:17:45.406870+00:00"),
        ("2026-11-24T03:17:45.4068705+09:00", "2026-11-23T18:17:45.406870+00:00"),
        ("2026-11-23T18:17:45Z", "2026-11-23T18:17:45+00:00"),
        ("0001-01-01T00:00:00Z", RECEIVED_AT.isoformat()),
        ("0001-01-01T00:00:00+14:00", RECEIVED_AT.isoformat()),
        (None, RECEIVED_AT.isoformat()),
    ],
    ids=["nanoseconds", "tokyo", "whole", "go-zero", "before-the-first-year", "absent"],
)
def test_the_servers_time_dates_the_event(created_at: str | None, time: str) -> None:
    (event,) = translate("nanomdm", webhook("mdm.CheckOut", CHECKOUT, created_at=created_at)).events
    assert event.time.isoformat() == time


def test_the_same_body_is_the_same_event_and_a_retry_is_another() -> None:
    raw = webhook("mdm.Connect", IDLE)
    again = json.dumps(json.loads(raw), indent=2).encode()
    retry = json.dumps({**json.loads(raw), "event_id": "0000000000000001"}).encode()
    ids = [translate("nanomdm", body).events[0].id for body in (raw, raw, again, retry)]
    assert ids[0] == ids[1] == ids[2] != ids[3]


def test_only_the_first_event_carries_the_payload() -> None:
    first, second = translate(
        "nanomdm", command_response({"QueryResponses": {"DeviceName": "m"}})
    ).events
    assert kept(first) is not None
    assert kept(second) is None
    assert first.rawsha256 == second.rawsha256
    assert first.rawmediatype == "application/json"


def test_a_message_in_a_binary_plist_gives_the_same_events() -> None:
    raw = plist({**IDLE, "QueryResponses": {"OSVersion": "26.2"}})
    binary = plist({**IDLE, "QueryResponses": {"OSVersion": "26.2"}}, plistlib.FMT_BINARY)
    assert [event_data(event) for event in translate("nanomdm", raw)] == [
        event_data(event) for event in translate("nanomdm", binary)
    ]


def test_a_micromdm_webhook_may_lack_ids_and_have_null_parameters() -> None:
    raw = webhook("mdm.Authenticate", {"MessageType": "Authenticate", "UDID": UDID}, ids=None)
    body = json.loads(raw)
    body["checkin_event"]["url_params"] = None
    first, second = translate("micromdm", json.dumps(body).encode()).events
    assert first.source == "urn:drydock:device:micromdm"
    assert isinstance(second, InventoryEvent)
    assert second.data == InventoryReported(source="mdm", udid=UDID)
