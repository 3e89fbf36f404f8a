"""Messages between the client and the server of simulated Macs."""

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, Field
from pydantic.dataclasses import dataclass

from agents.mac import Ack, AckKind, InstallState, Observation, Progress
from agents.simulated.network import SiteRates
from agents.simulated.spec import MacSpec, SimulatedRelease
from schemas.ids import TextField
from schemas.jobs import Job
from schemas.macos import BuildField, OSVersionField
from schemas.model import WireModel
from schemas.results import ErrorCode


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """A simulated fleet as a file. `speed` is virtual seconds in one second of system time."""

    start: AwareDatetime
    macs: tuple[MacSpec, ...]
    releases: tuple[SimulatedRelease, ...] = ()
    lines: Annotated[dict[str, SiteRates], Field(default_factory=dict)]
    seed: int = 0
    speed: Annotated[float, Field(gt=0)] = 1.0


class TimeLine(WireModel):
    """Clock of a fleet.

    The virtual time was `start` at `began_s` (Unix seconds) and runs at `speed`. If `stepped` is
    the path of a file, the virtual time is in that file instead.
    """

    start: AwareDatetime
    began_s: float
    speed: float
    stepped: str | None = None


class LookRequest(WireModel):
    """Request for an observation of the job's Mac."""

    job: Job


class ActRequest(WireModel):
    """Order for the job's Mac."""

    step: TextField
    job: Job
    attempt: int


class AckResponse(WireModel):
    """Response of a Mac to an order."""

    kind: AckKind
    error_code: ErrorCode | None = None
    detail: str = ""

    @classmethod
    def from_ack(cls, ack: Ack) -> "AckResponse":
        """Return the message for an Ack."""
        return cls(kind=ack.kind, error_code=ack.error_code, detail=ack.detail)

    def to_ack(self) -> Ack:
        """Return the Ack of this message."""
        return Ack(self.kind, self.error_code, self.detail)


class Acted(WireModel):
    """Record of one order that a Mac carried out."""

    at: AwareDatetime
    udid: str
    job_id: str
    attempt: int
    step: str


class ProgressResponse(WireModel):
    """Progress of an installation."""

    state: InstallState
    percent: int | None = None
    error_code: ErrorCode | None = None
    since: datetime | None = None


class LookResponse(WireModel):
    """Observation of a Mac."""

    os_version: OSVersionField | None = None
    build: BuildField | None = None
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
    progress: ProgressResponse
    serial: str | None = None

    @classmethod
    def from_observation(cls, look: Observation) -> "LookResponse":
        """Return the message for an Observation."""
        fields = {name: getattr(look, name) for name in cls.model_fields if name != "progress"}
        seen = look.progress
        return cls(
            **fields,
            progress=ProgressResponse(
                state=seen.state,
                percent=seen.percent,
                error_code=seen.error_code,
                since=seen.since,
            ),
        )

    def to_observation(self) -> Observation:
        """Return the Observation of this message."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        seen = self.progress
        fields["progress"] = Progress(seen.state, seen.percent, seen.error_code, seen.since)
        return Observation(**fields)
