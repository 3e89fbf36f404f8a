"""One update at a real OpenSSH server runs once: kill -9 of the executor, and cut connections."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agents.executor import Executor
from agents.journal import Journal
from agents.site_access import SiteAccess
from schemas.results import JobResult, Outcome
from tests.crash_points import Crash, CrashPoint, WatchedMac
from tests.factories.sites import KEYS, SITE, START, signed_job
from tests.ssh.bench import PASSWORD, UPDATE, MacBench
from tests.ssh.cut_proxy import cut_proxy
from tests.ssh.sshd import Sshd

# More than the moments of one update, and more than the pieces of the connections of one.
_MANY_MOMENTS = range(1, 40)
_LIMIT = timedelta(days=3)


@dataclass
class SshSite:
    """One life of an executor whose only Mac is `bench`; the next life has the same folder."""

    bench: MacBench
    folder: Path
    moment: Callable[[str], None]
    now: datetime = START
    results: list[JobResult] = field(default_factory=list)

    def run(self) -> JobResult:
        """Run the update to its end and return its last result; the clock jumps over waits."""
        macs = self.bench.macs()
        access = SiteAccess(
            lambda job: WatchedMac(macs.mac_for(job), self.moment), refusal=lambda _: None
        )
        with closing(Journal(self.folder / "journal.sqlite", self.moment)) as journal:
            executor = Executor(SITE, journal, KEYS, access)
            executor.set_halts(())
            executor.submit(signed_job(UPDATE), self.now)
            while (wake := executor.next_wake(self.now)) is not None:
                assert wake < START + _LIMIT
                self.now = max(wake, self.now)
                executor.tick(self.now)
                time.sleep(0.3)  # the Mac's own time passes
            return executor.results()[-1].result


def assert_updated_once(bench: MacBench, result: JobResult, folder: Path) -> None:
    assert result.outcome is Outcome.ACTED, result
    assert str(result.observed_build) == "25G229"
    assert len(bench.lines("installs")) == 1
    assert bench.lines("passwords") == [PASSWORD]
    for path in folder.rglob("journal*"):
        assert PASSWORD.encode() not in path.read_bytes()


def test_update_runs_from_job_to_result(bench: MacBench, tmp_path: Path) -> None:
    result = SshSite(bench, tmp_path, lambda _: None).run()
    assert_updated_once(bench, result, tmp_path)


@pytest.mark.timeout(600)
def test_executor_that_is_killed_at_any_moment_updates_once(server: Sshd, tmp_path: Path) -> None:
    for at in _MANY_MOMENTS:
        folder = tmp_path / f"killed-{at}"
        bench = MacBench(folder / "mac", server)
        bench.offer_updates()
        site = SshSite(bench, folder, CrashPoint(at))
        try:
            result = site.run()
        except Crash:
            result = SshSite(bench, folder, lambda _: None, now=site.now).run()
            assert_updated_once(bench, result, folder)
            continue
        assert_updated_once(bench, result, folder)
        assert at > 5
        return
    raise AssertionError("the update has more moments than the test tries")


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
