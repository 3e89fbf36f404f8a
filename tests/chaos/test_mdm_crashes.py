"""An executor over MDM, killed around every durable write and right after every order.

The next executor has the same journal, the same servers and the same Mac. The Mac's own log, which
is the list of the commands that it got, decides.
"""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from schemas.jobs import Job
from tests.crash_points import Crash, CrashPoint
from tests.factories.sites import START, hours
from tests.fake_mdm import SECRETS, FakeMdm
from tests.mdm_site import BEFORE, DDM, ERASE, MAC, PIN, MdmSite

JOBS = {"ddm": DDM, "erase_device": ERASE}
ORDERS = {"ddm": "DeclarativeManagement", "erase_device": "EraseDevice"}
UNTIL = START + hours(12)


def a_fleet() -> FakeMdm:
    mdm = FakeMdm(BEFORE)
    mdm.enroll(MAC, OSVersion="26.2", BuildVersion="25C56", ProductName="Mac14,2")
    return mdm


class RestartedExecutor:
    """An executor that is killed and started again, beside a Mac that continues to run."""

    def __init__(self, folder: Path, job: Job, *, keeps_answers: bool) -> None:
        self.folder, self.job = folder, job
        self.mdm = a_fleet()
        self.now = START
        self.keeps_answers = keeps_answers
        self.outcomes: list[str] = []
        self.log: list[str] = []
        self.polls_at = START + timedelta(minutes=30)
        # A topic delivers the events of the past again to a new store.
        self.events = [*self.mdm.events]

    def run_until_killed(self, moment: Callable[[str], None]) -> None:
        """Run one process until the end of the run, or until `moment` raises Crash."""
        site = MdmSite(self.mdm, self.folder, moment, now=self.now, pin=PIN)
        site.answers.add_events(self.events, self.now)
        try:
            self._run(site)
        finally:
            self.now = site.now
            self.outcomes += site.outcomes
            site.close()
            if not self.keeps_answers:
                (self.folder / "answers.sqlite").unlink()

    def _run(self, site: MdmSite) -> None:
        site.start(self.job)
        while site.now < UNTIL:
            site.now += timedelta(minutes=10)
            self.mdm.now = site.now
            self._mac(site)
            self.events += self.mdm.events
            site.step()

    def _mac(self, site: MdmSite) -> None:
        """Let the Mac ask for commands, every half hour, and carry out what it gets."""
        if site.now < self.polls_at:
            return
        self.polls_at = site.now + timedelta(minutes=30)
        uuid = self.mdm.report(MAC, "Idle")
        while uuid is not None:
            kind = self.mdm.commands[uuid]["RequestType"]
            self.log.append(kind)
            info = site.information(PINRequiredForEraseDevice=True)
            answer = info if kind == "DeviceInformation" else {}
            uuid = self.mdm.report(MAC, "Acknowledged", uuid, **answer)
            if kind == "EraseDevice":
                self.mdm.enroll(MAC, OSVersion="26.2", BuildVersion="25C56")
                return
        if "DeclarativeManagement" in self.log and self.mdm.declaration_items(MAC):
            version = "26.2.1" if site.now > START + hours(3) else "26.2"
            report = {"device": {"operating-system": {"version": version}}}
            self.mdm.send_status(MAC, {"StatusItems": report})


def check(executor: RestartedExecutor, method: str) -> None:
    """Assert one order at the Mac, a good end, and nothing that is left of it."""
    withdrawals = 1 if method == "ddm" else 0
    assert executor.log.count(ORDERS[method]) == 1 + withdrawals, executor.log
    final = [one for one in executor.outcomes if one not in ("accepted", "started", "progressed")]
    assert {*final} == {"acted"}, executor.outcomes
    assert executor.mdm.declaration_items(MAC) == {}
    assert executor.mdm.queues[MAC] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", JOBS)
@pytest.mark.parametrize("keeps_answers", [True, False], ids=["answers kept", "answers lost"])
def test_executor_killed_at_any_moment_gives_its_order_once(
    tmp_path: Path, method: str, *, keeps_answers: bool
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    counted = CrashPoint()
    executor = RestartedExecutor(whole, JOBS[method], keeps_answers=keeps_answers)
    executor.run_until_killed(counted)
    check(executor, method)
    assert {name.split(":")[0] for name in counted.moments} >= {
        "accept",
        "intend",
        "response",
        "finish",
        "touched",
        "command",
        "withdrawn",
        "published",
    }
    for which in range(1, len(counted.moments) + 1):
        folder = tmp_path / str(which)
        folder.mkdir()
        executor = RestartedExecutor(folder, JOBS[method], keeps_answers=keeps_answers)
        with pytest.raises(Crash):
            executor.run_until_killed(CrashPoint(which))
        executor.now += timedelta(seconds=90)
        executor.run_until_killed(lambda _: None)
        check(executor, method)


@pytest.mark.parametrize("method", JOBS)
def test_no_file_has_a_secret(tmp_path: Path, method: str) -> None:
    executor = RestartedExecutor(tmp_path, JOBS[method], keeps_answers=True)
    executor.run_until_killed(lambda _: None)
    files = [path for path in tmp_path.iterdir() if path.is_file()]
    assert len(files) >= 2
    for path in files:
        content = path.read_bytes()
        for secret in (*SECRETS, PIN):
            assert secret.encode() not in content, (path.name, secret)
