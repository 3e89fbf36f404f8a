"""Fields of a Mac's responses to MDM commands.

Format: github.com/apple/device-management, mdm/commands: DeviceInformation, SecurityInfo,
ProfileList, ScheduleOSUpdate, and the ErrorChain of every command.
"""

from typing import Any, Final

from pipeline.ingest.foreign_fields import Fields
from pipeline.ingest.mdm_enrollment import refuse_other_products
from pipeline.ingest.payload_retention import ReadFields, values
from schemas.events.checkin import CommandError
from schemas.ids import clean_text
from schemas.macos import OSVersion, running_system

# The fields that the functions below read.
INFORMATION_FIELDS: Final = values(
    *("ProductName", "Model", "OSVersion", "BuildVersion", "SerialNumber"),
    *("SupplementalOSVersionExtra", "SupplementalBuildVersion", "SoftwareUpdateDeviceID"),
    *("DeviceName", "HostName", "IsAppleSilicon", "IsSupervised"),
    *("AvailableDeviceCapacity", "BatteryLevel", "HasBattery"),
    *("EACSPreflight", "PINRequiredForEraseDevice", "AwaitingConfiguration"),
)
SECURITY_FIELDS: Final[ReadFields] = {
    **values("FDE_Enabled", "AuthenticatedRootVolumeEnabled"),
    "ManagementStatus": values("UserApprovedEnrollment", "EnrolledViaDEP"),
}
PROFILE_FIELDS: Final = values("PayloadIdentifier")
ERROR_FIELDS: Final = values(
    "ErrorCode", "ErrorDomain", "USEnglishDescription", "LocalizedDescription"
)

MAX_ERRORS: Final = 32
MAX_UPDATES: Final = 64
MAX_PROFILES: Final = 512

# AvailableDeviceCapacity is in GiB up to macOS 11, in GB from macOS 12 (Apple's
# mdm/commands/information.device.yaml).
_GB_SINCE: Final = OSVersion(12)
_GIB_IN_GB: Final = 1.073741824


def device_information(responses: Fields) -> dict[str, Any]:
    """Return the inventory fields of a DeviceInformation response's QueryResponses.

    A field that is absent or invalid is None; an invalid one is recorded as a problem. Raises
    PayloadError `not_a_mac` for another Apple product. The UDID in the response is not compared: on
    virtual Macs and some others it can be the provisioning UDID.
    """
    product = responses.text("ProductName", "Model")
    refuse_other_products(product)
    version, build = running_system(
        *responses.system("OSVersion", "BuildVersion"),
        responses.supplement("SupplementalOSVersionExtra"),
        responses.build("SupplementalBuildVersion"),
    )
    return {
        "serial": responses.serial("SerialNumber"),
        "os_version": version,
        "build": build,
        "model": product,
        "device_id": responses.text("SoftwareUpdateDeviceID"),
        "hostname": responses.text("DeviceName", "HostName"),
        "apple_silicon": responses.flag("IsAppleSilicon"),
        "supervised": responses.flag("IsSupervised"),
        "free_disk_gb": _free_disk_gb(responses, version),
        "battery_percent": _battery_percent(responses),
    }


def order_conditions(responses: Fields) -> dict[str, Any]:
    """Return `erase_preflight`, `pin_required` and `awaiting_configuration`.

    They are those of a DeviceInformation response. Each is None if it is absent or invalid; an
    invalid one is recorded as a problem.
    """
    return {
        "erase_preflight": responses.text("EACSPreflight"),
        "pin_required": responses.flag("PINRequiredForEraseDevice"),
        "awaiting_configuration": responses.flag("AwaitingConfiguration"),
    }


def _free_disk_gb(responses: Fields, version: OSVersion | None) -> float | None:
    """Return the free space in GB (10^9 bytes); None if it is absent, invalid or not plausible.

    A value that is not a number, a negative space, or one over 1 PB, is recorded as a problem. Up
    to macOS 11 the Mac reports GiB; with an unknown version (None) the value is read as GB.
    """
    free = responses.number("AvailableDeviceCapacity")
    if free is None:
        return None
    if version is not None and version < _GB_SINCE:
        free *= _GIB_IN_GB
    if not 0 <= free <= 1e6:
        responses.bad_value("AvailableDeviceCapacity", "not a plausible free space of a disk")
        return None
    return round(free, 3)


def _battery_percent(responses: Fields) -> float | None:
    """Return the charge in percent, 0 to 100; None without a battery, or if the level is unknown.

    BatteryLevel is 0 to 1, and -1 if the Mac cannot determine it (information.device.yaml). It is
    unknown too if it is absent. Any other value gives None and is recorded as a problem.
    """
    level = responses.number("BatteryLevel")
    if level is None or level == -1 or responses.flag("HasBattery") is False:
        return None
    if not 0 <= level <= 1:
        responses.bad_value("BatteryLevel", "not a level from 0 to 1")
        return None
    return round(level * 100, 1)


def security_info(info: Fields) -> dict[str, Any]:
    """Return the inventory fields of a SecurityInfo response; an absent or invalid one is None.

    No field proves that the bootstrap token is escrowed: `BootstrapTokenAllowedForAuthentication`
    is a permission of the server, not a sign that it has the token.
    `AuthenticatedRootVolumeEnabled` is true if the Mac booted from a sealed system volume.
    """
    management = info.group("ManagementStatus")
    return {
        "user_approved": management.flag("UserApprovedEnrollment"),
        "ade_enrolled": management.flag("EnrolledViaDEP"),
        "filevault": info.flag("FDE_Enabled"),
        "system_volume_sealed": info.flag("AuthenticatedRootVolumeEnabled"),
    }


def profiles(message: Fields) -> dict[str, Any]:
    """Return the inventory field of a ProfileList response: the identifiers of the profiles.

    They are sorted, so equal lists give equal values. None if the field is no list. A profile
    without an identifier is left out; those beyond MAX_PROFILES are too, and are recorded as a
    problem.
    """
    listed = [*message.groups("ProfileList", MAX_PROFILES)]
    if not isinstance(message.values["ProfileList"], list):
        return {"profiles": None}
    found = {profile.text("PayloadIdentifier") for profile in listed}
    return {"profiles": tuple(sorted(name for name in found if name is not None))}


def error_chain(message: Fields) -> tuple[CommandError, ...]:
    """Return the first MAX_ERRORS links of a Mac's ErrorChain, outermost first; () without one.

    An absent domain or description is "". A link that is not a dict, or has no whole number under
    2^63 in size as its code, is left out and recorded as a problem, as are the links beyond
    MAX_ERRORS.
    """
    errors = []
    for error in message.groups("ErrorChain", MAX_ERRORS):
        code = error.values.get("ErrorCode")
        if isinstance(code, bool) or not isinstance(code, int) or abs(code) >= 2**63:
            error.bad_shape("ErrorCode", "not a whole number")
            continue
        errors.append(
            CommandError(
                code=code,
                domain=error.text("ErrorDomain") or "",
                description=error.text("USEnglishDescription", "LocalizedDescription") or "",
            )
        )
    return tuple(errors)


def install_actions(message: Fields) -> tuple[tuple[str, str, str], ...]:
    """Return the results of ScheduleOSUpdate as (product key, install action, status).

    Each element that is absent or invalid is "". An entry's own error chain, which explains the
    install action `Error`, is appended to its status as `(domain code; ...)`. Only the first
    MAX_UPDATES results are read, and more are recorded as a problem; () if the message has none.
    """
    found = []
    for update in message.groups("UpdateResults", MAX_UPDATES):
        status = update.text("Status") or ""
        reasons = "; ".join(f"{one.domain} {one.code}" for one in error_chain(update))
        found.append(
            (
                update.text("ProductKey") or "",
                update.text("InstallAction") or "",
                clean_text(f"{status} ({reasons})" if reasons else status),
            )
        )
    return tuple(found)
