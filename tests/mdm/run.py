"""A company's Macs, their servers and their Drydock, running together."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from agents.mdm.declarations import STATUS_SET, is_order
from agents.simulated.spec import SimulatedRelease
from tests.mdm.company import REASONS, Employee
from tests.mdm.drydock import Drydock
from tests.mdm.fleet import FastClock, MdmFleet
from tests.mdm.servers import MdmServers

# Time from the enrollment until some Macs are in trouble.
TROUBLE_AFTER = timedelta(minutes=30)
# Ten minutes of a Mac pass in a second: it downloads, waits for its time and restarts.
SPEED = 600.0
WITHIN_S = 150.0


@dataclass
class Run:
    """The Macs run in the background, in their own `clock`."""

    drydock: Drydock
    servers: MdmServers
    fleet: MdmFleet
    clock: FastClock
    employees: Sequence[Employee]
    started_s: float  # monotonic

    @classmethod
    @contextmanager
    def of(
        cls,
        drydock: Drydock,
        servers: MdmServers,
        employees: Sequence[Employee],
        releases: Sequence[SimulatedRelease],
        clock: FastClock,
    ) -> "Iterator[Run]":
        """Enroll the Macs, and let them run within the block."""
        behaviors = {one.spec.udid: one.behavior for one in employees}
        specs = [one.spec for one in employees]
        with MdmFleet(servers, specs, clock, releases=releases, behaviors=behaviors) as fleet:
            fleet.enroll()
            with fleet.running():
                yield cls(drydock, servers, fleet, clock, employees, time.monotonic())

    def of_kind(self, *kinds: str) -> list[Employee]:
        """Return the Macs of these kinds."""
        return [one for one in self.employees if one.kind in kinds]

    def ask(self, employees: Sequence[Employee]) -> None:
        """Ask these Macs for inventory, as an administrator does; return when it has arrived."""
        asked: dict[str, set[str]] = {}
        for one in employees:
            uuids = [str(uuid.uuid4()) for _ in range(2)]
            asked[one.spec.udid] = set(uuids)
            for name, kind in zip(uuids, ("DeviceInformation", "SecurityInfo"), strict=True):
                self.servers.nanomdm.enqueue(one.spec.udid, name, kind, push=True)

        def have_answered() -> bool:
            return all(
                uuids <= {r.uuid for r in self.fleet.macs[udid].received if r.status != "NotNow"}
                for udid, uuids in asked.items()
            )

        self.eventually(have_answered, "the Macs have answered")

    def are_queried(self) -> bool:
        """Return True if every Mac has answered both queries of the inventory."""
        wanted = {"DeviceInformation", "SecurityInfo"}
        return all(
            wanted <= {each.request_type for each in mac.received if each.status == "Acknowledged"}
            for mac in self.fleet.macs.values()
        )

    def eventually(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until the condition is True; fail with the Macs that differ from their end."""
        until = time.monotonic() + WITHIN_S
        while not condition():
            assert self.fleet.failure is None, "the simulated Macs have stopped"
            if time.monotonic() > until:
                raise AssertionError(f"not within {WITHIN_S:g} s: {what}\n{self.report()}")
            time.sleep(0.5)

    def queues_are_empty(self) -> bool:
        """Let every reachable Mac ask for commands; return True if its server has none left."""
        since = self.clock()
        reachable = [one.spec.udid for one in self.employees if one.kind not in {"gone", "dead"}]
        for udid in reachable:
            self.fleet.connect(udid, since)
        macs = [self.fleet.macs[udid] for udid in reachable]
        until = time.monotonic() + 10
        while not all(mac.emptied_at is not None and mac.emptied_at > since for mac in macs):
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True

    def reason_of(self, one: Employee) -> str:
        """Return the reason of the newest decision for this Mac."""
        return str(self.drydock.outcome().latest[one.spec.udid]["reason"])

    def has_acted(self, one: Employee) -> bool:
        """Return True if the executor has seen the effect of each of its orders for this Mac."""
        jobs = self.drydock.outcome().jobs.values()
        return all(job.acted_at is not None for job in jobs if job.udid == one.spec.udid)

    def is_patched(self, one: Employee) -> bool:
        """Return True if the Mac has the version to which the policy leads."""
        return self.fleet.macs[one.spec.udid].physics.os_version == one.ends_at

    def unexpected(self) -> list[Employee]:
        """Return the Macs whose state or decision differs from the one that the policy wants."""
        latest = self.drydock.outcome().latest
        return [
            one
            for one in self.employees
            if not self.is_patched(one) or latest[one.spec.udid]["reason"] not in REASONS[one.kind]
        ]

    def declared(self) -> list[Employee]:
        """Return the Macs without an open job that still have declarations of one at KMFDDM."""
        latest = self.drydock.outcome().latest
        return [
            one
            for one in self.employees
            if latest[one.spec.udid]["reason"] != "job_open"
            and any(map(is_order, self._sets_of(one)))
        ]

    def subscribed(self) -> list[Employee]:
        """Return the Macs that report their state by declaration, independent of a job."""
        return [one for one in self.employees if STATUS_SET in self._sets_of(one)]

    def _sets_of(self, one: Employee) -> list[str]:
        return self.servers.kmfddm.request("GET", f"enrollment-sets/{one.spec.udid}").json() or []

    def report(self) -> str:
        """Return one line for each Mac whose state differs from the one that the policy wants."""
        outcome = self.drydock.outcome()
        jobs = {one.udid: one for one in outcome.jobs.values()}
        lines = [f"the Macs' time is {self.clock():%d %H:%M:%S}"]
        for one in self.unexpected():
            mac = self.fleet.macs[one.spec.udid]
            decision = outcome.latest[one.spec.udid]
            answers = Counter((r.request_type, r.status) for r in mac.received)
            asked = mac.emptied_at and f"{mac.emptied_at:%d %H:%M:%S}"
            job = jobs.get(one.spec.udid)
            lines.append(
                f"{one.kind} {one.spec.udid} {mac.physics.os_version} of {one.ends_at}:"
                f" {decision['decision']} {decision['reason']}"
                f" job {job and (job.method, job.outcome, job.error_code)}"
                f" received {dict(answers)} performed {[p.what for p in mac.performed]}"
                f" refusals {mac.refusals[-3:]} declared {mac.declarations.names}"
                f" last {mac.received[-1].request_type} {mac.received[-1].at:%d %H:%M:%S}"
                f" asked {asked}"
            )
        return "\n".join(lines)
