"""Simulated Macs in the process of `drydock run --simulate`, in real time.

The data directory has their state: after a restart the service finds the same Macs, in the state
in which its jobs left them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from agents.simulated import MacSpec, SimulatedFleet, SimulatedRelease
from agents.site_access import SiteAccess
from pipeline.embedded.log import FILE as LOG_FILE
from pipeline.embedded.log import Log, StoreError
from pipeline.embedded.service_thread import AcceptedInput
from schemas.envelope import AdvisoryEvent, Event
from schemas.macos import OSVersion, parse_os_version

FILE: Final = "simulated-macs.sqlite"
_CONFIG_FILE: Final = "simulated-macs.json"
_REPORTED_UNTIL_SETTING: Final = "simulated-until"
_REPORT_EVERY: Final = timedelta(minutes=15)
# Version and model of the Macs: some current, some behind, some on a line without support.
_KINDS: Final = (
    ("26.1", "Mac15,12"),
    ("26.1", "Mac14,2"),
    ("15.7.2", "Mac14,10"),
    ("15.6.1", "Mac14,2"),
    ("14.8.2", "MacBookPro16,1"),
    ("13.7.8", "MacBookPro16,1"),
)


@dataclass(frozen=True, slots=True)
class SimulatedMacs:
    """A simulated fleet as the service's MacSource. `unsent` are events to send before its own."""

    fleet: SimulatedFleet
    unsent: list[Event]

    @classmethod
    def open(
        cls,
        data_dir: Path,
        count: int,
        sites: Sequence[str],
        releases: Iterable[AdvisoryEvent],
        now: datetime,
    ) -> Self:
        """Return the data directory's Macs; make `count` Macs at `sites` if it has none.

        `releases` are announced as events first; the Macs can install them. Raises StoreError if
        the files cannot be read or have another number of Macs, or Macs of another configuration;
        OSError if they cannot be written; KeyError if `releases` lack the version of a Mac.
        """
        # First: Macs of an older version are not readable either, and its error names the version.
        since = _accepted_until(data_dir)
        about = data_dir / _CONFIG_FILE
        try:
            kept = json.loads(about.read_text()) if about.exists() else None
        except (OSError, ValueError) as error:
            raise StoreError(f"cannot read {about}: {error}") from error
        if kept is None:
            # One interval ago, so that every Mac reports at once.
            start = now - _REPORT_EVERY
            kept = {"count": count, "sites": list(sites), "start": start.isoformat()}
            written = about.with_suffix(".new")
            written.write_text(json.dumps(kept))
            written.replace(about)
        if kept["count"] != count:
            raise StoreError(
                f"{data_dir} has {kept['count']} simulated Macs, not {count}: give the same number"
                " or an empty data directory"
            )
        known = list(releases)
        installable = _installable(known)
        specs = [_spec(number, kept["sites"], installable) for number in range(count)]
        try:
            fleet = SimulatedFleet.open(
                data_dir / FILE,
                specs,
                datetime.fromisoformat(kept["start"]),
                releases=installable.values(),
                since=since,
            )
        except ValueError as error:
            raise StoreError(str(error)) from error
        return cls(fleet, list(known))

    def advance(self, now: datetime) -> AcceptedInput:
        """Return the Macs' events since the last call, with `now` as a setting to store with them.

        The first call also returns the `unsent` events, before the others.
        """
        events = [*self.unsent, *self.fleet.advance(now)]
        self.unsent.clear()
        return AcceptedInput(
            events=events, settings={_REPORTED_UNTIL_SETTING: now.isoformat().encode()}
        )

    def next_event_at(self) -> datetime | None:
        """Return the time of the Macs' next event; None if no event is scheduled.

        While there are `unsent` events it is the fleet's current time.
        """
        return self.fleet.now if self.unsent else self.fleet.next_event_at()

    @property
    def answers(self) -> None:
        """None: simulated Macs answer in the call."""
        return

    def access(self, _: str) -> SiteAccess:
        """Return the access to the Macs of any site; a Mac that does not exist is unreachable."""
        return SiteAccess.simulated(self.fleet.mac_for)

    def close(self) -> None:
        """Close the Macs' file."""
        self.fleet.close()


def _accepted_until(data_dir: Path) -> datetime | None:
    """Return the time up to which the store has the Macs' events.

    None if it has none, or if there is no store. Raises StoreError if the store cannot be read.
    """
    if not (data_dir / LOG_FILE).exists():
        return None
    with Log.open(data_dir) as log:
        setting = log.setting(_REPORTED_UNTIL_SETTING)
    return None if setting is None else datetime.fromisoformat(setting.decode())


def _installable(releases: Iterable[AdvisoryEvent]) -> dict[OSVersion, SimulatedRelease]:
    """Return the simulated release of each version, with the last of its builds.

    Of several events of one version the last one counts. Events without a version or without builds
    are left out.
    """
    found: dict[OSVersion, SimulatedRelease] = {}
    for event in releases:
        version, builds = event.data.os_version, event.data.builds
        if version is not None and builds:
            found[version] = SimulatedRelease(version=version, build=builds[-1])
    return found


def _spec(
    number: int, sites: Sequence[str], installable: dict[OSVersion, SimulatedRelease]
) -> MacSpec:
    version_text, model = _KINDS[number % len(_KINDS)]
    version = parse_os_version(version_text)
    return MacSpec(
        udid=f"5133D000-0000-4000-8000-{number:012X}",
        serial=f"SIM{number:07d}",
        site=sites[number % len(sites)],
        model=model,
        hardware="t2" if model.startswith("MacBookPro16") else "apple_silicon",
        os_version=version,
        build=installable[version].build,
        hostname=f"sim-{number:05d}",
        free_disk_gb=60.0 + number * 37 % 200,
        activations=("licences", "munki"),
        report_every=_REPORT_EVERY,
    )
