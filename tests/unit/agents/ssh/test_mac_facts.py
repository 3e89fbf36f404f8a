"""Facts from the output of a Mac's own tools: known outputs, and unknown ones that give None."""

import plistlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.ssh import mac_facts
from agents.ssh.mac_facts import Deferral, EnrollmentStatus, Power, System
from schemas.macos import OSVersion, parse_build
from tests.unit.agents.ssh.cli_samples import samples

OWNER = "11111111-2222-3333-4444-555555555555"
OTHER = "22222222-2222-3333-4444-555555555555"
BATTERY = """\
Now drawing from 'Battery Power'
 -InternalBattery-0 (id=22347875)\t57%; discharging; 3:18 remaining present: true
"""
DISK = """\
Filesystem     1024-blocks      Used Available Capacity  Mounted on
/dev/disk3s1s1   482797652  11200000  62500000    16%    /
"""
TWO_USERS = f"""\
Cryptographic users for disk3s1s1 (4 found)
|
+-- {OWNER.lower()}
|   Type: Local Open Directory User
|   Volume Owner: Yes
|
+-- {OTHER}
|   Type: Local Open Directory User
|   Volume Owner: No
|
+-- 2457711A-523C-4604-B75A-F48A571D5036
|   Type: MDM Bootstrap Token External Key
|   Volume Owner: Yes
|
+-- EBC6C064-0000-11AA-AA11-00306543ECAC
    Type: Personal Recovery User
    Volume Owner: Yes
"""
RATE_LIMITED = (
    "Enrolled via DEP: Yes\nMDM enrollment: Yes (User Approved)\nThe above information was obtained"
    " from local cached information due to rate limit enforcement.\n"
)

KNOWN: dict[str, tuple[Callable[[str], Any], str, Any]] = {
    "version and build": (
        mac_facts.parse_system,
        "ProductName:\t\tmacOS\nProductVersion:\t\t26.7\nBuildVersion:\t\t25G229\n",
        System(OSVersion(26, 7), parse_build("25G229")),
    ),
    "background improvement": (
        mac_facts.parse_system,
        "ProductVersion: 26.3.1\nProductVersionExtra: (a)\nBuildVersion: 25D771280a\n",
        System(OSVersion(26, 3, 1, "a"), parse_build("25D771280a")),
    ),
    "serial number of another class": (mac_facts.parse_serial, '"board-id" = <"Mac">', None),
    "Apple silicon": (mac_facts.parse_apple_silicon, "1\n", True),
    "Intel": (
        mac_facts.parse_apple_silicon,
        "sysctl: unknown oid 'hw.optional.arm64'\n",
        False,
    ),
    "no sysctl": (mac_facts.parse_apple_silicon, "sysctl: not found", None),
    "free disk": (mac_facts.parse_free_disk_gb, DISK, 64.0),
    "free disk of no table": (mac_facts.parse_free_disk_gb, "df: /: No such file\n", None),
    "battery": (mac_facts.parse_power, BATTERY, Power(on_ac=False, battery_percent=57)),
    "no battery": (
        mac_facts.parse_power,
        "Now drawing from 'AC Power'\n",
        Power(on_ac=True, battery_percent=None),
    ),
    "emergency power": (
        mac_facts.parse_power,
        "Now drawing from 'UPS Power'\n -APC UPS (id=1)\t90%; present: true\n",
        Power(on_ac=False, battery_percent=None),
    ),
    "only a local owner counts": (mac_facts.parse_volume_owners, TWO_USERS, frozenset({OWNER})),
    "no owner": (
        mac_facts.parse_volume_owners,
        "No cryptographic users for disk1s1\n",
        frozenset(),
    ),
    "owners of a volume that is not APFS": (
        mac_facts.parse_volume_owners,
        "Error: disk1s1 is not an APFS Volume",
        None,
    ),
    "user": (mac_facts.parse_generated_uid, f"GeneratedUID: {OWNER}\n", OWNER),
    "no user": (
        mac_facts.parse_generated_uid,
        "<dscl_cmd> DS Error: -14136 (eDSRecordNotFound)\n",
        None,
    ),
    "rate-limited status": (mac_facts.parse_enrollment, RATE_LIMITED, EnrollmentStatus()),
    "failed status": (
        mac_facts.parse_enrollment,
        "Error fetching Device Enrollment configuration: (34000)\n",
        EnrollmentStatus(),
    ),
    "rate-limited token": (
        mac_facts.parse_bootstrap_token,
        "profiles: Bootstrap Token escrowed to server: YES\ndue to rate limit enforcement.",
        None,
    ),
    "token of an unknown server": (
        mac_facts.parse_bootstrap_token,
        "profiles: Bootstrap Token escrowed to server: YES\n",
        None,
    ),
    "user at the screen": (mac_facts.parse_user_logged_in, "jappleseed\n", True),
    "login window": (mac_facts.parse_user_logged_in, "root\n", False),
    "Setup Assistant": (mac_facts.parse_user_logged_in, "_mbsetupuser\n", False),
    "no console": (mac_facts.parse_user_logged_in, "stat: /dev/console: No such file\n", None),
    "an installer at work": (
        mac_facts.parse_installer_running,
        "/sbin/launchd\n/Applications/Install macOS Tahoe.app/Contents/Resources/startosinstall\n",
        True,
    ),
    "the update daemon always runs": (
        mac_facts.parse_installer_running,
        "/System/Library/CoreServices/Software Update.app/Contents/Resources/softwareupdated\n",
        False,
    ),
}


@pytest.mark.parametrize(("parse", "text", "fact"), KNOWN.values(), ids=KNOWN)
def test_output_gives_its_fact(parse: Callable[[str], Any], text: str, fact: Any) -> None:
    assert parse(text) == fact


def test_outputs_of_real_macs_are_read(reference_data: Path) -> None:
    one = samples(reference_data)
    boot = one["sysctl -n kern.boottime"][0]
    assert mac_facts.parse_boot_time(boot) == datetime(2026, 9, 23, 8, 49, 47, 566452, UTC)
    ioreg = one["ioreg -rd1 -c IOPlatformExpertDevice"][0]
    assert mac_facts.parse_serial(ioreg) == "C07FC05JQ6NY"
    owners = one["diskutil apfs listUsers /"][0]
    assert mac_facts.parse_volume_owners(owners) == frozenset({OWNER})
    enrollments = [
        mac_facts.parse_enrollment(text) for text in one["profiles status -type enrollment"]
    ]
    assert enrollments == [
        EnrollmentStatus(enrolled=True, user_approved=True),
        EnrollmentStatus(enrolled=True, user_approved=True),
        EnrollmentStatus(enrolled=False, user_approved=False),
        EnrollmentStatus(enrolled=True, user_approved=False),
    ]
    tokens = [
        mac_facts.parse_bootstrap_token(text)
        for text in one["profiles status -type bootstraptoken"]
    ]
    assert tokens == [True, False]


DEFERRALS: dict[str, tuple[dict[str, Any], Deferral]] = {
    "none": ({"allowCamera": True}, Deferral()),
    "not forced": ({"enforcedSoftwareUpdateDelay": 5}, Deferral()),
    "default": ({"forceDelayedSoftwareUpdates": True}, Deferral(minor_days=30)),
    "minor": (
        {
            "forceDelayedSoftwareUpdates": True,
            "enforcedSoftwareUpdateMinorOSDeferredInstallDelay": 5,
            "enforcedSoftwareUpdateDelay": 60,
        },
        Deferral(minor_days=5),
    ),
    "major, by the shared number": (
        {"forceDelayedMajorSoftwareUpdates": True, "enforcedSoftwareUpdateDelay": 90},
        Deferral(major_days=90),
    ),
}


@pytest.mark.parametrize(("keys", "deferral"), DEFERRALS.values(), ids=DEFERRALS)
@pytest.mark.parametrize("form", [plistlib.FMT_XML, plistlib.FMT_BINARY], ids=["xml", "binary"])
def test_managed_preference_gives_the_deferral(
    keys: dict[str, Any], deferral: Deferral, form: plistlib.PlistFormat
) -> None:
    assert mac_facts.parse_deferral(plistlib.dumps(keys, fmt=form)) == deferral


def test_mac_without_the_preference_defers_nothing() -> None:
    assert mac_facts.parse_deferral(b"") == Deferral()


HISTORY = [
    {"date": datetime(*date, tzinfo=UTC), "displayName": name, "processName": process}
    for date, name, process in (
        ((2026, 7, 1), "macOS 26.6", "softwareupdated"),
        ((2026, 9, 1), "macOS 26.7", "macOS Installer"),
        ((2026, 10, 1), "Munki tools", "installer"),
        ((2026, 10, 2), "macOS documents", "installer"),
    )
]


def test_last_installation_of_a_system_is_in_the_history() -> None:
    found = mac_facts.parse_installed_at(plistlib.dumps(HISTORY))
    assert found == datetime(2026, 9, 1, tzinfo=UTC)
    assert mac_facts.parse_installed_at(plistlib.dumps([])) is None
    assert mac_facts.parse_installed_at(b"plutil: file does not exist") is None


@given(st.binary())
def test_unreadable_history_has_no_installation(raw: bytes) -> None:
    assert mac_facts.parse_installed_at(raw) is None


COPIES = {
    "snapshots": "Snapshots for disk /:\ncom.apple.TimeMachine.2026-11-29-235959.local\n"
    "com.apple.TimeMachine.2026-11-30-101112.local\n",
    "backup": "/Volumes/.timemachine/AB-1/2026-11-30-101112.backup/2026-11-30-101112.backup\n",
}


@pytest.mark.parametrize("text", COPIES.values(), ids=COPIES)
def test_newest_copy_is_in_the_time_of_the_mac(text: str) -> None:
    expected = datetime(2026, 11, 30, 9, 11, 12, tzinfo=UTC)
    assert mac_facts.newest_copy_at(text, "+0100\n") == expected
    assert mac_facts.newest_copy_at(text, "") is None
    assert mac_facts.newest_copy_at("No machine directory found.", "+0100") is None
    assert mac_facts.newest_copy_at("2026-13-45-999999.local", "+0100") is None


@given(st.binary(min_size=1))
def test_unreadable_preference_is_unknown_or_no_deferral(raw: bytes) -> None:
    assert mac_facts.parse_deferral(raw) in {None, Deferral()}


@given(st.text())
def test_any_text_has_a_result(text: str) -> None:
    for parse, _, _ in KNOWN.values():
        parse(text)
    mac_facts.parse_boot_time(text)
