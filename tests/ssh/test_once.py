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
    bench.set(**{"install.sh": RUNS_UNTIL_SEEN + INSTALLS, "fetch.sh": FETCHES})
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


def pieces_of_an_update(server: Sshd, folder: Path) -> int:
    """Return the number of pieces of data of one update without a cut."""
    bench = MacBench(folder / "mac", server)
    bench.offer_updates()
    with cut_proxy(server.port) as proxy:
        bench.port = proxy.port
        result = SshSite(bench, folder, lambda _: None).run()
        assert_updated_once(bench, result, folder)
        return proxy.pieces


@pytest.mark.timeout(900)
def test_connection_that_is_cut_anywhere_updates_once(server: Sshd, tmp_path: Path) -> None:
    pieces = pieces_of_an_update(server, tmp_path / "whole")
    assert pieces > 50
    for cut_at in range(1, pieces, 11):
        folder = tmp_path / f"cut-{cut_at}"
        bench = MacBench(folder / "mac", server)
        bench.offer_updates()
        with cut_proxy(server.port, cut_at) as proxy:
            bench.port = proxy.port
            result = SshSite(bench, folder, lambda _: None).run()
        assert_updated_once(bench, result, folder)
