"""A pilot: two weeks of dry run with 3,000 simulated Macs, then one site goes live."""

from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from agents.simulated import MacSpec
from agents.site_access import SiteAccess
from pipeline.embedded.service import Options, Service
from pipeline.embedded.status import Status, read_status
from pipeline.state.jobs import JobEntry
from schemas.decisions import Reason
from schemas.results import Outcome
from tests.embedded_world import Environment, at, live
from tests.factories.sites import JOBS_KEY, KEYS, a_spec

MACS = 3000
SITES = ("london", "new-york", "tokyo")
MAX_JOBS = 40
DAYS = 14
POLICY = f"""\
version: 1
blast_radius: {{jobs_per_hour: null, confirmed_only: false}}
sites:
  london: {{time_zone: Europe/London, max_jobs: {MAX_JOBS}}}
  new-york: {{time_zone: America/New_York, max_jobs: {MAX_JOBS}}}
  tokyo: {{time_zone: Asia/Tokyo, max_jobs: {MAX_JOBS}}}
windows: [{{from: "20:00", to: "06:00"}}]
deferrals: {{exploited: 0d, critical: 0d, high: 0d, medium: 0d, low: 0d, routine: 0d}}
deadlines: {{exploited: 60d, critical: 60d, high: 60d, medium: 60d, low: 60d, routine: 60d}}
thresholds: {{max_attempts: 5, cool_down: 4h}}
follow_up: {{compliant: false}}
"""


def macs() -> list[MacSpec]:
    """Return a third of the Macs at each site; every second one has no DDM."""
    return [
        a_spec(
            f"MAC-{number:04}",
            site=SITES[number % 3],
            supervised=number % 2 == 0,
            report_every=timedelta(days=1),
        )
        for number in range(MACS)
    ]


def opened(folder: Path, environment: Environment, *live_sites: str) -> Service:
    access = SiteAccess.simulated(environment.fleet.mac_for)
    return Service.open(
        folder,
        now=environment.now,
        signer=JOBS_KEY,
        trust=KEYS,
        policy_text=POLICY,
        access=lambda site: access if site in live_sites else None,
        options=Options(sweep_every=timedelta(days=7)),
    )


def jobs(service: Service) -> list[JobEntry]:
    histories = service.reconciler.fleet.job_histories.values()
    return [entry for history in histories for entry in history]


def reasons(service: Service, site: str) -> Counter[str]:
    """Count the Macs of a site by the reason of their last decision."""
    last = service.reconciler.last_decisions.values()
    return Counter(one.reason.value for one in last if one.site == site)


def status(service: Service, environment: Environment) -> Status:
    return read_status(service.store, environment.now)


@pytest.mark.slow
@pytest.mark.timeout(900)  # 100,000 reports: half a minute alone, minutes on a loaded machine
def test_pilot_wears_no_mac_out_and_a_site_goes_live_clean(disk: Path) -> None:
    environment = Environment.of(*macs())
    service = opened(disk, environment)
    busiest: Counter[str] = Counter()
    for hour in range(24 * DAYS):
        live(service, environment, at(hour))
        for (site, _), count in service.reconciler.open_jobs.items():
            busiest[site] = max(busiest[site], count)
    assert environment.fleet.acted == []
    assert busiest == dict.fromkeys(SITES, MAX_JOBS)
    assert {entry.outcome for entry in jobs(service)} == {Outcome.REHEARSED}
    for site in SITES:
        assert reasons(service, site) == {Reason.DRY_RUN.value: MACS // 3}
    assert status(service, environment).dry_run == {site: {"update": MACS // 3} for site in SITES}
    before = status(service, environment).exposed
    service.close()

    service = opened(disk, environment, "london")
    live(service, environment, at(24 * (DAYS + 7)))
    assert {udid for _, udid, *_ in environment.fleet.acted} == {
        spec.udid for spec in macs() if spec.site == "london"
    }
    assert len(environment.fleet.acted) == MACS // 3
    assert reasons(service, "london") == {Reason.COMPLIANT.value: MACS // 3}
    found = status(service, environment)
    assert sorted(found.dry_run) == ["new-york", "tokyo"]
    assert {site: found.exposed[site] for site in found.dry_run} == {
        site: before[site] for site in found.dry_run
    }
    assert not any(entry.failed for entry in jobs(service))
    service.close()
