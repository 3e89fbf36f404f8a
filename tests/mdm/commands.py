"""Responses of a Mac to the commands of Apple's MDM protocol.

Format: github.com/apple/device-management, mdm/commands. Error 12021 is the one that Macs send; the
codes of a failed erasure are not documented, and stand-ins here.
"""

import plistlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.serialization import Encoding

from agents.mac import InstallState
from schemas.macos import OSVersion, parse_os_version
from tests.mdm.identity import Identity

if TYPE_CHECKING:
    from tests.mdm.mac import ManagedMac

Content = Mapping[str, Any]
_REMOVED_IN_27: Final = frozenset(
    {"ScheduleOSUpdate", "OSUpdateStatus", "AvailableOSUpdates", "ScheduleOSUpdateScan"}
)
_FIRST_DECLARATIVE: Final = 13
_VERSION_IN_KEY: Final = re.compile(r"\d+\.\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Response:
    """A status, and the fields that the response has beside it."""

    status: str
    fields: Content

    @classmethod
    def acknowledged(cls, **fields: Any) -> "Response":
        """Return the response of a Mac that took the command."""
        return cls("Acknowledged", fields)

    @classmethod
    def error(cls, code: int, domain: str, text: str, *, status: str = "Error") -> "Response":
        """Return a response with an error chain of one error."""
        chain = {"ErrorCode": code, "ErrorDomain": domain}
        chain |= {"LocalizedDescription": text, "USEnglishDescription": text}
        return cls(status, {"ErrorChain": [chain]})


def respond(mac: "ManagedMac", command: Content) -> Response:
    """Carry out a command and return the response."""
    name = str(command["RequestType"])
    handler = _HANDLERS.get(name)
    major = mac.physics.os_version.major
    removed = major >= 27 and name in _REMOVED_IN_27
    too_old = name == "DeclarativeManagement" and major < _FIRST_DECLARATIVE
    if handler is None or removed or too_old:
        text = f"“{name}” is not a valid request type."
        return Response.error(12021, "MCMDMErrorDomain", text)
    return handler(mac, command)


def device_information(mac: "ManagedMac") -> dict[str, Any]:
    """Return all answers of this Mac to DeviceInformation; an unsupported query has none."""
    spec, physics = mac.spec, mac.physics
    version = physics.os_version
    found: dict[str, Any] = {
        "UDID": spec.udid,
        "SerialNumber": spec.serial,
        "OSVersion": str(version.release),
        "BuildVersion": mac.base_build,
        "Model": spec.model,
        "ProductName": spec.model,
        "ModelName": "Mac",
        "DeviceName": spec.hostname or spec.serial,
        "HostName": f"{spec.hostname or spec.serial}.local",
        "IsSupervised": spec.supervised,
        "AvailableDeviceCapacity": float(physics.free_disk_gb),
        "DeviceCapacity": 245.0,
        "AwaitingConfiguration": mac.awaiting_configuration,
        "PINRequiredForEraseDevice": mac.behavior.pin_required,
        "PINRequiredForDeviceLock": True,
        "MDMOptions": {},
    }
    if version.major >= 12:
        found["IsAppleSilicon"] = spec.apple_silicon
        if spec.device_id is not None:
            found["SoftwareUpdateDeviceID"] = spec.device_id
    if version >= OSVersion(13, 3):
        found["EACSPreflight"] = mac.behavior.eacs_preflight
        found["HasBattery"] = physics.battery_percent is not None
        found["SupplementalBuildVersion"] = str(physics.build)
        if physics.battery_percent is not None:
            found["BatteryLevel"] = physics.battery_percent / 100
        if version.supplement:
            found["SupplementalOSVersionExtra"] = f"({version.supplement})"
    return found


def _device_information(mac: "ManagedMac", command: Content) -> Response:
    known = device_information(mac)
    found = {query: known[query] for query in command.get("Queries", known) if query in known}
    return Response.acknowledged(QueryResponses=found)


def _security_info(mac: "ManagedMac", _: Content) -> Response:
    spec, physics = mac.spec, mac.physics
    info = {
        "AuthenticatedRootVolumeEnabled": physics.sealed,
        "BootstrapTokenAllowedForAuthentication": (
            "allowed" if physics.bootstrap_token else "disallowed"
        ),
        "BootstrapTokenRequiredForSoftwareUpdate": spec.apple_silicon,
        "BootstrapTokenRequiredForKernelExtensionApproval": spec.apple_silicon,
        "FDE_Enabled": True,
        "FDE_HasPersonalRecoveryKey": True,
        "SystemIntegrityProtectionEnabled": True,
        "SecureBoot": {"SecureBootLevel": "full", "ExternalBootLevel": "disallowed"},
        "ManagementStatus": {
            "EnrolledViaDEP": spec.ade,
            "UserApprovedEnrollment": physics.user_approved,
            "IsUserEnrollment": False,
            "IsActivationLockManageable": True,
        },
    }
    return Response.acknowledged(SecurityInfo=info)


def _certificate_list(mac: "ManagedMac", command: Content) -> Response:
    """List the identity of the enrollment, and without ManagedOnly one that macOS makes itself."""
    certificates = [mac.identity.certificate]
    if not command.get("ManagedOnly", False):
        certificates.append(Identity.create("com.apple.systemdefault").certificate)
    entries = [
        {
            "CommonName": certificate.subject.rfc4514_string(),
            "IsIdentity": True,
            "Data": certificate.public_bytes(Encoding.DER),
        }
        for certificate in certificates
    ]
    return Response.acknowledged(CertificateList=entries)


def _schedule_os_update(mac: "ManagedMac", command: Content) -> Response:
    """Begin an update; only the first entry of `Updates` counts."""
    [update, *_] = command["Updates"]
    named = update.get("ProductVersion") or update.get("ProductKey", "")
    key = update.get("ProductKey", f"_OSX_{named}")
    found = _VERSION_IN_KEY.search(str(named))
    result = {"ProductKey": key, "InstallAction": update["InstallAction"]}
    refused = {"ProductKey": key, "InstallAction": "Error", "Status": "InstallFailed"}
    too_old = "ProductVersion" in update and mac.physics.os_version.major < 12
    if found is None or too_old or not mac.spec.supervised:
        return Response.acknowledged(UpdateResults=[refused])
    if mac.enforced is not None or update["InstallAction"] in {"NotifyOnly", "DownloadOnly"}:
        # Beside a declared update the command is ignored.
        return Response.acknowledged(UpdateResults=[result | {"Status": "Idle"}])
    if not mac.update_by_command(parse_os_version(found.group())):
        return Response.acknowledged(UpdateResults=[refused])
    return Response.acknowledged(UpdateResults=[result | {"Status": "Downloading"}])


def _os_update_status(mac: "ManagedMac", _: Content) -> Response:
    progress, pending = mac.physics.progress, mac.physics.pending_version
    statuses = {InstallState.DOWNLOADING: "Downloading", InstallState.INSTALLING: "Installing"}
    if pending is None:
        return Response.acknowledged(OSUpdateStatus=[])
    is_downloaded = progress.state in {InstallState.PREPARED, InstallState.INSTALLING}
    status = {
        "ProductKey": f"_OSX_{pending}",
        "IsDownloaded": is_downloaded,
        "DownloadPercentComplete": 1.0 if is_downloaded else 0.42,
        "Status": statuses.get(progress.state, "Idle"),
    }
    return Response.acknowledged(OSUpdateStatus=[status])


def _available_os_updates(mac: "ManagedMac", _: Content) -> Response:
    running = mac.physics.os_version
    updates = [
        {
            "ProductKey": f"_OSX_{release.version}",
            "HumanReadableName": f"macOS {release.version}",
            "Version": str(release.version),
            "Build": str(release.build),
            "IsMajorOSUpdate": release.version.major != running.major,
            "RestartRequired": True,
        }
        for release in mac.site.releases
        if release.version > running
    ]
    return Response.acknowledged(AvailableOSUpdates=updates)


def _install_profile(mac: "ManagedMac", command: Content) -> Response:
    try:
        profile = plistlib.loads(command["Payload"])
        payloads = profile["PayloadContent"]
    except (KeyError, TypeError, ValueError, plistlib.InvalidFileException):
        text = "Profile Installation Failed"
        return Response.error(4001, "MCInstallationErrorDomain", text, status="CommandFormatError")
    if any(payload["PayloadType"] == "com.apple.mdm" for payload in payloads):
        mac.enroll_again()
    return Response.acknowledged()


def _erase_device(mac: "ManagedMac", command: Content) -> Response:
    """Erase the Mac; only after DoNotObliterate an Error means that it was not erased."""
    behavior = command.get("ObliterationBehavior", "Default")
    if mac.behavior.pin_required and len(command.get("PIN", "")) != 6:
        return Response.error(12061, "MCMDMErrorDomain", "A PIN of six characters is required.")
    fails = mac.behavior.eacs_preflight != "success"
    if not fails or behavior != "DoNotObliterate":
        mac.erase()
    if fails:
        return Response.error(12080, "MCMDMErrorDomain", mac.behavior.eacs_preflight)
    return Response.acknowledged()


def _device_configured(mac: "ManagedMac", _: Content) -> Response:
    """Let the Mac leave Setup Assistant, of which it sends no message."""
    mac.awaiting_configuration = False
    return Response.acknowledged()


def _restart_device(mac: "ManagedMac", command: Content) -> Response:
    """Restart the Mac; with NotifyUser only its user is asked, who ignores it."""
    if not command.get("NotifyUser", False):
        mac.restart()
    return Response.acknowledged()


def _declarative_management(mac: "ManagedMac", _: Content) -> Response:
    mac.must_fetch_declarations = True
    return Response.acknowledged()


def _profile_list(mac: "ManagedMac", _: Content) -> Response:
    listed = [{"PayloadIdentifier": name, "IsManaged": True} for name in mac.behavior.profiles]
    return Response.acknowledged(ProfileList=listed)


_HANDLERS: Final[dict[str, Callable[["ManagedMac", Content], Response]]] = {
    "DeviceInformation": _device_information,
    "SecurityInfo": _security_info,
    "ProfileList": _profile_list,
    "CertificateList": _certificate_list,
    "ScheduleOSUpdate": _schedule_os_update,
    "OSUpdateStatus": _os_update_status,
    "AvailableOSUpdates": _available_os_updates,
    "InstallProfile": _install_profile,
    "EraseDevice": _erase_device,
    "RestartDevice": _restart_device,
    "DeviceConfigured": _device_configured,
    "DeclarativeManagement": _declarative_management,
}
