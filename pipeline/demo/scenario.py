"""The demo's scenario: Macs at three sites, their faults, and Apple's releases.

A scenario is a function of its seed and size. Each Mac has a part. A part with `stays_exposed` is
one that no job can patch within the demo's time, so the outcome can be checked: exactly these Macs
must be exposed at the end.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib import resources
from random import Random
from typing import Any, Final

from agents.simulated import Faults, MacSpec, Period, SimulatedRelease
from pipeline.state.hardware import hardware_class
from schemas.envelope import AdvisoryEvent, AdvisoryPublishedEvent, AdvisorySeverityRaisedEvent
from schemas.envelope import decode as decode_event
from schemas.macos import OSVersion, parse_build, parse_os_version

STARTS_AT: Final = datetime(2025, 12, 5, 8, tzinfo=UTC)
ADVISORY_AT: Final = datetime(2025, 12, 12, 19, 8, 1, tzinfo=UTC)
EXPLOITED_AT: Final = datetime(2025, 12, 15, 18, 46, 6, tzinfo=UTC)
ENDS_AT: Final = datetime(2025, 12, 27, 8, tzinfo=UTC)
_NEVER_BACK: Final = datetime(2030, 1, 1, tzinfo=UTC)

_SITES: Final = (("london", "ldn"), ("tokyo", "tyo"), ("new-york", "nyc"))
# Firmware by version of macOS on Apple silicon, as the demo's Macs report it.
_FIRMWARE: Final = {"26.1": "13822.41.1", "26.2": "13822.61.10"}
_LOAN_FIRMWARE: Final = "2075.120.3.0.0"


@dataclass(frozen=True, slots=True)
class Part:
    """A kind of Mac in the demo: version, model and faults.

    `share` of the fleet has this part, and at least `least` Macs. `stays_exposed`: no job can
    patch such a Mac within the demo.
    """

    name: str
    share: float
    version: str = "26.1"
    model: str = "Mac15,12"
    least: int = 1
    stays_exposed: bool = False
    faults: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)


def _hours(hours: float) -> datetime:
    """Return the time this many hours after the start of the demo."""
    return STARTS_AT + timedelta(hours=hours)


_DAY: Final = 24.0
_LANDED: Final = (ADVISORY_AT - STARTS_AT) / timedelta(hours=1)

PARTS: Final = (
    Part("sound", 0.30),
    Part("sound on Sequoia", 0.14, "15.7.2", "Mac14,10"),
    Part("sound on Sonoma", 0.07, "14.8.2", "MacBookPro16,1"),
    Part("behind", 0.07, "15.6.1", "Mac14,2"),
    Part("far behind", 0.03, "14.7.7", "Mac13,1"),
    Part("on an unsupported line", 0.04, "13.7.8", "MacBookPro16,1", least=2),
    Part("on an unsupported line, old hardware", 0.02, "13.7.8", "iMac18,3", stays_exposed=True),
    Part("on an unsupported line and behind", 0.01, "13.7.6", "MacBookPro14,3", stays_exposed=True),
    Part("unsupervised", 0.05, spec={"supervised": False}),
    Part("sends NotNow", 0.05, faults={"not_now": 3}),
    Part("acknowledges a command and does nothing", 0.02, faults={"ignored": 1}),
    Part("loses a response", 0.02, faults={"lost_answers": 1}),
    Part("download fails once", 0.02, faults={"failing_downloads": 1}),
    Part("update keeps failing", 0.01, faults={"failing_installs": 3}, least=1),
    Part("breaks its seal", 0.01, faults={"breaks_seal_at": _hours(3 * _DAY)}),
    Part("drifts its firmware", 0.01, faults={"drifts_firmware_at": _hours(4 * _DAY)}),
    Part("removes its profile", 0.02, faults={"loses_profile_at": _hours(5 * _DAY)}),
    Part(
        "loses its profile silently",
        0.01,
        faults={"loses_profile_at": _hours(2 * _DAY), "sends_checkout": False},
    ),
    Part(
        "away for days",
        0.03,
        faults={"offline": (Period(_hours(_LANDED - 30), _hours(_LANDED + 6 * _DAY)),)},
    ),
    Part(
        "never comes back",
        0.01,
        stays_exposed=True,
        faults={"offline": (Period(_hours(_LANDED - 20), _NEVER_BACK),)},
    ),
    Part("disk full", 0.015, stays_exposed=True, spec={"free_disk_gb": 6.0}),
    Part(
        "on battery at night",
        0.02,
        faults={"unplugged": (Period(_hours(_LANDED), _hours(_LANDED + 4 * _DAY)),)},
    ),
    Part("reports late", 0.015, faults={"report_delay": timedelta(hours=9)}),
    Part("exempt", 0.01, stays_exposed=True, spec={"hostname": "kiosk"}),
    Part(
        "returned loan",
        0.005,
        "13.7.8",
        "iMac19,1",
        spec={"firmware": _LOAN_FIRMWARE, "loan_returned_at": _hours(-2 * _DAY)},
    ),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fleet, each Mac's part by UDID, and the releases that its Macs can install."""

    specs: tuple[MacSpec, ...]
    parts: dict[str, Part]
    releases: tuple[SimulatedRelease, ...]


def build(seed: int, devices: int) -> Scenario:
    """Return the scenario of this seed with this many Macs.

    Raises ValueError if there are too few Macs for all parts.
    """
    random = Random(seed)  # noqa: S311 - a simulated fleet, not a secret
    cast = _cast(devices)
    random.shuffle(cast)
    specs = tuple(_spec(index, part, random) for index, part in enumerate(cast))
    parts = {spec.udid: part for spec, part in zip(specs, cast, strict=True)}
    return Scenario(specs, parts, _installable())


@cache
def releases() -> tuple[AdvisoryEvent, ...]:
    """Return the events of Apple's releases from May 2024 to 2025-12-15, in order of time.

    A version can have several events: the last one raises the severity of 26.2. Versions, builds,
    dates and CVE ids are those of the SOFA feed (github.com/macadmins/sofa, commits 08857f1a4316
    and a385410b8b6e).
    """
    text = resources.files("pipeline.demo").joinpath("releases.jsonl").read_bytes()
    events = [decode_event(line) for line in text.splitlines()]
    return tuple(
        event
        for event in events
        if isinstance(event, AdvisoryPublishedEvent | AdvisorySeverityRaisedEvent)
    )


def policy_text() -> str:
    """Return the text of the demo's policy."""
    return resources.files("pipeline.demo").joinpath("policy.yaml").read_text(encoding="utf-8")


def _cast(devices: int) -> list[Part]:
    """Return one part for each of so many Macs; every part is there at least `least` times.

    Raises ValueError if there are too few Macs for all parts.
    """
    smallest = sum(part.least for part in PARTS)
    if devices < smallest:
        raise ValueError(f"the demo needs at least {smallest} Macs, one for each kind of fault")
    cast = [part for part in PARTS for _ in range(max(part.least, int(part.share * devices)))]
    while len(cast) > devices:
        cast.remove(max(PARTS, key=cast.count))
    return cast + [PARTS[0]] * (devices - len(cast))


def _build_of(version: OSVersion) -> str:
    """Return the last build of a macOS version, from the demo's first release that lists one.

    Raises LookupError if no release lists a build of the version.
    """
    for event in releases():
        if event.data.os_version == version and event.data.builds:
            return str(event.data.builds[-1])
    raise LookupError(f"releases.jsonl has no build of macOS {version}")


def _spec(index: int, part: Part, random: Random) -> MacSpec:
    """Return the simulated Mac number `index` with this part; its site and figures are random."""
    site, prefix = _SITES[random.choices(range(3), weights=(5, 3, 2))[0]]
    version = parse_os_version(part.version)
    hardware = hardware_class(part.model, None, None).value
    kind = "kiosk-" if part.spec.get("hostname") == "kiosk" else ""
    spec: dict[str, Any] = {
        "free_disk_gb": round(random.uniform(60, 400), 1),
        "firmware": _FIRMWARE.get(part.version),
        **part.spec,
        "hostname": f"{prefix}-{kind}{index:04d}",
    }
    return MacSpec(
        udid=f"{random.getrandbits(32):08X}-DEAD-4000-8000-{index:012X}",
        serial=f"DRY{index:07d}",
        site=site,
        model=part.model,
        hardware=hardware,  # type: ignore[arg-type]
        os_version=version,
        build=parse_build(_build_of(version)),
        activations=("licences", "munki"),
        faults=Faults(**part.faults),
        **spec,
    )


def _installable() -> tuple[SimulatedRelease, ...]:
    """Return one installable release for each version that has a build in the demo's releases.

    Its build is the last one of the newest event with builds of the version; its firmware is None
    if the demo does not know it.
    """
    found: dict[OSVersion, SimulatedRelease] = {}
    for event in releases():
        version, builds = event.data.os_version, event.data.builds
        if version is not None and builds:
            firmware = _FIRMWARE.get(str(version))
            found[version] = SimulatedRelease(version=version, build=builds[-1], firmware=firmware)
    return tuple(found.values())
