"""Translation of Munki's ManagedInstallReport.plist to an inventory event.

The keys are those that Munki writes (github.com/munki/munki, reports and updatecheck). The report
has the serial number and no UDID; the serial number joins it to the Mac.
"""

import re
from datetime import UTC, datetime
from typing import Final

from pipeline.ingest.device_payload import PLIST, DevicePayload, plausible_time
from pipeline.ingest.foreign_fields import Fields, from_epoch
from pipeline.ingest.payload_retention import PayloadFields, values
from pipeline.ingest.plist_payload import load_plist
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import PayloadError, Translation
from schemas.dead_letters import DeadLetterCode

SOURCE: Final = "munki"

_LOCATION: Final = "plist: "
_REPORT_KEYS: Final = ("MachineInfo", "ManagedInstallVersion", "RunType", "ManifestName")
REPORT_FIELDS: Final = PayloadFields(
    {
        **values("StartTime", "EndTime", "AvailableDiskSpace"),
        "MachineInfo": values(
            *("serial_number", "os_vers", "os_build_number", "machine_model", "device_id"),
            *("hostname", "arch"),
        ),
    }
)
_UNKNOWN: Final = "UNKNOWN"
_DEVICE_ID: Final = re.compile(r"[A-Z][A-Za-z0-9]*AP", re.ASCII)


def translate(raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor) -> Translation:
    """Return the inventory event of one report, dated at the end of the run, else at its start.

    Without either, or if the time is more than a day after `received_at`, it is dated
    `received_at`. A report shows that a run took place and not its installs: it gives no
    `activations`. A report without a serial number is a dead letter `no_device`, a plist that is
    not such a report `unknown_type`. An invalid field is a dead letter, and the rest is used.
    Raises nothing.
    """
    payload = DevicePayload(SOURCE, raw, origin, received_at, redactor, media_type=PLIST)
    try:
        unreadable: list[PayloadError] = []
        report = load_plist(raw, unreadable)
        payload.problems.add_all(unreadable, _LOCATION)
        payload.keep(report, REPORT_FIELDS)
        if not isinstance(report, dict) or not any(key in report for key in _REPORT_KEYS):
            raise PayloadError(
                DeadLetterCode.UNKNOWN_TYPE, "not a ManagedInstallReport", _LOCATION + "root"
            )
        _report(Fields(report, _LOCATION, payload.problems), payload)
    except PayloadError as error:
        return payload.refuse(error)
    return payload.translation()


def _report(report: Fields, payload: DevicePayload) -> None:
    """Add the inventory report to the payload.

    Raises PayloadError `no_device` if the report has no valid serial number.
    """
    machine = report.group("MachineInfo")
    serial = machine.serial("serial_number")
    if serial is None:
        raise PayloadError(
            DeadLetterCode.NO_DEVICE,
            "the report has no serial number",
            machine.where + "serial_number",
        )
    reported_at = _instant(report, "EndTime") or _instant(report, "StartTime")
    parts = machine.version_of_parts("os_vers_major", "os_vers_minor", "os_vers_patch")
    version, build = machine.system("os_vers", "os_build_number", parts)
    model, device_id = machine.text("machine_model"), machine.text("device_id")
    payload.add_inventory(
        "munki",
        plausible_time(reported_at, payload.received_at),
        serial=serial,
        os_version=version,
        build=build,
        model=None if model == _UNKNOWN else model,
        device_id=device_id if device_id and _DEVICE_ID.fullmatch(device_id) else None,
        hostname=machine.text("hostname"),
        # A Munki older than Apple silicon reports x86_64 under Rosetta: only arm64 is certain.
        apple_silicon=True if machine.text("arch") == "arm64" else None,
        free_disk_gb=_free_disk_gb(report),
    )


def _free_disk_gb(report: Fields) -> float | None:
    """Return the free space in GB (10^9 bytes); None if it is absent or unknown.

    AvailableDiskSpace is in KB of 1,024 bytes; Munki writes 0 if the space is unknown. A value that
    is not a number, a negative space, or one over 1 PB gives None too, and is recorded as a
    problem.
    """
    kilobytes = report.number("AvailableDiskSpace")
    if not kilobytes:
        return None
    free = round(kilobytes * 1024 / 1e9, 3)
    if not 0 <= free <= 1e6:
        report.bad_value("AvailableDiskSpace", "not a plausible free space of a disk")
        return None
    return free


def _instant(report: Fields, name: str) -> datetime | None:
    """Return a date in UTC; text is that of Munki before version 7: `2018-05-02 17:20:31 +0000`.

    None if the field is absent, before 2001 or after 2099; None, with a problem, for any other
    value.
    """
    value = report.values.get(name)
    if isinstance(value, datetime):
        return from_epoch(value.replace(tzinfo=UTC).timestamp())
    text = report.text(name)
    if text is None:
        return None
    try:
        return from_epoch(datetime.strptime(text, "%Y-%m-%d %H:%M:%S %z").timestamp())
    except (ValueError, OverflowError):
        report.bad_value(name, "not a date")
        return None
