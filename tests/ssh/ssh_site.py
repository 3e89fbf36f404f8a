"""A site with one Mac over SSH: one life of its executor, and the job that it has."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from agents.executor import Executor
from agents.journal import Journal
from agents.mac import Ack, Observation
from agents.site_access import SiteAccess
from agents.ssh.mac import SshMacs
from schemas.jobs import Job
from schemas.results import JobResult
from tests.crash_points import WatchedMac
from tests.factories.sites import KEYS, SITE, START, signed_job
from tests.ssh.bench import UPDATE, MacBench

_LIMIT = timedelta(days=3)


class LookedMac(WatchedMac):
    """A Mac that calls `on_moment("look:after")` after each look too, also after a failed one."""

    def look(self, job: Job) -> Observation:
        try:
            return super().look(job)
        finally:
            self.on_moment("look:after")

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        self.on_moment("act:before")
        return super().act(step, job, attempt)


@dataclass
class SshSite:
    """One life of an executor whose only Mac is `bench`; the next life has the same folder."""

    bench: MacBench
    folder: Path
    moment: Callable[[str], None]
    now: datetime = START
    job: Job = UPDATE
    kind: type[WatchedMac] = WatchedMac
    macs: SshMacs | None = None
    results: list[JobResult] = field(default_factory=list)

    def run(self) -> JobResult:
        """Run the job to its end and return its last result; the clock jumps over waits."""
        macs = self.macs or self.bench.macs()
        access = SiteAccess(
            lambda job: self.kind(macs.mac_for(job), self.moment), refusal=lambda _: None
        )
        with closing(Journal(self.folder / "journal.sqlite", self.moment)) as journal:
            executor = Executor(SITE, journal, KEYS, access)
            executor.set_halts(())
            executor.submit(signed_job(self.job), self.now)
            while (wake := executor.next_wake(self.now)) is not None:
                assert wake < START + _LIMIT
                self.now = max(wake, self.now)
                executor.tick(self.now)
                time.sleep(0.3)  # the Mac's own time passes
            return executor.results()[-1].result
