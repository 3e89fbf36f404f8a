"""The lock on erasing and reinstalling: only Macs that the site's configuration names. Pure.

An approval is a person's consent to one job. This lock is apart from it: it lies in a file at the
site, so that no error of policy, pipeline or signing keys can erase a Mac that the site keeps.
"""

from dataclasses import dataclass

from agents.preflight import is_destructive
from agents.verification import Refusal
from schemas.jobs import Job
from schemas.results import ErrorCode, Outcome


@dataclass(frozen=True, slots=True)
class DestructiveLock:
    """Permits destructive work on the Macs with these serial numbers, in capital letters."""

    allowed: frozenset[str] = frozenset()

    def permits(self, serial: str | None) -> bool:
        """Return True if the Mac with this serial number may be erased, reinstalled or migrated.

        False for an unknown serial number.
        """
        return serial is not None and serial in self.allowed

    def refuse(self, job: Job) -> Refusal | None:
        """Return the refusal with the code `locked` of a destructive job, None if it is permitted.

        None also for a job that is not destructive.
        """
        if not is_destructive(job) or self.permits(job.serial):
            return None
        serial = job.serial or "a Mac without a serial number"
        detail = f"{job.method} is locked: allow_destructive does not list {serial}"
        return Refusal(Outcome.REFUSED, ErrorCode.LOCKED, detail)
