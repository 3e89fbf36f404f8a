"""What a simulated Mac needs of the fleet it is in."""

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from agents.mac import Ack
from agents.simulated.spec import SimulatedRelease
from schemas.jobs import Job, Target

if TYPE_CHECKING:
    from agents.simulated.machine import SimulatedMac


class Environment(Protocol):
    """The time line, the site's line, the releases, and the record of what was done."""

    seed: int
    now: datetime

    def wake(self, at: datetime, udid: str, kind: str, work: int) -> None:
        """Call the Mac's `on` at this time."""

    def download(self, udid: str, work: int, item: str, size_gb: float, at: datetime) -> None:
        """Wake the Mac with `downloaded` once its site's line has carried this."""

    def release(self, target: Target) -> SimulatedRelease:
        """What installing this target puts on a Mac."""

    def submit_order(self, mac: "SimulatedMac", step: str, job: Job, attempt: int) -> Ack:
        """Keep the order durably, then let the Mac take it."""

    def record_action(self, at: datetime, udid: str, job_id: str, attempt: int, step: str) -> None:
        """Note that the Mac was acted on."""
