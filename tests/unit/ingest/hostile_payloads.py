"""Valid payloads of every source, and functions that damage them."""

import base64
import json
import plistlib
import random
from collections.abc import Callable, Iterator
from typing import Any
from xml.parsers.expat import ExpatError

from tests.factories.certificates import certificate, listed
from tests.unit.ingest.device_bodies import (
    RECEIVED_AT,
    UDID,
    command_response,
    jamf,
    munki_report,
    osquery_added,
    plist,
    status_report,
    webhook,
)

OS_ROW = {
    "name": "macOS",
    "version": "26.2",
    "build": "25C56",
    "platform": "darwin",
    "arch": "arm64",
    "extra": "",
}
SYSTEM_ROW = {
    "uuid": UDID,
    "hardware_serial": "C02FAKE00001",
    "hardware_model": "Mac15,12",
    "hardware_vendor": "Apple Inc.",
    "computer_name": "fake-mac-01",
    "cpu_type": "arm64e",
}
OTHER_ROWS = {
    "battery": {"percent_remaining": "81", "state": "AC Power"},
    "mounts": {"path": "/", "blocks_available": "24414062", "blocks_size": "4096"},
    "mdm": {
        "enrolled": "true",
        "installed_from_dep": "true",
        "user_approved": "true",
        "server_url": "https://mdm.example/mdm",
    },
}
COMPUTER = {
    "udid": UDID,
    "serialNumber": "C02FAKE00001",
    "osVersion": "26.2",
    "osBuild": "25C56",
    "deviceName": "fake-mac-01",
    "model": "MacBook Air",
}
MACHINE = {
    "serial_number": "C02FAKE00001",
    "os_vers": "26.2",
    "os_build_number": "25C56",
    "machine_model": "Mac15,12",
    "device_id": "J613AP",
    "hostname": "fake-mac-01",
    "arch": "arm64",
}
STATUS = {
    "StatusItems": {
        "device": {
            "identifier": {"serial-number": "C02FAKE00001", "udid": "00008112-0000"},
            "model": {"family": "Mac", "identifier": "Mac15,12"},
            "operating-system": {"family": "macOS", "version": "14.7.1", "build-version": "23H222"},
        },
        "management": {"push-token": "c2VjcmV0LW9mLXRoaXMtbWFj"},
        "softwareupdate": {
            "device-id": "J613AP",
            "install-state": "failed",
            "install-reason": {"declaration-id": "update-14.7.2"},
            "pending-version": {"os-version": "14.7.2", "build-version": "23H311"},
            "failure-reason": {"count": 2, "reason": "full", "timestamp": "2026-11-23T10:00:00Z"},
        },
    },
    "Errors": [{"StatusItem": "x", "Reasons": []}],
    "FullReport": True,
}
DEVICE = {
    "UDID": UDID,
    "SerialNumber": "C02FAKE00001",
    "OSVersion": "26.3.1",
    "BuildVersion": "25D2128",
    "SupplementalOSVersionExtra": "(a)",
    "SupplementalBuildVersion": "25D771280a",
    "ProductName": "Mac15,12",
    "AvailableDeviceCapacity": 101.5,
    "BatteryLevel": 0.5,
    "EACSPreflight": "success",
    "PINRequiredForEraseDevice": True,
    "AwaitingConfiguration": False,
    "IsSupervised": True,
    "IsAppleSilicon": True,
    "DeviceName": "fake-mac-01",
    "SoftwareUpdateDeviceID": "J613AP",
}
SECURITY = {
    "FDE_Enabled": True,
    "AuthenticatedRootVolumeEnabled": True,
    "ManagementStatus": {"EnrolledViaDEP": True, "UserApprovedEnrollment": True},
}
PROFILES = [
    {
        "PayloadIdentifier": "com.example.pppc",
        "PayloadDisplayName": "Privacy",
        "PayloadContent": [{"PayloadType": "com.apple.TCC.configuration-profile-policy"}],
    }
]
TOKENS = {
    "MessageType": "TokenUpdate",
    "UDID": UDID,
    "Token": bytes(range(200, 232)),
    "PushMagic": "4B1E9C3A-PUSH-MAGIC",
    "AwaitingConfiguration": False,
}
UPDATES = [
    {
        "ProductKey": "_OSX_14.7.2",
        "InstallAction": "Error",
        "Status": "Idle",
        "ErrorChain": [{"ErrorCode": 1, "ErrorDomain": "D"}],
    }
]


def samples() -> list[tuple[str, bytes]]:
    """Return a payload of every shape that a translator reads, with its source.

    Together those of a source state every field that the table of sources permits it.
    """
    return [
        *((source, raw) for raw in mdm_samples() for source in ("nanomdm", "micromdm")),
        ("jamf", jamf("ComputerCheckIn", {"computer": COMPUTER, "trigger": "CLIENT_CHECKIN"})),
        ("jamf", jamf_xml()),
        ("osquery", osquery_added("os_version", OS_ROW, decorations={"host_uuid": UDID})),
        *(("osquery", osquery_added(name, row)) for name, row in OTHER_ROWS.items()),
        ("osquery", osquery_batch()),
        (
            "munki",
            munki_report(MACHINE, AvailableDiskSpace=1000, EndTime="2026-11-23 10:00:00 +0000"),
        ),
        ("munki", plist({"MachineInfo": MACHINE}, plistlib.FMT_BINARY)),
    ]


def mdm_samples() -> list[bytes]:
    """Return a webhook body of each kind of message, and a message without its webhook."""
    hints = {"site": "london", "server": "mdm-1"}
    identity = {"UDID": UDID, "SerialNumber": "C02FAKE00001", "OSVersion": "26.2"}
    return [
        webhook("mdm.TokenUpdate", TOKENS, token_update_tally=1, url_params=hints),
        plist(TOKENS, plistlib.FMT_BINARY),
        webhook(
            "mdm.Authenticate",
            {
                "MessageType": "Authenticate",
                **identity,
                "BuildVersion": "25C56",
                "ProductName": "Mac15,12",
                "DeviceName": "fake-mac-01",
            },
            url_params=hints,
        ),
        webhook("mdm.CheckOut", {"MessageType": "CheckOut", "UDID": UDID}),
        webhook(
            "mdm.SetBootstrapToken",
            {"MessageType": "SetBootstrapToken", "UDID": UDID, "BootstrapToken": b"fake token"},
        ),
        command_response({"QueryResponses": DEVICE}),
        command_response({"SecurityInfo": SECURITY}),
        command_response({"ProfileList": PROFILES}),
        command_response({"CertificateList": [listed(certificate(ends_at=RECEIVED_AT))]}),
        command_response({"UpdateResults": UPDATES, "ErrorChain": UPDATES[0]["ErrorChain"]}),
        status_report(STATUS, url_params=hints),
    ]


def jamf_xml() -> bytes:
    """Return a Jamf Pro webhook as XML."""
    fields = "".join(f"<{name}>{value}</{name}>" for name, value in COMPUTER.items())
    return (
        '<?xml version="1.0" encoding="UTF-8"?><JSSEvent><webhook><id>7</id>'
        "<webhookEvent>ComputerAdded</webhookEvent><eventTimestamp>1553550275590</eventTimestamp>"
        f"</webhook><event>{fields}</event></JSSEvent>"
    ).encode()


def osquery_batch() -> bytes:
    """Return a batch of osquery results in an array."""
    batch = {
        "name": "pack_it_system_info",
        "hostIdentifier": "fake-mac-01.local",
        "unixTime": 1795457865,
        "diffResults": {"added": [SYSTEM_ROW], "removed": ""},
    }
    return json.dumps([batch]).encode()


_NO_PLIST = (ValueError, LookupError, AttributeError, RecursionError, ExpatError)
_ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1e308,
    "",
    "\x00\u202e\ud83d",
    "9" * 5000,
    [],
    {},
    [[[]]],
    {"": {"": None}},
)


def mutated(raw: bytes, chance: random.Random) -> bytes:
    """Return the payload, damaged by one of the functions below."""
    return chance.choice(_WAYS)(raw, chance)


def _flip(raw: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(raw)
    for _ in range(chance.randint(1, 8)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged)


def _cut(raw: bytes, chance: random.Random) -> bytes:
    return raw[: chance.randrange(len(raw))]


def _splice(raw: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(raw)) for _ in range(2))
    at = chance.randrange(len(raw))
    return raw[:at] + raw[start:end] + raw[at:]


def _swap_value(raw: bytes, chance: random.Random) -> bytes:
    """Give one value of the outer document, or of the plist inside it, another type."""
    try:
        value = json.loads(raw)
    except ValueError:
        return _swap_plist(raw, chance)
    locations = list(_locations(value))
    if not locations:
        return raw
    parent, key = chance.choice(locations)
    if key == "raw_payload" and chance.random() < 0.9:
        inner = mutated(base64.b64decode(parent[key]), chance)
        parent[key] = base64.b64encode(inner).decode()
    else:
        parent[key] = _odd(chance)
    return json.dumps(value).encode()


def _swap_plist(raw: bytes, chance: random.Random) -> bytes:
    try:
        value = plistlib.loads(raw)
    except _NO_PLIST:
        return _flip(raw, chance)
    locations = list(_locations(value))
    if not locations:
        return raw
    parent, key = chance.choice(locations)
    parent[key] = _odd(chance)
    fmt = chance.choice([plistlib.FMT_XML, plistlib.FMT_BINARY])
    try:
        return plistlib.dumps(value, fmt=fmt)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return raw


def _odd(chance: random.Random) -> Any:
    if chance.random() < 0.2:
        nested: Any = 1
        for _ in range(chance.choice([10, 70, 150, 500])):
            nested = {"Data": nested} if chance.random() < 0.5 else [nested]
        return nested
    return chance.choice(_ODD)


def _locations(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        for key in list(value):
            yield value, key
            yield from _locations(value[key])
    elif isinstance(value, list):
        for index in range(len(value)):
            yield value, index
            yield from _locations(value[index])


_WAYS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip,
    _cut,
    _splice,
    _swap_value,
    _swap_value,
    _swap_value,
)
