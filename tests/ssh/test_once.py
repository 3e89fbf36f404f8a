"""An installation at a real OpenSSH server runs once: kill -9 of executors, cut connections."""

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from schemas.jobs import Job
from schemas.results import JobResult, Outcome
from tests.ssh.bench import PASSWORD, UPDATE, MacBench
from tests.ssh.cut_proxy import cut_proxy
from tests.ssh.executor_program import (
    RUNS_UNTIL_SEEN,
    Plan,
    is_installing,
    life,
    time_of_death,
)
from tests.ssh.ssh_site import SshSite
from tests.ssh.sshd import Sshd
from tests.ssh.test_installs import FETCHES, INSTALLS, UPGRADE

# More than the moments of one installation.
_MANY_MOMENTS = 40
_AT_ONCE = 4
_TOOLS = {"fetch.sh": FETCHES, "restart-ends-sessions": ""}


def assert_updated_once(bench: MacBench, result: JobResult, folder: Path) -> None:
    assert result.outcome is Outcome.ACTED, (result.error_code, result.detail)
    assert str(result.observed_build) == "25G229"
    assert len(bench.lines("installs")) == 1
    assert bench.lines("passwords") == [PASSWORD]
    for path in folder.rglob("journal*"):
        assert PASSWORD.encode() not in path.read_bytes()


def test_update_runs_from_job_to_result(bench: MacBench, tmp_path: Path) -> None:
    result = SshSite(bench, tmp_path, lambda _: None).run()
    assert_updated_once(bench, result, tmp_path)


@dataclass
class Killed:
    """A Mac, its job, and an executor that is killed with -9 at a moment."""

    bench: MacBench
    folder: Path
    job: Job

    def dies(self, at: int) -> bool:
        """Run the executor as a process; return False if its job ended before the moment."""
        server = self.bench.server
        plan = Plan(server=server.folder, port=server.port, job=self.job, dies_at=at)
        (self.folder / "plan.json").write_text(plan.model_dump_json())
        command = [sys.executable, "-m", "tests.ssh.executor_program", str(self.folder)]
        code = subprocess.run(command, check=False, timeout=300).returncode
        assert code in (0, -signal.SIGKILL)
        return code != 0

    def goes_on(self) -> JobResult:
        """Run the next executor from the time of the death to the end; return its last result."""
        died_at = time_of_death(self.folder)
        assert died_at is not None
        return life(self.bench, self.folder, self.job, dies_at=0, now=died_at).run()


def killed_and_continued(server: Sshd, folder: Path, job: Job, at: int) -> str:
    """Return `ended`, or what the executor was killed `before`, `during` or `after`: the work."""
    bench = MacBench(folder / "mac", server)
    bench.set(**{"install.sh": RUNS_UNTIL_SEEN + INSTALLS} | _TOOLS)
    bench.offer_updates()
    killed = Killed(bench, folder, job)
    if not killed.dies(at):
        return "ended"
    when = "before"
    if bench.lines("installs"):
        when = "during" if is_installing(bench) else "after"
    assert_updated_once(bench, killed.goes_on(), folder)
    return when


@pytest.mark.timeout(600)
@pytest.mark.parametrize("job", [UPDATE, UPGRADE], ids=["softwareupdate", "startosinstall"])
def test_executor_that_is_killed_at_any_moment_installs_once(
    server: Sshd, tmp_path: Path, job: Job
) -> None:
    def killed(at: int) -> str:
        return killed_and_continued(server, tmp_path / f"killed-{at}", job, at)

    found: list[str] = []
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        while "ended" not in found:
            assert len(found) < _MANY_MOMENTS, "it has more moments than the test tries"
            found += threads.map(killed, range(len(found) + 1, len(found) + 1 + _AT_ONCE))
    # The Mac goes on with the work while no executor is there.
    assert {"before", "during", "after"} <= set(found)
    assert found.index("ended") > 5


def site_of(server: Sshd, folder: Path, job: Job) -> SshSite:
    """Return a site with a Mac that has not begun with the job."""
    bench = MacBench(folder / "mac", server)
    bench.set(**{"install.sh": f"/bin/sleep 2\n{INSTALLS}"} | _TOOLS)
    return SshSite(bench, folder, lambda _: None, job=job)


def pieces_of_a_job(server: Sshd, folder: Path, job: Job) -> int:
    """Return the number of pieces of data of one job without a cut."""
    site = site_of(server, folder, job)
    with cut_proxy(server.port) as proxy:
        site.bench.port = proxy.port
        assert_updated_once(site.bench, site.run(), folder)
        return proxy.pieces


def step_of(bench: MacBench) -> str:
    """Return the last step of a job that the Mac has begun."""
    if bench.lines("version") != ["26.6"]:
        return "restarted"
    if bench.lines("installs"):
        return "installing"
    if bench.lines("listings") or bench.lines("fetches"):
        return "prepared"
    return "connected"


def cut_and_continued(server: Sshd, folder: Path, job: Job, cut_at: int) -> str:
    """Return the step of the Mac at the cut; `uncut` if the job had fewer pieces of data."""
    site = site_of(server, folder, job)
    steps: list[str] = []
    with cut_proxy(server.port, cut_at, lambda: steps.append(step_of(site.bench))) as proxy:
        site.bench.port = proxy.port
        assert_updated_once(site.bench, site.run(), folder)
    assert len(site.bench.lines("fetches")) <= 1
    return steps[0] if steps else "uncut"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("job", [UPDATE, UPGRADE], ids=["softwareupdate", "startosinstall"])
def test_connection_that_is_cut_anywhere_installs_once(
    server: Sshd, tmp_path: Path, job: Job
) -> None:
    pieces = pieces_of_a_job(server, tmp_path / "whole", job)
    assert pieces > 50

    def cut(at: int) -> str:
        return cut_and_continued(server, tmp_path / f"cut-{at}", job, at)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        steps = set(threads.map(cut, range(1, pieces, 11)))
    assert {"connected", "prepared", "installing", "restarted"} <= steps
