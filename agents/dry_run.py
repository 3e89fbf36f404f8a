"""The form of a Mac in a dry run: it can be observed and refuses every order."""

from collections.abc import Callable

from agents.mac import Ack, Observation, UnreachableError
from schemas.jobs import Job
from schemas.results import ErrorCode


class DryRunMac:
    """A `Mac` that returns stored observations and refuses to act.

    `snapshot` returns the observation of a UDID, or None for an unknown UDID.
    """

    def __init__(self, snapshot: Callable[[str], Observation | None]) -> None:
        self._snapshot = snapshot

    def look(self, job: Job) -> Observation:
        """Return the stored observation. Raises UnreachableError for an unknown UDID."""
        observation = self._snapshot(job.udid)
        if observation is None:
            raise UnreachableError(f"the snapshot has no {job.udid}")
        return observation

    def act(self, step: str, job: Job, attempt: int) -> Ack:  # noqa: ARG002 - Mac's signature
        """Return a refusal with the code `unsupported`; the Mac is never touched."""
        return Ack.refused(ErrorCode.UNSUPPORTED, "dry run")
