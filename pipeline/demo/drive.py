"""The demo's run: the embedded service against simulated Macs, step by simulated step."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from agents.keys import KeyRing, KeyStore, Purpose
from agents.simulated import SimulatedFleet, SiteLine
from pipeline.decide.policy_file import read_policy
from pipeline.demo.scenario import (
    ADVISORY_AT,
    ENDS_AT,
    EXPLOITED_AT,
    STARTS_AT,
    Scenario,
    policy_text,
    releases,
)
from pipeline.embedded.service import Service
from schemas.decisions import Reason
from schemas.envelope import Event

# What the Macs say in one step is one transaction, as a busy gateway would make it.
STEP: Final = timedelta(minutes=15)
STEPS: Final = int((ENDS_AT - STARTS_AT) / STEP)
MARKS: Final = {"26.2 released": ADVISORY_AT, "two CVEs exploited": EXPLOITED_AT}
_LOOKS_EVERY: Final = timedelta(days=1)
_APPROVAL_LASTS: Final = timedelta(days=2)
_APPROVER: Final = "demo approver"


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a run is: the simulated time; exposed Macs by (site, severity), open jobs by (site,
    action)."""

    now: datetime
    exposed: dict[tuple[str, str], int]
    open_jobs: dict[tuple[str, str], int]


def run(data_dir: Path, scenario: Scenario, seed: int) -> Iterator[Moment]:
    """Run the scenario from start to end in a fresh data directory, a Moment after each step."""
    keys = KeyStore(data_dir / "keys")
    for purpose in Purpose:
        keys.make(purpose)
    fleet = _fleet(scenario, seed)
    service = Service.open(
        data_dir,
        now=STARTS_AT,
        signer=keys.signer(Purpose.JOBS),
        trust=KeyRing.load(data_dir / "keys"),
        policy_text=policy_text(),
        mac_for=fleet.mac_for,
    )
    try:
        feed = list(releases())
        for step in range(STEPS + 1):
            now = STARTS_AT + step * STEP
            said: list[Event] = list(fleet.advance(now))
            while feed and feed[0].time <= now:
                said.append(feed.pop(0))
            if said:
                service.accept(said, (), now)
            if (now - STARTS_AT) % _LOOKS_EVERY == timedelta(0):
                _approve(service, keys, now)
            service.tick(now)
            yield Moment(now, dict(service.engine.exposed), dict(service.engine.open_jobs))
    finally:
        service.close()
        fleet.close()


def _fleet(scenario: Scenario, seed: int) -> SimulatedFleet:
    lines = {
        name: SiteLine(uplink_mbps=site.uplink_mbps, cache=site.cache)
        for name, site in read_policy(policy_text()).sites.items()
    }
    return SimulatedFleet(
        scenario.specs, STARTS_AT, seed=seed, lines=lines, releases=scenario.releases
    )


def _approve(service: Service, keys: KeyStore, now: datetime) -> None:
    """Somebody looks once a day and allows what waits for an approval."""
    waiting = [
        udid
        for udid, standing in service.engine.standings.items()
        if standing.reason is Reason.AWAITING_APPROVAL
    ]
    for udid in waiting:
        key = keys.signer(Purpose.APPROVALS)
        service.approve(udid, by=_APPROVER, now=now, lasts=_APPROVAL_LASTS, key=key)
