"""What an executor can do to a Mac and see of it. Forms: simulated, dry run, later SSH and MDM.

Every call is short: what takes long runs on the Mac itself and shows in later looks. An answer to
an order is progress, never success.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, Self

from schemas.jobs import Job
from schemas.macos import Build, OSVersion
from schemas.results import ErrorCode


class UnreachableError(Exception):
    """No answer. Raised by `act`, it does not say whether the order arrived."""


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
    """How far an installation is. `since` is when it came to this state, where that is known."""

    state: InstallState = InstallState.NONE
    percent: int | None = None
    error_code: ErrorCode | None = None
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A Mac as just seen; None is 'cannot be told'.

    `marks` are the orders carried out on it, as `mark()` names them: each form leaves the name
    where it survives (declaration identifier, CommandUUID, marker file with the launchd label).
    `pending` are orders that its MDM server holds for it. `installed_at` is when a system was last
    put on it, `free_disk_gb` GB (10^9 bytes), `battery_percent` 0-100 (None without a battery).
    `volume_owner` and `bootstrap_token` are None where the hardware needs none.
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
    progress: Progress = Progress()


class AckKind(StrEnum):
    """The Mac took the order, cannot take it now, or will not."""

    ACCEPTED = "accepted"
    NOT_NOW = "not_now"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to an order. `refused` says for certain that nothing was done."""

    kind: AckKind
    error_code: ErrorCode | None = None
    detail: str = ""

    @classmethod
    def accepted(cls) -> Self:
        """The order was taken."""
        return cls(AckKind.ACCEPTED)

    @classmethod
    def not_now(cls) -> Self:
        """Not now. An MDM server keeps the order and offers it again; SSH forms keep nothing."""
        return cls(AckKind.NOT_NOW)

    @classmethod
    def refused(cls, error_code: ErrorCode, detail: str = "") -> Self:
        """The order was not taken and will not be."""
        return cls(AckKind.REFUSED, error_code, detail)


class Mac(Protocol):
    """One Mac, reached in one way."""

    def look(self, job: Job) -> Observation:
        """See the Mac; changes nothing. Raises UnreachableError."""
        ...

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        """Give the one order of this step, under the name `mark(job.job_id, attempt, step)`.

        A form whose server cannot show its queue in `Observation.pending` must make the same name
        twice one order (NanoMDM refuses a CommandUUID it has had). Raises UnreachableError.
        """
        ...


def order_marker(job_id: str, attempt: int, step: str) -> str:
    """The name under which an order is known on the Mac: `<job_id>/<attempt>/<step>`."""
    return f"{job_id}/{attempt}/{step}"
