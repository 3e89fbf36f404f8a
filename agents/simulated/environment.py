"""The part of a simulated fleet that one of its Macs uses."""

from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from agents.mac import Ack
from agents.simulated.spec import SimulatedRelease
from schemas.jobs import Job, Target

if TYPE_CHECKING:
    from agents.simulated.machine import SimulatedMac


class Environment(Protocol):
    """Virtual time, the site's line, the releases, and the record of orders carried out."""

    seed: int
    now: datetime

    def wake(self, at: datetime, udid: str, kind: str, work: int) -> None:
        """Call `on` of the Mac `udid` at the time `at`, with `kind` and `work`.

        `work` is the number of an order's work, 0 for an event without an order.
        """

    def download(self, udid: str, work: int, item: str, size_gb: float, at: datetime) -> None:
        """Begin a download on the site's line at `at`; at its end the Mac's `on` gets `downloaded`.

        `work` is the number of the order's work. Macs of a site that download one `item` share it
        in the site's cache, if there is one.
        """

    def release(self, target: Target) -> SimulatedRelease:
        """Return the release that an installation of this target puts on a Mac.

        Raises ValueError for an unknown version without a build.
        """

    def submit_order(self, mac: "SimulatedMac", step: str, job: Job, attempt: int) -> Ack:
        """Store the order if the fleet has a file, then return the Mac's response.

        Raises UnreachableError if a fault loses the order or its response.
        """

    def record_action(self, at: datetime, udid: str, job_id: str, attempt: int, step: str) -> None:
        """Record that the Mac carried out an order."""
