"""Check-ins and command results of Macs, as an MDM server's webhooks report them.

Apple's check-in and command protocol (github.com/apple/device-management, mdm/checkin), in the form
of NanoMDM and MicroMDM. A webhook does not prove that the server accepted the request. Webhooks can
arrive in another order, and their times can be out of order too, so the folds do not depend on
order.
"""

from typing import Annotated, Any

from pydantic import AwareDatetime, Field

from schemas.ids import SerialField, TextField, UdidField
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel


class MdmAuthenticated(WireModel):
    """A Mac began an enrollment; the `TokenUpdate` that follows completes it."""

    udid: UdidField
    enrollment_id: TextField | None = None
    enrollment_type: TextField = "Device"
    serial: SerialField | None = None
    os_version: OSVersionField | None = None
    build: BuildField | None = None
    model: TextField | None = None
    hostname: TextField | None = None
    server: TextField | None = None


class MdmTokenUpdated(WireModel):
    """A Mac sent a push token.

    `tally` 1 completes an enrollment, a higher value is a refresh, None is unknown.
    """

    udid: UdidField
    enrollment_id: TextField | None = None
    enrollment_type: TextField = "Device"
    tally: Annotated[int, Field(ge=0)] | None = None
    awaiting_configuration: bool | None = None
    server: TextField | None = None


class MdmCheckedOut(WireModel):
    """The MDM profile of a Mac was removed."""

    udid: UdidField
    enrollment_id: TextField | None = None
    enrollment_type: TextField = "Device"


class CommandError(WireModel):
    """One entry of Apple's ErrorChain."""

    code: int
    domain: TextField
    description: TextField = ""


class MdmCommandReported(WireModel):
    """A Mac asked for commands (`Idle`) or reported the result of one.

    `status` is the Mac's own value: Acknowledged, Error, CommandFormatError, Idle, NotNow; other
    values are kept unchanged. `install_actions` are ScheduleOSUpdate's results as (product key,
    install action, status); an install action `Error` is a failure although the command is
    Acknowledged. `erase_preflight` is DeviceInformation's EACSPreflight: `success`, or the reason
    for which EraseDevice would fail. `pin_required`: EraseDevice needs a PIN.
    `awaiting_configuration`: the Mac waits in Setup Assistant for the server's DeviceConfigured.
    """

    udid: UdidField
    enrollment_id: TextField | None = None
    enrollment_type: TextField = "Device"
    command_uuid: TextField | None = None
    status: TextField
    error_chain: tuple[CommandError, ...] = ()
    install_actions: tuple[tuple[TextField, TextField, TextField], ...] = ()
    erase_preflight: TextField | None = None
    pin_required: bool | None = None
    awaiting_configuration: bool | None = None


class BootstrapTokenSet(WireModel):
    """A Mac escrowed its bootstrap token, or cleared it. The token is redacted."""

    udid: UdidField
    enrollment_id: TextField | None = None
    escrowed: bool = True


class DdmStatusReported(WireModel):
    """A declarative status report. Unless `full`, an absent item is unchanged.

    `install_state` is Apple's value: none, waiting, downloading, prepared, installing, failed, or a
    later addition. `status_items` is `StatusItems` with the values that have a field here, and the
    types of the others; `errors` has the names and codes of `Errors`, and the types of the others.
    """

    udid: UdidField
    enrollment_id: TextField | None = None
    enrollment_type: TextField = "Device"
    full: bool = False
    serial: SerialField | None = None
    os_version: OSVersionField | None = None
    build: BuildField | None = None
    model: TextField | None = None
    device_id: TextField | None = None
    install_state: TextField | None = None
    pending_version: OSVersionField | None = None
    pending_build: BuildField | None = None
    failure_count: int | None = None
    failure_reason: TextField | None = None
    failure_at: AwareDatetime | None = None
    declaration_id: TextField | None = None
    status_items: dict[str, Any] = Field(default_factory=dict)
    errors: tuple[dict[str, Any], ...] = ()
