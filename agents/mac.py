"""The interface of an executor to one Mac. Forms: simulated, MDM and SSH.

An order is the one command that an attempt gives to its Mac. Every call is short: long work runs on
the Mac itself and shows in later observations. The acknowledgement of an order never proves that
its work is done.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol, Self

from schemas.jobs import Job, Method
from schemas.macos import Build, OSVersion
from schemas.results import ErrorCode

STEPS: Final = {
    Method.DDM: "declare",
    Method.MDM_COMMAND: "schedule",
    Method.SOFTWAREUPDATE: "install",
    Method.STARTOSINSTALL: "install",
    Method.ERASE_DEVICE: "erase",
    Method.ASR: "restore",
    Method.PROFILES_RENEW: "renew",
    Method.INSTALL_PROFILE: "enroll",
    Method.RESTART_DEVICE: "restart",
    Method.RESTART_UPDATE_SERVICE: "restart",
    Method.ACTIVATION_COMMAND: "activate",
}
"""Name of the one step that each method has on the Mac."""


class InstallState(StrEnum):
    """Apple's `softwareupdate.install-state`, used for every method."""

    NONE = "none"
    WAITING = "waiting"
    DOWNLOADING = "downloading"
    PREPARED = "prepared"
    INSTALLING = "installing"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of an installation.

    `percent` is 0-100, None if unknown. `error_code` is the error of a failed installation; None if
    it is unknown or nothing failed. `since` is the start of this state, None if unknown. `detail`
    is the Mac's own text about a failure.
    """

    state: InstallState = InstallState.NONE
    percent: int | None = None
    error_code: ErrorCode | None = None
    since: datetime | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """The reason for which a form cannot give the order of a job, in any state of the Mac."""

    error_code: ErrorCode
    detail: str


class UnreachableError(Exception):
    """The Mac did not respond. If `act` raises it, the order may have arrived or not.

    `obstacle` is a reason that a person must remove, None if the Mac may respond later by itself.
    """

    def __init__(self, detail: str = "", obstacle: Obstacle | None = None) -> None:
        super().__init__(detail)
        self.obstacle = obstacle


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """State of a Mac from one look; a field is None if its value is unknown.

    `marks` are the `order_marker` names of the orders that the Mac carried out: each form leaves
    the name where it survives (declaration identifier, CommandUUID, marker file with the launchd
    label). `pending` are the names of orders in the queue of its MDM server, `lost` those that were
    in it and will not be delivered as far as is known; `not_delivered` is the reason, of either.
    `is_revocable` is True if a pending order can be withdrawn. `installed_at` is the time of the
    last installation of a system, `free_disk_gb` is in GB (10^9 bytes), `battery_percent` is 0-100,
    None without a battery. `volume_owner` is True if the password of a volume owner is at hand,
    `bootstrap_token` if the token is escrowed at the MDM server; both are also None if the hardware
    needs none. `enrolled_at` is the time of the last complete enrollment. `busy` is True if the Mac
    must be left alone now; `obstacle` is the reason for which this form cannot give the order, None
    without one. `serial` is the serial number that the Mac itself reported. `snapshot_at` and
    `time_machine_at` are the times of the newest APFS snapshot and of the newest complete backup.
    `is_activated` is True if the order was an activation, and its success test passed.
    """

    os_version: OSVersion | None = None
    build: Build | None = None
    boot_at: datetime | None = None
    installed_at: datetime | None = None
    apple_silicon: bool | None = None
    free_disk_gb: float | None = None
    on_ac_power: bool | None = None
    battery_percent: float | None = None
    enrolled: bool | None = None
    user_approved: bool | None = None
    bootstrap_token: bool | None = None
    volume_owner: bool | None = None
    marks: frozenset[str] = frozenset()
    pending: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    not_delivered: Obstacle | None = None
    is_revocable: bool = False
    enrolled_at: datetime | None = None
    busy: bool = False
    obstacle: Obstacle | None = None
    progress: Progress = Progress()
    serial: str | None = None
    snapshot_at: datetime | None = None
    time_machine_at: datetime | None = None
    is_activated: bool = False


class AckKind(StrEnum):
    """Kind of a response to an order."""

    ACCEPTED = "accepted"  # the Mac took the order
    QUEUED = "queued"  # its MDM server has the order, and offers it when the Mac asks
    NOT_NOW = "not_now"  # the Mac cannot take it now
    REFUSED = "refused"  # the Mac will not take it


@dataclass(frozen=True, slots=True)
class Ack:
    """Response to an order. REFUSED is certain: nothing was done on the Mac."""

    kind: AckKind
    error_code: ErrorCode | None = None
    detail: str = ""

    @classmethod
    def accepted(cls) -> Self:
        """Return the response for an order that the Mac took."""
        return cls(AckKind.ACCEPTED)

    @classmethod
    def queued(cls) -> Self:
        """Return the response for an order that waits in the queue of an MDM server."""
        return cls(AckKind.QUEUED)

    @classmethod
    def not_now(cls) -> Self:
        """Return the response for an order that the Mac cannot take now.

        An MDM server keeps the order and offers it again; the SSH forms do not keep it.
        """
        return cls(AckKind.NOT_NOW)

    @classmethod
    def refused(cls, error_code: ErrorCode, detail: str = "") -> Self:
        """Return the response for an order that the Mac did not take and will not take."""
        return cls(AckKind.REFUSED, error_code, detail)


class Mac(Protocol):
    """One Mac, reached in one way. tests/contracts/test_mac.py checks every form."""

    def look(self, job: Job) -> Observation:
        """Return an observation of the Mac; changes nothing.

        Raises UnreachableError if the Mac does not respond.
        """
        ...

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        """Give the one order of this step and return the response.

        Its name is `order_marker(job.job_id, attempt, step)`. A form whose server cannot list its
        queue for `Observation.pending` must carry out two orders with one name only once (NanoMDM
        refuses a CommandUUID that it has seen). Raises UnreachableError if the Mac does not
        respond; then the order may have arrived or not.
        """
        ...


def order_marker(job_id: str, attempt: int, step: str) -> str:
    """Return the name of an order on the Mac: `<job_id>/<attempt>/<step>`."""
    return f"{job_id}/{attempt}/{step}"
