"""One executor over SSH as a process, which kills itself with -9 at a moment of its life.

It has one job. Its clock jumps over waits, so it leaves its time for the next life. The work of the
Mac lasts until a look of an executor has seen it (`RUNS_UNTIL_SEEN`): that look is a moment too.
"""

import os
import signal
import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import BaseModel

from agents.mac import Observation
from schemas.jobs import Job
from tests.crash_points import WatchedMac
from tests.factories.sites import START
from tests.ssh.bench import MacBench
from tests.ssh.ssh_site import SshSite
from tests.ssh.sshd import Sshd

RUNS_UNTIL_SEEN: Final = 'while [ ! -e "$mac/seen" ]; do /bin/sleep 0.1; done\n'


class Plan(BaseModel):
    """Configuration of the life, in the file `plan.json` of its folder.

    The life ends at the `dies_at`-th moment, counted from 1, or by itself before.
    """

    server: Path
    port: int
    job: Job
    dies_at: int


def is_installing(bench: MacBench) -> bool:
    """Return True while the Mac is at work."""
    return bench.lines("installs") != [] and bench.lines("version") == ["26.6"]


@dataclass
class SeenMac(WatchedMac):
    """A Mac whose work ends after the first look that sees it, which is a moment."""

    def look(self, job: Job) -> Observation:
        seen = super().look(job)
        if seen.marks:
            self.on_moment("seen")
        return seen


def life(bench: MacBench, folder: Path, job: Job, dies_at: int, now: datetime = START) -> SshSite:
    """Return a life of the executor that begins at `now`, and ends at a moment or by itself."""
    moments = 0

    def moment(name: str) -> None:
        nonlocal moments
        is_seen = (bench.folder / "seen").exists()
        if name == "seen" and (is_seen or not is_installing(bench)):
            return
        moments += 1
        if moments == dies_at:
            (folder / "died").write_text(site.now.isoformat())
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "seen":
            bench.set(seen="")

    site = SshSite(bench, folder, moment, now=now, job=job, kind=SeenMac)
    return site


def main(folder: Path) -> None:
    """Run until the job has ended, or until the moment at which this life ends."""
    plan = Plan.model_validate_json((folder / "plan.json").read_bytes())
    bench = MacBench(folder / "mac", Sshd(plan.server, plan.port))
    life(bench, folder, plan.job, plan.dies_at).run()


def time_of_death(folder: Path) -> datetime | None:
    """Return the time of the executor at its death; None if the life ended by itself."""
    path = folder / "died"
    return datetime.fromisoformat(path.read_text()) if path.exists() else None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
