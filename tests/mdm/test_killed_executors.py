"""Executors over real MDM servers, killed with -9 at each step of their journal.

Each case has a process, a journal and a Mac of its own; all run at the same time on the same
servers. The Mac's own log, which is the list of the commands that it got, decides.
"""

import json
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agents.simulated.spec import MacSpec
from schemas.jobs import Job, Method, Target
from tests.factories.sites import RELEASES, a_job, a_spec, an_erasing_job
from tests.mdm.executor_program import Plan
from tests.mdm.fleet import FastClock, MdmFleet
from tests.mdm.mac import ManagedMac
from tests.mdm.servers import MdmServers
from tests.mdm.webhooks import Webhooks, webhook_receiver

DURABLE = ("accept", "intend", "command", "response", "finish", "withdrawn", "published")
MOMENTS = ("touched:after", *(f"{name}:{when}" for name in DURABLE for when in ("before", "after")))
ORDERS = {Method.DDM: "DeclarativeManagement", Method.ERASE_DEVICE: "EraseDevice"}
# A declaration is also withdrawn, for which the Mac fetches once more.
WANTED = {Method.DDM: 2, Method.ERASE_DEVICE: 1}
SPEED = 600.0
WITHIN_S = 300.0


@dataclass
class Case:
    """One executor, which is killed once, and its Mac."""

    method: Method
    moment: str
    folder: Path
    spec: MacSpec
    process: "subprocess.Popen[bytes] | None" = None
    codes: list[int] = field(default_factory=list)

    def start(self, servers: MdmServers, began_at: datetime, *, dies: bool) -> None:
        """Start a life."""
        self.folder.mkdir(exist_ok=True)
        plan = Plan(
            nanomdm=servers.nanomdm.url,
            kmfddm=servers.kmfddm.url,
            webhooks=self.folder.parent / "webhooks.jsonl",
            began_at=began_at,
            job=self.job(began_at),
            dies_at=self.moment if dies else None,
        )
        (self.folder / "plan.json").write_text(plan.model_dump_json())
        command = [sys.executable, "-m", "tests.mdm.executor_program", str(self.folder)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def job(self, at: datetime) -> Job:
        """Return the job: an update in an hour, or an erase."""
        given: dict[str, Any] = {
            "udid": self.spec.udid,
            "serial": self.spec.serial,
            "issued_at": at,
            "expires_at": at + timedelta(days=7),
        }
        if self.method is Method.DDM:
            return a_job(method=Method.DDM, enforce_at=at + timedelta(hours=1), **given)
        # An erased Mac keeps its version.
        kept = Target(version=self.spec.os_version)
        return an_erasing_job(approve={"expires_at": at + timedelta(days=2)}, target=kept, **given)

    @property
    def has_ended(self) -> bool:
        """True after a life that ended by itself."""
        return bool(self.codes) and self.codes[-1] == 0

    @property
    def outcomes(self) -> list[str]:
        """The outcomes that the last life published."""
        found: list[str] = json.loads((self.folder / "outcomes.json").read_text())
        return found


def run_all(
    cases: Sequence[Case],
    servers: MdmServers,
    webhooks: Webhooks,
    fleet: MdmFleet,
    clock: FastClock,
) -> None:
    """Run every case to its end: a life that is killed, then one that is not."""
    file = cases[0].folder.parent / "webhooks.jsonl"
    written = 0
    began_at, began_s, is_fast = datetime.now(UTC), time.monotonic(), False
    file.touch()
    for case in cases:
        case.start(servers, began_at, dies=True)
    while not all(case.has_ended for case in cases):
        assert time.monotonic() < began_s + WITHIN_S, [
            (case.moment, case.codes) for case in cases if not case.has_ended
        ]
        bodies = webhooks.bodies[written:]
        written += len(bodies)
        with file.open("a") as out:
            out.writelines(json.dumps(body) + "\n" for body in bodies)
        # Between two versions of a Mac there is a minute, or an executor takes them for one boot.
        if not is_fast and time.monotonic() > began_s + 62:
            is_fast = True
            clock.accelerate(SPEED)
        for case in cases:
            code = None if case.process is None else case.process.poll()
            if code is not None and not case.has_ended:
                case.codes.append(code)
                if code:
                    case.start(servers, began_at, dies=False)
        assert fleet.failure is None
        time.sleep(0.1)


def stop_all(cases: Sequence[Case]) -> None:
    """End the processes that still run."""
    for case in cases:
        if case.process is not None and case.process.poll() is None:
            case.process.kill()
            case.process.wait()


def check(case: Case, mac: ManagedMac) -> None:
    """Assert one death, one order at the Mac, its effect, and a good end."""
    assert case.codes == [-signal.SIGKILL, 0], (case.folder / "log").read_text()
    assert case.outcomes[-1:] == ["acted"], (case.moment, case.outcomes)
    received = Counter(one.request_type for one in mac.received if one.status != "NotNow")
    assert received[ORDERS[case.method]] == WANTED[case.method], (case.moment, received)
    assert len(mac.performed) == 1, (case.moment, mac.performed)


# One test for all moments: the cases run at the same time.
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ORDERS)
def test_executor_killed_at_any_step_of_its_journal_gives_its_order_once(
    tools: None, tmp_path: Path, method: Method
) -> None:
    clock = FastClock()
    cases = [
        Case(
            method,
            moment,
            tmp_path / str(number),
            a_spec(str(uuid.uuid4()).upper(), serial=f"C02KILL{number:05}"),
        )
        for number, moment in enumerate(MOMENTS)
    ]
    with (
        webhook_receiver() as webhooks,
        MdmServers.run(tmp_path / "servers", webhook_url=webhooks.url) as servers,
        MdmFleet(servers, [case.spec for case in cases], clock, releases=RELEASES) as fleet,
    ):
        fleet.enroll()
        with fleet.running():
            try:
                run_all(cases, servers, webhooks, fleet, clock)
            finally:
                stop_all(cases)
        for case in cases:
            check(case, fleet.macs[case.spec.udid])
