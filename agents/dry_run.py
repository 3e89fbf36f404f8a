"""A Mac that is seen but never touched."""

from collections.abc import Callable

from agents.mac import Ack, Observation, UnreachableError
from schemas.jobs import Job
from schemas.results import ErrorCode


class DryRunMac:
    """Looks real state up from a snapshot and refuses to act.

    `snapshot` gives what is known of a Mac by UDID, or None where nothing is.
    """

    def __init__(self, snapshot: Callable[[str], Observation | None]) -> None:
        self._snapshot = snapshot

    def look(self, job: Job) -> Observation:
        """The snapshot's Mac. Raises UnreachableError where it has none."""
        observation = self._snapshot(job.udid)
        if observation is None:
            raise UnreachableError(f"the snapshot has no {job.udid}")
        return observation

    def act(self, step: str, job: Job, attempt: int) -> Ack:  # noqa: ARG002 - Mac's signature
        """Refuse."""
        return Ack.refused(ErrorCode.UNSUPPORTED, "dry run")
