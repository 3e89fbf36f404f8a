"""The Macs of a chaos run with their faults, its policy and its releases; all from a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Final

from agents.simulated.network import SiteRates
from agents.simulated.spec import Faults, Hardware, MacSpec, Period, SimulatedRelease
from agents.simulated.wire import FleetPlan
from schemas.macos import parse_build, parse_os_version

SITES: Final = ("austin", "london", "tokyo")
START: Final = datetime(2026, 1, 20, 8, tzinfo=UTC)

# Published before the strikes; after a tenth of them; after half of them (see `make_chaos`).
FIRST: Final = ("26.0", "26.1", "15.7.2", "14.8.2", "13.7.8")
SECOND: Final = ("26.2", "15.7.3", "14.8.3")
THIRD: Final = ("26.3",)
NEWEST: Final = {"26": "26.3", "15": "15.7.3", "14": "14.8.3"}
BUILDS: Final = {
    "26.3": "25D60",
    "26.2": "25C56",
    "26.1": "25B78",
    "26.0": "25A354",
    "15.7.3": "24G419",
    "15.7.2": "24G325",
    "14.8.3": "23J220",
    "14.8.2": "23J126",
    "13.7.8": "22H730",
}

# Only capacity, open jobs and failures can hold a Mac. Cool-downs are short, as the run is.
_POLICY: Final = """\
version: 1
default_site: london
blast_radius: {{jobs_per_hour: null, confirmed_only: false}}
sites:
  austin: {{time_zone: America/Chicago, ssh: true, max_jobs: {slots}}}
  london: {{time_zone: Europe/London, ssh: false, max_jobs: {slots}}}
  tokyo: {{time_zone: Asia/Tokyo, ssh: false, max_jobs: {slots}}}
methods: {{update: [softwareupdate, ddm]}}
deferrals: {{exploited: 0d, critical: 0d, high: 0d, medium: 0d, low: 0d, routine: 0d}}
thresholds: {{cool_down: 15m, cool_down_max: 1h}}
follow_up: {{compliant: false}}
"""


@dataclass(frozen=True, slots=True)
class Part:
    """Properties of a share of the Macs.

    Macs that are `offline` lose the network for a while, Macs with `leaves` drop their MDM
    profile, Macs that are `loaned` are returned and need an erase; all at a random time of the run.
    """

    share: float
    version: str = "26.1"
    model: str = "Mac15,12"
    hardware: Hardware = "apple_silicon"
    faults: tuple[tuple[str, Any], ...] = ()
    offline: bool = False
    leaves: bool = False
    loaned: bool = False
    enrolled: bool = True


# Only a job that the Mac itself fails (`failing_...`) may be repeated with another job.
PARTS: Final = (
    Part(0.53),
    Part(0.08, "26.0"),
    Part(0.13, "15.7.2", "Mac14,10"),
    Part(0.05, "14.8.2", "MacBookPro16,1", "t2"),
    Part(0.03, "13.7.8", "MacBookPro16,1", "t2"),
    Part(0.04, faults=(("not_now", 2),)),
    Part(0.04, faults=(("lost_answers", 2),)),
    Part(0.03, faults=(("lost_orders", 1),)),
    Part(0.01, faults=(("failing_installs", 1),)),
    Part(0.01, faults=(("failing_downloads", 1),)),
    Part(0.03, offline=True),
    Part(0.01, leaves=True),
    Part(0.01, enrolled=False),
)


def policy_text(macs: int) -> str:
    """Return the policy; a site has capacity for half of its Macs, so that some jobs wait."""
    return _POLICY.format(slots=max(10, macs // (2 * len(SITES))))


def fleet_plan(
    seed: int, macs: int, speed: float, lasts: timedelta, parts: Sequence[Part] = PARTS
) -> FleetPlan:
    """Return the plan of `macs` Macs over the sites; `lasts` is the run in the Macs' time."""
    random = Random(seed)
    cast = [part for part in parts for _ in range(max(1, round(part.share * macs)))]
    cast = [*cast, *[parts[0]] * (macs - len(cast))][:macs]
    random.shuffle(cast)
    releases = tuple(
        SimulatedRelease(version=parse_os_version(version), build=parse_build(build))
        for version, build in BUILDS.items()
    )
    return FleetPlan(
        start=START,
        macs=tuple(_spec(number, part, lasts, random) for number, part in enumerate(cast)),
        releases=releases,
        # An uplink that never limits: the run is about Drydock, not about bandwidth.
        lines={site: SiteRates(uplink_mbps=1e8) for site in SITES},
        seed=seed,
        speed=speed,
    )


def _spec(number: int, part: Part, lasts: timedelta, random: Random) -> MacSpec:
    faults = dict(part.faults)
    begins = START + lasts * random.uniform(0.1, 0.7)
    if part.offline:
        faults["offline"] = (Period(begins, begins + lasts * random.uniform(0.05, 0.2)),)
    if part.leaves:
        faults["loses_profile_at"] = begins
    return MacSpec(
        udid=f"C4A05000-0000-4000-8000-{number:012X}",
        serial=f"CHAOS{number:06d}",
        site=SITES[number % len(SITES)],
        model=part.model,
        hardware=part.hardware,
        os_version=parse_os_version(part.version),
        build=parse_build(BUILDS[part.version]),
        enrolled=part.enrolled,
        free_disk_gb=round(random.uniform(60, 400), 1),
        report_every=lasts / 5,
        loan_returned_at=begins if part.loaned else None,
        faults=Faults(**faults),
    )
