"""Facts of a Mac from the output of its own tools. Pure.

A parser returns None for output that it does not know: a fact is then unknown, and never guessed.
The formats are those of macOS 11 to 27 (the samples of the tests, and Apple's manual pages).
"""

import plistlib
import re
from datetime import UTC, datetime
from typing import Final, NamedTuple
from xml.parsers.expat import ExpatError

from schemas.macos import Build, OSVersion, parse_build, parse_os_version

_FIELD: Final = re.compile(r"^\s*([\w ]+?)\s*:\s*(.*?)\s*$", re.MULTILINE)
_BOOT: Final = re.compile(r"\bsec = (\d{1,11}), usec = (\d{1,6})\b")
_SERIAL: Final = re.compile(r'"IOPlatformSerialNumber" = "([A-Za-z0-9]{4,32})"')
_BATTERY: Final = re.compile(r"^ -InternalBattery-\d+ .*?\t\s*(\d{1,3})%;", re.MULTILINE)
_POWER: Final = re.compile(r"^Now drawing from '([^']*)'", re.MULTILINE)
_USER: Final = re.compile(r"^\W*([0-9A-Fa-f-]{36})$", re.MULTILINE)
_COPY: Final = re.compile(r"\b(\d{4}-\d{2}-\d{2}-\d{6})\b")
_RATE_LIMITED: Final = "due to rate limit enforcement"
# The user of /dev/console while the login window or Setup Assistant is shown.
_NO_USER: Final = frozenset({"root", "loginwindow", "_mbsetupuser"})
_INSTALLERS: Final = frozenset(
    {"softwareupdate", "startosinstall", "osinstallersetupd", "InstallAssistant"}
)
_DEFAULT_DEFERRAL_DAYS: Final = 30
_MALFORMED: Final = (ValueError, TypeError, AttributeError, KeyError)
# The programs that install a system. Other rows of the history are of packages.
_SYSTEM_INSTALLERS: Final = frozenset({"macOS Installer", "OS X Installer", "softwareupdated"})


class System(NamedTuple):
    """The running system; a field is None if it is unknown."""

    version: OSVersion | None = None
    build: Build | None = None


class Power(NamedTuple):
    """Power of a Mac. `battery_percent` is None without a battery."""

    on_ac: bool | None = None
    battery_percent: int | None = None


class EnrollmentStatus(NamedTuple):
    """Enrollment by the Mac's own account; None: unknown."""

    enrolled: bool | None = None
    user_approved: bool | None = None


class Deferral(NamedTuple):
    """Days for which the Mac hides a release after Apple published it; 0: it does not."""

    minor_days: int = 0
    major_days: int = 0


def parse_system(text: str) -> System:
    """Return version and build from `sw_vers`, with the letter of a background improvement."""
    fields = dict(_FIELD.findall(text))
    extra = fields.get("ProductVersionExtra", "")
    version = _optional_version(f"{fields.get('ProductVersion', '')} {extra}".strip())
    try:
        build = parse_build(fields.get("BuildVersion", ""))
    except ValueError:
        build = None
    return System(version, build)


def _optional_version(text: str) -> OSVersion | None:
    try:
        return parse_os_version(text)
    except ValueError:
        return None


def parse_boot_time(text: str) -> datetime | None:
    """Return the boot time, by the Mac's clock, from `sysctl -n kern.boottime`."""
    found = _BOOT.search(text)
    if found is None:
        return None
    return parse_epoch(found[1], int(found[2]))


def parse_epoch(seconds: str, microseconds: int = 0) -> datetime | None:
    """Return the time of seconds since 1970, None for text that is no such number."""
    try:
        whole = datetime.fromtimestamp(int(seconds), UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return whole.replace(microsecond=microseconds)


def parse_serial(text: str) -> str | None:
    """Return the serial number from `ioreg -rd1 -c IOPlatformExpertDevice`, in capital letters."""
    found = _SERIAL.search(text)
    return None if found is None else found[1].upper()


def parse_apple_silicon(text: str) -> bool | None:
    """Return True for Apple silicon, from `sysctl -n hw.optional.arm64`.

    Intel Macs do not know that name. Not `uname -m`: under Rosetta it is `x86_64` on Apple silicon.
    """
    if text.strip() in {"0", "1"}:
        return text.strip() == "1"
    return False if "unknown oid" in text else None


def parse_free_disk_gb(text: str) -> float | None:
    """Return the free disk in GB (10^9 bytes) from `df -kP /`."""
    lines = text.splitlines()
    words = lines[1].split() if len(lines) > 1 else []
    if len(words) < 6 or not words[3].isdecimal():
        return None
    return int(words[3]) * 1024 / 1e9


def parse_power(text: str) -> Power:
    """Return power source and charge from `pmset -g batt`."""
    source, battery = _POWER.search(text), _BATTERY.search(text)
    percent = None if battery is None else min(int(battery[1]), 100)
    return Power(None if source is None else source[1] == "AC Power", percent)


def parse_volume_owners(text: str) -> frozenset[str] | None:
    """Return the UUIDs of users that own the volume, from `diskutil apfs listUsers /`.

    Only local users: the recovery user and the key of a bootstrap token have no password for
    `--user`. None if the text is no such list.
    """
    heads = list(_USER.finditer(text))
    if not heads and "No cryptographic users" not in text:
        return None
    owners = set()
    for index, head in enumerate(heads):
        end = heads[index + 1].start() if index + 1 < len(heads) else len(text)
        # The branches of the tree are drawn before each field.
        fields = dict(_FIELD.findall(text[head.end() : end].replace("|", " ")))
        is_local = fields.get("Type") == "Local Open Directory User"
        if is_local and fields.get("Volume Owner") == "Yes":
            owners.add(head[1].upper())
    return frozenset(owners)


def parse_generated_uid(text: str) -> str | None:
    """Return the UUID of a user from `dscl . -read /Users/NAME GeneratedUID`; None without one."""
    uid = dict(_FIELD.findall(text)).get("GeneratedUID", "")
    return uid.upper() or None


def parse_enrollment(text: str) -> EnrollmentStatus:
    """Return the enrollment from `profiles status -type enrollment`.

    Its exit status is 0 in every case. A text that macOS limited to its cache is unknown.
    """
    value = dict(_FIELD.findall(text)).get("MDM enrollment", "")
    if _RATE_LIMITED in text or not value:
        return EnrollmentStatus()
    if value == "No":
        return EnrollmentStatus(enrolled=False, user_approved=False)
    if value.startswith("Yes"):
        return EnrollmentStatus(enrolled=True, user_approved="User Approved" in value)
    return EnrollmentStatus()


def parse_bootstrap_token(text: str) -> bool | None:
    """Return True if a bootstrap token is escrowed: `profiles status -type bootstraptoken`."""
    if _RATE_LIMITED in text:
        return None
    fields = {
        name.removeprefix("profiles: "): value
        for line in text.splitlines()
        for name, _, value in [line.rpartition(": ")]
    }
    values = [
        fields.get(f"Bootstrap Token {state} server") for state in ("supported on", "escrowed to")
    ]
    if any(value not in {"YES", "NO"} for value in values):
        return None
    return values == ["YES", "YES"]


def parse_user_logged_in(text: str) -> bool | None:
    """Return True if a user is logged in at the screen, from `stat -f %Su /dev/console`."""
    name = text.strip()
    return None if not name or len(name.split()) > 1 else name not in _NO_USER


def parse_installer_running(text: str) -> bool:
    """Return True if an installer of macOS runs, from `ps -axo comm=`."""
    return any(line.strip().rpartition("/")[2] in _INSTALLERS for line in text.splitlines())


def parse_installed_at(plist: bytes) -> datetime | None:
    """Return the time of the last installation of a system, from InstallHistory.plist.

    None if the history is unreadable or has none. Its rows have `date`, `displayName` and
    `processName`; a system is called macOS (as in the reports of github.com/munki/munki).
    """
    try:
        rows = plistlib.loads(plist)
        times = [
            row["date"].replace(tzinfo=UTC)
            for row in rows
            if str(row["displayName"]).startswith("macOS ")
            and row["processName"] in _SYSTEM_INSTALLERS
        ]
    except (plistlib.InvalidFileException, ExpatError, *_MALFORMED):
        return None
    return max(times, default=None)


def newest_copy_at(text: str, zone: str) -> datetime | None:
    """Return the newest time in names of copies: `tmutil listlocalsnapshots`, `latestbackup`.

    The names have the Mac's local time: `com.apple.TimeMachine.2026-11-30-101112.local`,
    `.../2026-11-30-101112.backup`. `zone` is the offset from `date +%z`. None without a name.
    """
    times = []
    for stamp in _COPY.findall(text):
        try:
            times.append(datetime.strptime(f"{stamp} {zone.strip()}", "%Y-%m-%d-%H%M%S %z"))
        except ValueError:
            continue
    return max(times, default=None)


def parse_deferral(plist: bytes) -> Deferral | None:
    """Return the deferral of `com.apple.applicationaccess`, a managed preference.

    Empty bytes, for a Mac without the preference, are no deferral; None for unreadable ones. Names
    and default of the keys: github.com/apple/device-management, profile `applicationaccess`.
    """
    if not plist.strip():
        return Deferral()
    try:
        keys = plistlib.loads(plist)
    except (plistlib.InvalidFileException, ExpatError, ValueError, TypeError, AttributeError):
        return None
    if not isinstance(keys, dict):
        return None

    def days(kind: str, *, forced: str) -> int:
        if keys.get(forced) is not True:
            return 0
        shared = keys.get("enforcedSoftwareUpdateDelay", _DEFAULT_DEFERRAL_DAYS)
        value = keys.get(f"enforcedSoftwareUpdate{kind}OSDeferredInstallDelay", shared)
        return value if isinstance(value, int) else _DEFAULT_DEFERRAL_DAYS

    return Deferral(
        days("Minor", forced="forceDelayedSoftwareUpdates"),
        days("Major", forced="forceDelayedMajorSoftwareUpdates"),
    )
