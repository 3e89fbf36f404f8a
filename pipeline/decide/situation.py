"""All that a rule may see of one Mac at one moment."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from pipeline.decide.policy import Policy, Site
from pipeline.state.advisories import Advisories
from pipeline.state.device import Device, to_us
from pipeline.state.jobs import JobEntry, Ledger, open_job
from schemas.events.control import ApprovalGranted, HaltSet
from schemas.macos import parse_os_version


@dataclass(frozen=True)
class Situation:
    """One Mac, what is known of releases, the policy, its jobs, the halts in force, the approvals
    for it, how many other jobs its site has open, and the time. Each rule is safe alone on any
    Situation."""

    device: Device
    advisories: Advisories
    policy: Policy
    now: datetime
    ledger: Ledger = ()
    halts: tuple[HaltSet, ...] = ()
    approvals: tuple[ApprovalGranted, ...] = ()
    site_open_jobs: int = 0

    @cached_property
    def now_us(self) -> int:
        """`now` in microseconds since 1970."""
        return to_us(self.now)

    @cached_property
    def site_name(self) -> str | None:
        """The Mac's site under this policy."""
        device = self.device
        return self.policy.site_of(
            site=device.site,
            hostname=device.hostname,
            serial=device.serial,
            udid=device.udid,
            model=device.model,
        )

    @cached_property
    def site(self) -> Site | None:
        """The site's settings."""
        return None if self.site_name is None else self.policy.sites[self.site_name]

    @cached_property
    def open_job(self) -> JobEntry | None:
        """The Mac's open job."""
        return open_job(self.ledger)

    @cached_property
    def line_is_supported(self) -> bool | None:
        """Whether Apple (or the policy) still counts the Mac's line; None without any release."""
        version = self.device.os_version
        lines = self.supported_lines
        if version is None or not lines:
            return None
        return version.line in lines or version.major > parse_os_version(lines[0]).major

    @cached_property
    def supported_lines(self) -> tuple[str, ...]:
        """The lines to be on, newest first."""
        wanted = self.policy.upgrades.supported_lines
        if wanted == "auto":
            return self.advisories.supported_lines
        return tuple(sorted(wanted, key=parse_os_version, reverse=True))
