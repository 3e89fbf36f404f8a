"""What an MDM server saw of a Mac.

Apple's check-in and command protocol (github.com/apple/device-management, mdm/checkin) as
NanoMDM and MicroMDM pass it on. A hook does not prove that the server accepted the request, and
neither its arrival nor its time orders it: the folds built on these are order-free.
"""

from typing import Annotated, Any

from pydantic import AwareDatetime, Field

from schemas.ids import SerialField, TextField, UdidField
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel


class MdmAuthenticated(WireModel):
    """A Mac began to enrol; it is enrolled once a `TokenUpdate` follows."""

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
    """A push token arrived. `tally` 1 completes an enrolment, more is a refresh, None unknown."""

    udid: UdidField
    enrollment_id: TextField | None = None
    enrollment_type: TextField = "Device"
    tally: Annotated[int, Field(ge=0)] | None = None
    awaiting_configuration: bool | None = None
    server: TextField | None = None


class MdmCheckedOut(WireModel):
    """The MDM profile was removed."""

    udid: UdidField
    enrollment_id: TextField | None = None
    enrollment_type: TextField = "Device"


class CommandError(WireModel):
    """One link of Apple's ErrorChain."""

    code: int
    domain: TextField
    description: TextField = ""


class MdmCommandReported(WireModel):
    """A Mac polled (`Idle`) or answered a command. `status` is the Mac's own word:
    Acknowledged, Error, CommandFormatError, Idle, NotNow; anything else is kept as it came.

    `install_actions` are ScheduleOSUpdate's results as (product key, install action, status); an
    install action `Error` under an Acknowledged command is a failure.
    """

    udid: UdidField
    enrollment_id: TextField | None = None
    enrollment_type: TextField = "Device"
    command_uuid: TextField | None = None
    status: TextField
    error_chain: tuple[CommandError, ...] = ()
    install_actions: tuple[tuple[TextField, TextField, TextField], ...] = ()


class BootstrapTokenSet(WireModel):
    """A Mac escrowed (`escrowed`) or cleared its bootstrap token; the token itself is cut out."""

    udid: UdidField
    enrollment_id: TextField | None = None
    escrowed: bool = True


class DdmStatusReported(WireModel):
    """A declarative status report. Incremental unless `full`: an absent item is not news.

    `install_state` is Apple's (none, waiting, downloading, prepared, installing, failed; others
    may come). `status_items` is `StatusItems` as sent, for what is not lifted out.
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
