"""A small fleet, its policy and its releases, for tests that run the embedded service."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from agents.mac import Mac
from agents.simulated import Faults, MacSpec, SimulatedFleet
from agents.site_access import SiteAccess
from pipeline.embedded.service import Options, Service
from schemas.envelope import Event
from schemas.jobs import Job
from tests.crash_points import WatchedMac
from tests.factories.sites import JOBS_KEY, KEYS, RELEASES, START, a_spec, critical_release

STEP = timedelta(hours=1)
POLICY = """\
version: 1
default_site: london
blast_radius: {jobs_per_hour: null, confirmed_only: false}
sites:
  london: {time_zone: Europe/London, max_jobs: 3}
deferrals: {exploited: 0d, critical: 0d, high: 0d, medium: 0d, low: 0d, routine: 0d}
mdm: {silent_after: 5d}
thresholds: {cool_down: 2h, reinstall_after_failures: 2}
follow_up: {activations: [munki], compliant: true}
"""


def needy_macs() -> list[MacSpec]:
    """Return Macs with different needs.

    Updates with DDM and SSH, an update that fails once, a reinstall in place, a re-enrollment, and
    a Mac whose response is lost.
    """
    return [
        a_spec("MAC-DDM"),
        a_spec("MAC-SSH", supervised=False),
        a_spec("MAC-FAILS", faults=Faults(failing_installs=1)),
        a_spec("MAC-SEAL", faults=Faults(breaks_seal_at=START + timedelta(hours=1))),
        a_spec("MAC-GONE", faults=Faults(loses_profile_at=START + timedelta(hours=2))),
        a_spec("MAC-LOST", supervised=False, faults=Faults(lost_answers=1)),
    ]


@dataclass
class Environment:
    """The world outside the process: it keeps its state when Drydock dies."""

    fleet: SimulatedFleet
    now: datetime = START
    unsent: list[Event] = field(default_factory=list)
    sent: set[tuple[str, str]] = field(default_factory=set)
    seen_until: datetime | None = None

    @classmethod
    def of(cls, *specs: MacSpec) -> "Environment":
        environment = cls(SimulatedFleet(specs, START, releases=RELEASES))
        environment.unsent += [critical_release("26.1", "25B78"), critical_release("26.2", "25C56")]
        return environment


def open_service(
    data_dir: Path, environment: Environment, hook: Callable[[str], None] | None = None, **more: Any
) -> Service:
    """Open the service on this data directory; its executors act on the environment's Macs."""

    def mac_for(job: Job) -> Mac:
        mac = environment.fleet.mac_for(job)
        return mac if hook is None else WatchedMac(mac, hook)

    return Service.open(
        data_dir,
        now=environment.now,
        signer=JOBS_KEY,
        trust=KEYS,
        policy_text=POLICY,
        access=lambda _: SiteAccess.simulated(mac_for),
        options=Options(on_durable_write=hook),
        **more,
    )


def live(service: Service, environment: Environment, until: datetime) -> None:
    """Run the service and the world until a time. Events that were not accepted are sent again."""
    while environment.now <= until:
        if environment.seen_until != environment.now:
            environment.unsent += environment.fleet.advance(environment.now)
            environment.seen_until = environment.now
        environment.sent |= {(event.source, event.id) for event in environment.unsent}
        if environment.unsent:
            service.accept(environment.unsent, (), environment.now)
            environment.unsent = []
        wake = service.next_wake(environment.now)
        while wake is not None and wake <= environment.now:
            service.tick(environment.now)
            wake = service.next_wake(environment.now)
        environment.now += STEP


def at(hours: float) -> datetime:
    """Hours after the start."""
    return START + timedelta(hours=hours)
