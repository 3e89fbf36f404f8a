"""Events of a simulated Mac, made from its state at one time."""

from datetime import datetime
from typing import TYPE_CHECKING, Final

from schemas.envelope import (
    AuthenticatedEvent,
    BootstrapTokenEvent,
    CheckedOutEvent,
    CommandReportedEvent,
    DdmStatusEvent,
    DeviceEvent,
    InventoryEvent,
    TokenUpdatedEvent,
)
from schemas.events.checkin import (
    BootstrapTokenSet,
    DdmStatusReported,
    MdmAuthenticated,
    MdmCheckedOut,
    MdmCommandReported,
    MdmTokenUpdated,
)
from schemas.events.inventory import InventoryReported, InventorySource
from schemas.ids import event_id

if TYPE_CHECKING:
    from agents.simulated.machine import SimulatedMac

_FIRST_DDM_STATUS: Final = 14


class Reporter:
    """Maker of one Mac's events. Reports of an unchanged Mac share one data object."""

    def __init__(self, mac: "SimulatedMac") -> None:
        self._mac = mac
        self._source = f"simulated/{mac.spec.site}"
        self._sequence = 0
        self._known: dict[InventorySource, InventoryReported] = {}

    def changed(self) -> None:
        """Forget the data of the last reports; call it after each change of the Mac."""
        self._known.clear()

    def inventory(self, source: InventorySource, at: datetime) -> InventoryEvent:
        """Return a report with all fields of this source."""
        data = self._known.get(source)
        if data is None:
            data = self._mdm() if source == "mdm" else self._osquery()
            self._known[source] = data
        return InventoryEvent(
            id=self._id(at),
            source=self._source,
            subject=self._mac.spec.udid,
            time=at,
            data=data,
        )

    def loan_returned(self, at: datetime) -> InventoryEvent:
        """Return the report of an administrator that the loan device was returned."""
        spec = self._mac.spec
        data = InventoryReported(
            source="admin", udid=spec.udid, serial=spec.serial, loan_returned_at=at
        )
        return InventoryEvent(**self._envelope(at), data=data)

    def authenticated(self, at: datetime) -> AuthenticatedEvent:
        """Return the check-in that begins an enrollment."""
        mac, spec = self._mac, self._mac.spec
        data = MdmAuthenticated(
            udid=spec.udid,
            enrollment_id=spec.udid,
            serial=spec.serial,
            os_version=mac.os_version,
            build=mac.build,
            model=spec.model,
            hostname=spec.hostname,
            server=spec.mdm_server,
        )
        return AuthenticatedEvent(**self._envelope(at), data=data)

    def token_updated(self, at: datetime) -> TokenUpdatedEvent:
        """Return the check-in that completes an enrollment."""
        spec = self._mac.spec
        data = MdmTokenUpdated(
            udid=spec.udid, enrollment_id=spec.udid, tally=1, server=spec.mdm_server
        )
        return TokenUpdatedEvent(**self._envelope(at), data=data)

    def checked_out(self, at: datetime) -> CheckedOutEvent:
        """Return the check-in after the removal of the MDM profile."""
        spec = self._mac.spec
        data = MdmCheckedOut(udid=spec.udid, enrollment_id=spec.udid)
        return CheckedOutEvent(**self._envelope(at), data=data)

    def escrowed(self, at: datetime) -> BootstrapTokenEvent:
        """Return the check-in that gives the bootstrap token to the MDM server."""
        spec = self._mac.spec
        data = BootstrapTokenSet(udid=spec.udid, enrollment_id=spec.udid)
        return BootstrapTokenEvent(**self._envelope(at), data=data)

    def not_now(self, command_uuid: str, at: datetime) -> CommandReportedEvent:
        """Return the report of a NotNow for a command."""
        spec = self._mac.spec
        data = MdmCommandReported(
            udid=spec.udid,
            enrollment_id=spec.udid,
            command_uuid=command_uuid,
            status="NotNow",
        )
        return CommandReportedEvent(**self._envelope(at), data=data)

    def ddm_status(self, at: datetime) -> list[DeviceEvent]:
        """Return one DDM status report; an empty list before macOS 14 or outside MDM."""
        mac = self._mac
        if not mac.enrolled or mac.os_version.major < _FIRST_DDM_STATUS:
            return []
        progress = mac.progress
        failed = progress.error_code is not None
        data = DdmStatusReported(
            udid=mac.spec.udid,
            enrollment_id=mac.spec.udid,
            os_version=mac.os_version,
            build=mac.build,
            install_state=progress.state.value,
            pending_version=mac.pending_version,
            failure_count=1 if failed else None,
            failure_reason=progress.error_code.value if progress.error_code else None,
            failure_at=progress.since if failed else None,
        )
        return [DdmStatusEvent(**self._envelope(at), data=data)]

    def _envelope(self, at: datetime) -> dict[str, object]:
        """Return the fields id, source, subject and time of the next event."""
        return {
            "id": self._id(at),
            "source": self._source,
            "subject": self._mac.spec.udid,
            "time": at,
        }

    def _id(self, at: datetime) -> str:
        """Return the id of the next event; each call gives another one."""
        self._sequence += 1
        return event_id(f"simulated {self._mac.spec.udid} {self._sequence} {at.timestamp()}")

    def _mdm(self) -> InventoryReported:
        mac, spec = self._mac, self._mac.spec
        return InventoryReported(
            source="mdm",
            udid=spec.udid,
            serial=spec.serial,
            os_version=mac.os_version,
            build=mac.build,
            model=spec.model,
            device_id=spec.device_id,
            hostname=spec.hostname,
            enrollment_id=spec.udid,
            site=spec.site,
            apple_silicon=spec.apple_silicon,
            supervised=spec.supervised,
            user_approved=mac.user_approved,
            ade_enrolled=spec.ade,
            bootstrap_token_escrowed=mac.bootstrap_token,
            free_disk_gb=mac.free_disk_gb,
            battery_percent=mac.battery_percent,
            mdm_enrolled=True,
            mdm_server=spec.mdm_server,
        )

    def _osquery(self) -> InventoryReported:
        mac, spec = self._mac, self._mac.spec
        return InventoryReported(
            source="osquery",
            udid=spec.udid,
            serial=spec.serial,
            os_version=mac.os_version,
            build=mac.build,
            model=spec.model,
            hostname=spec.hostname,
            site=spec.site,
            volume_owner_available=spec.volume_owner,
            free_disk_gb=mac.free_disk_gb,
            battery_percent=mac.battery_percent,
            on_ac_power=mac.on_ac_power,
            firmware=mac.firmware,
            system_volume_sealed=mac.sealed,
            mdm_enrolled=mac.enrolled,
            boot_at=mac.boot_at,
            activations=mac.activations,
            compliant=mac.compliant,
        )
