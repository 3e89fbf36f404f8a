"""A small fleet, its policy and what Apple released, for driving the embedded service."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agents.mac import Ack, Look, Mac
from agents.simulated import Faults, MacSpec, SimulatedFleet
from pipeline.embedded.service import Options, Service
from schemas.envelope import AdvisoryPublishedEvent, Event, InventoryEvent
from schemas.events.advisory import AdvisoryPublished
from schemas.events.inventory import InventoryReported
from schemas.ids import event_id
from schemas.jobs import Job
from schemas.macos import parse_build, parse_os_version
from tests.factories.sites import JOBS_KEY, KEYS, RELEASES, START, a_spec

STEP = timedelta(hours=1)
POLICY = """\
version: 1
default_site: london
sites:
  london: {time_zone: Europe/London, max_jobs: 3}
deferrals: {exploited: 0d, critical: 0d, high: 0d, medium: 0d, low: 0d, routine: 0d}
mdm: {silent_after: 5d}
thresholds: {cool_down: 2h, reinstall_after_failures: 2}
follow_up: {activations: [munki], compliant: true}
"""


def advisory(version: str, build: str, at: datetime = START) -> AdvisoryPublishedEvent:
    """A release that fixes one hole."""
    return AdvisoryPublishedEvent(
        id=event_id("advisory", version),
        source="/test/sofa",
        subject=f"macOS-{version}",
        time=at,
        data=AdvisoryPublished(
            source="sofa",
            os_line=version.partition(".")[0],
            os_version=parse_os_version(version),
            builds=(parse_build(build),),
            released_at=at,
            cves=(f"CVE-2026-{int(build[:2])}{len(version):03}",),
            severity="critical",
        ),
    )


def report(udid: str = "MAC-1", at: datetime = START, **facts: Any) -> InventoryEvent:
    """An inventory report of a Mac."""
    return InventoryEvent(
        id=event_id("report", udid, at.isoformat(), repr(facts)),
        source="/test/osquery",
        subject=udid,
        time=at,
        data=InventoryReported(source="osquery", udid=udid, serial=f"C02{udid}", **facts),
    )


def needy_macs() -> list[MacSpec]:
    """Macs with different needs: updates by three ways, a failing one, a reinstall in place, a
    re-enrolment, an order whose answer gets lost."""
    return [
        a_spec("MAC-DDM"),
        a_spec("MAC-SSH", supervised=False),
        a_spec("MAC-FAILS", faults=Faults(failing_installs=1)),
        a_spec("MAC-SEAL", faults=Faults(breaks_seal_at=START + timedelta(hours=1))),
        a_spec("MAC-GONE", faults=Faults(loses_profile_at=START + timedelta(hours=2))),
        a_spec("MAC-LOST", supervised=False, faults=Faults(lost_answers=1)),
    ]


@dataclass
class Touching:
    """A Mac that tells when it was touched."""

    mac: Mac
    tell: Callable[[str], None]

    def look(self, job: Job) -> Look:
        return self.mac.look(job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        try:
            return self.mac.act(step, job, attempt)
        finally:
            self.tell("touched:after")


@dataclass
class Outside:
    """The world outside the process: what it does not forget when Drydock dies."""

    fleet: SimulatedFleet
    now: datetime = START
    unsent: list[Event] = field(default_factory=list)
    sent: set[tuple[str, str]] = field(default_factory=set)
    seen_until: datetime | None = None

    @classmethod
    def of(cls, *specs: MacSpec) -> "Outside":
        outside = cls(SimulatedFleet(specs, START, releases=RELEASES))
        outside.unsent += [advisory("26.1", "25B78"), advisory("26.2", "25C56")]
        return outside


def open_service(
    data_dir: Path, outside: Outside, hook: Callable[[str], None] | None = None, **more: Any
) -> Service:
    """The service on this data directory, its executors at the outside's Macs."""

    def mac_for(job: Job) -> Mac:
        mac = outside.fleet.mac_for(job)
        return mac if hook is None else Touching(mac, hook)

    return Service.open(
        data_dir,
        now=outside.now,
        signer=JOBS_KEY,
        trust=KEYS,
        policy_text=POLICY,
        mac_for=mac_for,
        options=Options(on_durable_write=hook),
        **more,
    )


def live(service: Service, outside: Outside, until: datetime) -> None:
    """Let the service and the world go on together. What was not accepted is sent again."""
    while outside.now <= until:
        if outside.seen_until != outside.now:
            outside.unsent += outside.fleet.advance(outside.now)
            outside.seen_until = outside.now
        outside.sent |= {(event.source, event.id) for event in outside.unsent}
        if outside.unsent:
            service.accept(outside.unsent, (), outside.now)
            outside.unsent = []
        wake = service.next_wake(outside.now)
        while wake is not None and wake <= outside.now:
            service.tick(outside.now)
            wake = service.next_wake(outside.now)
        outside.now += STEP


def at(hours: float) -> datetime:
    """Hours after the start."""
    return START + timedelta(hours=hours)


__all__ = ["START", "STEP", "UTC", "Outside", "advisory", "at", "live", "open_service", "report"]
