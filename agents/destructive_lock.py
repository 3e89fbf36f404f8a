"""The lock on erasing and reinstalling, for all Macs but those that are excepted from it. Pure.

An approval is a person's consent to one job. This lock is apart from it: it lies in a file at the
site, so that no error of policy, pipeline or signing keys can erase a Mac that the site keeps. A
site may leave the choice to the policy: then a job needs a permit, which is signed with it.
"""

from dataclasses import dataclass

from agents.preflight import destroys
from agents.verification import Refusal
from schemas.jobs import Job
from schemas.results import ErrorCode, Outcome


@dataclass(frozen=True, slots=True)
class DestructiveLock:
    """Permits destructive work on the Macs with these serial numbers, in capital letters.

    With `accepts_permits` also the work of a job that has a permit of the policy.
    """

    allowed: frozenset[str] = frozenset()
    accepts_permits: bool = False

    def permits(self, serial: str | None) -> bool:
        """Return True if the file permits to erase, reinstall or migrate the Mac with this number.

        False for an unknown serial number.
        """
        return serial is not None and serial in self.allowed

    def refuse(self, job: Job) -> Refusal | None:
        """Return the refusal with the code `locked` of a destructive job, None if it is permitted.

        None also for a job that is not destructive. A job without a serial number is never
        permitted: nothing could show that its Mac is the right one.
        """
        if not destroys(job) or self.permits(job.serial):
            return None
        has_permit = self.accepts_permits and job.permit is not None
        if has_permit and job.serial is not None:
            return None
        serial = job.serial or "a Mac without a serial number"
        detail = f"{job.method} is locked: allow_destructive does not list {serial}"
        if self.accepts_permits and not has_permit:
            detail += ", and the job has no permit of the policy"
        return Refusal(Outcome.REFUSED, ErrorCode.LOCKED, detail)
