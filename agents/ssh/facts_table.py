"""Facts of one Mac for a person, and its tools' outputs without what identifies it. Pure.

The outputs are material for tests: formats of Apple's tools change, and no document has them.
"""

import plistlib
import re
from collections.abc import Iterator
from typing import Final, NamedTuple
from xml.parsers.expat import ExpatError

from agents.ssh import mac_facts
from agents.ssh.report import Report

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
# Types of keys that own a volume, equal on each Mac.
_KNOWN_UUIDS: Final = frozenset({"EBC6C064-0000-11AA-AA11-00306543ECAC"})
_URL: Final = re.compile(r"https?://[^\s\"<]+")
_SERIAL: Final = "C02XXXXXXXXX"
_USER: Final = "user"
# Names of running programs can have names of users and customers.
_LEFT_OUT: Final = frozenset({"processes"})


class Fact(NamedTuple):
    """One fact; `value` is "unknown" if the output of the tool is not understood."""

    name: str
    value: str


def facts_table(report: Report) -> Iterator[Fact]:
    """Yield the facts that a preflight reads."""
    facts = report.facts

    def text(name: str) -> str:
        return facts.get(name, "")

    system, power = mac_facts.parse_system(text("system")), mac_facts.parse_power(text("power"))
    enrollment = mac_facts.parse_enrollment(text("enrollment"))
    free_gb = mac_facts.parse_free_disk_gb(text("disk"))
    owners = mac_facts.parse_volume_owners(text("owners"))
    deferral = mac_facts.parse_deferral(text("restrictions").encode())
    owner_uid = mac_facts.parse_generated_uid(text("owner_uid"))
    is_owner = None if owners is None or not text("owner_uid") else owner_uid in owners
    values = {
        "serial number": mac_facts.parse_serial(text("serial")),
        "macOS": system.version,
        "build": system.build,
        "started": mac_facts.parse_boot_time(text("boot_time")),
        "Apple silicon": mac_facts.parse_apple_silicon(text("apple_silicon")),
        "free disk": None if free_gb is None else f"{free_gb:.1f} GB",
        "AC power": power.on_ac,
        "battery": "none seen" if power.battery_percent is None else f"{power.battery_percent} %",
        "volume owners": None if owners is None else len(owners),
        "the account owns the volume": is_owner,
        "user at the screen": mac_facts.parse_user_logged_in(text("console")),
        "installer running": mac_facts.parse_installer_running(text("processes")),
        "enrolled": enrollment.enrolled,
        "approved by its user": enrollment.user_approved,
        "days of deferral, updates": None if deferral is None else deferral.minor_days,
        "days of deferral, upgrades": None if deferral is None else deferral.major_days,
    }
    for name, value in values.items():
        yield Fact(name, _shown(value))


def _shown(value: object) -> str:
    match value:
        case None:
            return "unknown"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def redacted(report: Report, names: frozenset[str]) -> dict[str, str]:
    """Return the outputs of the Mac's tools without serial number, users, UUIDs and URLs.

    `names` are further texts to remove, as the account of the configuration. The list of programs
    is left out.
    """
    console = report.facts.get("console", "").strip()
    serial = mac_facts.parse_serial(report.facts.get("serial", ""))
    removed = dict.fromkeys({*names, console} - {"", "root", "_mbsetupuser"}, _USER)
    if serial is not None:
        removed[serial] = _SERIAL
    uuids: dict[str, str] = {}

    def uuid(found: re.Match[str]) -> str:
        name = found[0].upper()
        if name in _KNOWN_UUIDS:
            return found[0]
        return uuids.setdefault(name, f"00000000-0000-0000-0000-{len(uuids):012d}")

    def clean(text: str) -> str:
        for name, mark in removed.items():
            text = re.sub(rf"\b{re.escape(name)}\b", mark, text, flags=re.IGNORECASE)
        return _URL.sub("https://mdm.example.org", _UUID.sub(uuid, text))

    kept = {name: text for name, text in report.facts.items() if name not in _LEFT_OUT}
    if "restrictions" in kept:
        kept["restrictions"] = _update_settings(kept["restrictions"])
    return {name: clean(output) for name, output in kept.items()}


def _update_settings(plist: str) -> str:
    """Return the restrictions on updates only, "" if the property list is unreadable."""
    try:
        keys = plistlib.loads(plist.encode())
        names = [name for name in keys if "SoftwareUpdate" in name]
        return plistlib.dumps({name: keys[name] for name in names}).decode()
    except (plistlib.InvalidFileException, ExpatError, ValueError, TypeError, AttributeError):
        return ""
