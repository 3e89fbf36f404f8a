"""What a simulated Mac is, and what will go wrong with it."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from schemas.macos import Build, OSVersion
from schemas.results import ErrorCode

Hardware = Literal["intel", "t1", "t2", "apple_silicon", "vm"]
ALWAYS = 1_000_000


class Period(NamedTuple):
    """From `start` up to, not including, `end`."""

    start: datetime
    end: datetime

    def holds(self, at: datetime) -> bool:
        """Whether `at` is in it."""
        return self.start <= at < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong. Counts are of orders from the first on (ALWAYS for every one).

    `not_now` answers NotNow; `lost_orders` never arrive; `lost_answers` arrive and the answer does
    not; `ignored` are acknowledged and nothing is done; `rejected` are refused; `failing_downloads`
    and `failing_installs` fail with `install_error`. `offline` are times without network.
    `disk_full_at` leaves `disk_left_gb`. `unplugged` runs on a battery at `low_battery_percent`.
    `report_delay` holds the report of a new build back, `mute_after_install` for ever.
    `loses_profile_at` leaves MDM, saying so if `sends_checkout`. `answers_prompt` False never
    answers an enrolment prompt.
    """

    not_now: int = 0
    lost_orders: int = 0
    lost_answers: int = 0
    ignored: int = 0
    rejected: int = 0
    failing_downloads: int = 0
    failing_installs: int = 0
    install_error: ErrorCode = ErrorCode.INSTALL_FAILED
    offline: tuple[Period, ...] = ()
    unplugged: tuple[Period, ...] = ()
    low_battery_percent: float = 9.0
    disk_full_at: datetime | None = None
    disk_left_gb: float = 4.0
    report_delay: timedelta = timedelta(0)
    mute_after_install: bool = False
    loses_profile_at: datetime | None = None
    sends_checkout: bool = True
    answers_prompt: bool = True
    drifts_firmware_at: datetime | None = None
    breaks_seal_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MacSpec:
    """A Mac as it starts. `firmware` is the right one for its system; `activations` are confirmed
    some time after each reinstall. Disk in GB (10^9 bytes), battery in percent."""

    udid: str
    serial: str
    site: str
    model: str
    os_version: OSVersion
    build: Build
    device_id: str | None = None
    hostname: str | None = None
    hardware: Hardware = "apple_silicon"
    firmware: str | None = None
    supervised: bool = True
    enrolled: bool = True
    user_approved: bool = True
    ade: bool = True
    bootstrap_token: bool = True
    volume_owner: bool = True
    free_disk_gb: float = 120.0
    on_ac_power: bool = True
    battery_percent: float | None = 100.0
    mdm_server: str | None = None
    activations: tuple[str, ...] = ()
    report_every: timedelta = timedelta(hours=6)
    loan_returned_at: datetime | None = None
    faults: Faults = Faults()

    @property
    def apple_silicon(self) -> bool:
        """Whether volume owners and bootstrap tokens matter on it."""
        return self.hardware == "apple_silicon" or self.model.startswith("VirtualMac")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRelease:
    """A system that can be installed: what it is, the firmware it brings, its size in GB."""

    version: OSVersion
    build: Build
    firmware: str | None = None
    update_gb: float = 3.0
    installer_gb: float = 13.0


def draw(seed: int, *what: object) -> float:
    """A number in [0, 1) that depends on nothing but the arguments."""
    digest = hashlib.sha256(repr((seed, what)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
