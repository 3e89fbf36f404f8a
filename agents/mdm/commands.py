"""Commands of Apple's MDM protocol: their content, and the effects that forbid a repeat.

Format: github.com/apple/device-management, mdm/commands. A server chooses when a Mac gets a
command, and its acknowledgement proves only that the Mac received it.

| command | repeat is safe | why not |
| --- | --- | --- |
| DeviceInformation, SecurityInfo, CertificateList, ProfileList | yes | |
| DeclarativeManagement | yes | starts a synchronization, which changes nothing if all is equal |
| ScheduleOSUpdate | no | restarts the user's timer, and can reboot at once (openradar 20594) |
| InstallProfile of the enrollment | no | ends the enrollment and its queue, and begins another |
| RestartDevice | no | reboots at once |
| EraseDevice | no | erases the Mac |

A command that is safe is queued again, with another CommandUUID, after the server lost it. Any
other lost command ends its job with a named error: a lost command may still arrive.
"""

import plistlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from schemas.jobs import Method
from schemas.macos import OSVersion
from schemas.method_versions import exists_on

_NAMESPACE: Final = uuid5(NAMESPACE_URL, "urn:drydock:mdm-command")
_VERSION: Final = 5


class RequestType(StrEnum):
    """The commands that Drydock sends, by Apple's names."""

    DEVICE_INFORMATION = "DeviceInformation"
    SECURITY_INFO = "SecurityInfo"
    PROFILE_LIST = "ProfileList"
    CERTIFICATE_LIST = "CertificateList"
    DECLARATIVE_MANAGEMENT = "DeclarativeManagement"
    SCHEDULE_OS_UPDATE = "ScheduleOSUpdate"
    INSTALL_PROFILE = "InstallProfile"
    RESTART_DEVICE = "RestartDevice"
    ERASE_DEVICE = "EraseDevice"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Effects of a second delivery of a command on the Mac and its user."""

    restarts_timer: bool = False
    reboots_at_once: bool = False
    ends_enrollment: bool = False
    destroys: bool = False

    @property
    def safe_to_repeat(self) -> bool:
        """True if the Mac may get the command twice."""
        return not (
            self.restarts_timer or self.reboots_at_once or self.ends_enrollment or self.destroys
        )


EFFECTS: Final[Mapping[RequestType, Effects]] = {
    RequestType.DEVICE_INFORMATION: Effects(),
    RequestType.SECURITY_INFO: Effects(),
    RequestType.PROFILE_LIST: Effects(),
    RequestType.CERTIFICATE_LIST: Effects(),
    RequestType.DECLARATIVE_MANAGEMENT: Effects(),
    RequestType.SCHEDULE_OS_UPDATE: Effects(restarts_timer=True, reboots_at_once=True),
    RequestType.INSTALL_PROFILE: Effects(ends_enrollment=True),
    RequestType.RESTART_DEVICE: Effects(reboots_at_once=True),
    RequestType.ERASE_DEVICE: Effects(reboots_at_once=True, ends_enrollment=True, destroys=True),
}

QUERIES: Final = (
    "OSVersion",
    "BuildVersion",
    "SupplementalOSVersionExtra",
    "SupplementalBuildVersion",
    "ProductName",
    "SerialNumber",
    "DeviceName",
    "SoftwareUpdateDeviceID",
    "IsAppleSilicon",
    "IsSupervised",
    "AvailableDeviceCapacity",
    "HasBattery",
    "BatteryLevel",
    "EACSPreflight",
    "PINRequiredForEraseDevice",
    "AwaitingConfiguration",
)


class UnsupportedCommandError(ValueError):
    """The command does not exist for this Mac; the message has the reason."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command with its CommandUUID. Its representation has no content: it can be secret."""

    uuid: str
    request_type: RequestType
    plist: bytes

    def __repr__(self) -> str:
        """Return type and CommandUUID, without the content."""
        return f"Command({self.request_type}, {self.uuid})"


def command_uuid(order: str, number: int = 0) -> str:
    """Return the CommandUUID of an order, always the same for equal arguments, in upper case.

    `order` is the `order_marker`, or a name that begins with it. `number` counts the commands that
    the server lost before this one.
    """
    return str(uuid5(_NAMESPACE, f"{order}#{number}" if number else order)).upper()


def may_be_ours(uuid: str) -> bool:
    """Return False for a CommandUUID that `command_uuid` cannot return.

    True does not prove that it is one: other programs can derive ids in the same way.
    """
    try:
        return UUID(uuid).version == _VERSION
    except ValueError:
        return False


def device_information(order: str, number: int = 0) -> Command:
    """Return the query of the fields that the checks before an order need."""
    return _command(order, number, RequestType.DEVICE_INFORMATION, Queries=list(QUERIES))


def security_info(order: str, number: int = 0) -> Command:
    """Return the query of enrollment and bootstrap token."""
    return _command(order, number, RequestType.SECURITY_INFO)


def profile_list(order: str, number: int = 0) -> Command:
    """Return the query of the configuration profiles on the Mac."""
    return _command(order, number, RequestType.PROFILE_LIST)


def certificate_list(order: str, number: int = 0) -> Command:
    """Return the query of the certificates of MDM, with the identity of the enrollment.

    ManagedOnly leaves out the identities that macOS makes for itself
    (github.com/apple/device-management, mdm/commands/certificate.list.yaml).
    """
    return _command(order, number, RequestType.CERTIFICATE_LIST, ManagedOnly=True)


def declarative_management(order: str, number: int = 0) -> Command:
    """Return the command that makes a Mac fetch its declarations.

    It has no `Data`: the tokens of KMFDDM's default storage differ between two requests although no
    declaration changed (v0.8.3), and without them the Mac asks for the present ones.
    """
    return _command(order, number, RequestType.DECLARATIVE_MANAGEMENT)


def schedule_os_update(order: str, target: OSVersion, running: OSVersion | None) -> Command:
    """Return the command that installs `target` as soon as possible, after a notice to the user.

    For macOS 12 and 13 only: raises UnsupportedCommandError if `running`, the Mac's own version, is
    known and another one (`schemas.method_versions`).
    """
    if running is not None and not exists_on(Method.MDM_COMMAND, running):
        raise UnsupportedCommandError(f"ScheduleOSUpdate is not for macOS {running}")
    update = {"InstallAction": "InstallASAP", "ProductVersion": str(target.release)}
    return _command(order, 0, RequestType.SCHEDULE_OS_UPDATE, Updates=[update])


def erase_device(order: str, pin: str | None) -> Command:
    """Return the command that erases all content and settings, or changes nothing.

    DoNotObliterate is the only behaviour for which an Error means that the Mac was not erased
    (github.com/apple/device-management, mdm/commands/device.erase.yaml). `pin`, six characters, is
    for a Mac that requires one: who holds the Mac afterwards needs it to unlock the Mac.
    """
    given = {"ObliterationBehavior": "DoNotObliterate"}
    if pin is not None:
        given["PIN"] = pin
    return _command(order, 0, RequestType.ERASE_DEVICE, **given)


def install_profile(order: str, profile: bytes) -> Command:
    """Return the command that installs this profile, in the form of a .mobileconfig file."""
    return _command(order, 0, RequestType.INSTALL_PROFILE, Payload=profile)


def restart_device(order: str, *, asks_user: bool) -> Command:
    """Return the command that restarts the Mac at once, without a question to its user.

    With `asks_user` a notice asks the user to restart, who can ignore it; without a user at the Mac
    it restarts at once. Before macOS 11.3 the Mac restarts in both cases
    (github.com/apple/device-management, mdm/commands/device.restart.yaml).
    """
    given = {"NotifyUser": True} if asks_user else {}
    return _command(order, 0, RequestType.RESTART_DEVICE, **given)


def _command(order: str, number: int, request_type: RequestType, **given: Any) -> Command:
    uuid = command_uuid(order, number)
    content = {"CommandUUID": uuid, "Command": {"RequestType": request_type.value, **given}}
    return Command(uuid, request_type, plistlib.dumps(content))
