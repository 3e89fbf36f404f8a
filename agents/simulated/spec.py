"""Specification of a simulated Mac, its faults and its releases."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from schemas.macos import Build, OSVersion
from schemas.results import ErrorCode

Hardware = Literal["intel", "t1", "t2", "apple_silicon", "vm"]
ALWAYS = 1_000_000


class Period(NamedTuple):
    """Time from `start` up to, not including, `end`."""

    start: datetime
    end: datetime

    def holds(self, at: datetime) -> bool:
        """Return True if `at` is in the period."""
        return self.start <= at < self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Faults of a simulated Mac. A count applies to its first orders (ALWAYS: to every order)."""

    not_now: int = 0  # the Mac responds with NotNow
    lost_orders: int = 0  # the order never arrives
    lost_answers: int = 0  # the order arrives, the response does not
    ignored: int = 0  # the order is accepted, and nothing is done
    rejected: int = 0  # the order is refused
    failing_downloads: int = 0  # the download fails with `download_failed`
    failing_installs: int = 0  # the installation fails with `install_error`
    is_cured_by_restart: bool = False  # after a restart no installation fails
    install_error: ErrorCode = ErrorCode.INSTALL_FAILED
    offline: tuple[Period, ...] = ()  # without network
    unplugged: tuple[Period, ...] = ()  # on a battery at `low_battery_percent`
    low_battery_percent: float = 9.0
    disk_full_at: datetime | None = None  # from then on `disk_left_gb` are free
    disk_left_gb: float = 4.0
    report_delay: timedelta = timedelta(0)  # no report for this time after an installation
    mute_after_install: bool = False  # no report after an installation, ever
    loses_profile_at: datetime | None = None  # the Mac leaves MDM
    sends_checkout: bool = True  # with a check-out when it leaves MDM
    answers_prompt: bool = True  # a person answers an enrollment prompt
    drifts_firmware_at: datetime | None = None  # the firmware gets another version
    breaks_seal_at: datetime | None = None  # the system volume is no longer sealed


@dataclass(frozen=True, slots=True, kw_only=True)
class MacSpec:
    """State of a simulated Mac at the start.

    `firmware` is the one of its system. `activations` are reported, and after a reinstall only some
    hours later. Disk in GB (10^9 bytes), battery in percent.
    """

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
        """True if installations need a volume owner or a bootstrap token."""
        return self.hardware == "apple_silicon" or self.model.startswith("VirtualMac")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRelease:
    """A system that can be installed, with its firmware. Sizes in GB (10^9 bytes)."""

    version: OSVersion
    build: Build
    firmware: str | None = None
    update_gb: float = 3.0
    installer_gb: float = 13.0


def draw(seed: int, *what: object) -> float:
    """Return a pseudo-random number in [0, 1) that depends only on `seed` and `what`."""
    digest = hashlib.sha256(repr((seed, what)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
