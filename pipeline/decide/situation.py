"""All that a rule may see of one Mac at one moment."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

from pipeline.decide.policy import Policy, Site
from pipeline.state.advisories import Advisories
from pipeline.state.device import Device, to_us
from pipeline.state.jobs import JobEntry, JobHistory, open_job
from schemas.events.control import ApprovalGranted, HaltSet
from schemas.macos import parse_os_version

T = TypeVar("T")


class cached(Generic[T]):  # noqa: N801 - a decorator
    """`functools.cached_property` as it is since Python 3.12: without a lock, which costs more
    than most of what is worked out here."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> "cached[T]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> "T | cached[T]":
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


def site_of(device: Device, policy: Policy) -> str | None:
    """The Mac's site under this policy."""
    return policy.site_of(
        site=device.site,
        hostname=device.hostname,
        serial=device.serial,
        udid=device.udid,
        model=device.model,
    )


@dataclass(frozen=True, init=False)
class Situation:
    """One Mac, what is known of releases, the policy, its jobs, the halts in force, the approvals
    for it, how many other jobs its site has open, and the time. Each rule is safe alone on any
    Situation."""

    device: Device
    advisories: Advisories
    policy: Policy
    now: datetime
    job_history: JobHistory = ()
    halts: tuple[HaltSet, ...] = ()
    approvals: tuple[ApprovalGranted, ...] = ()
    site_open_jobs: int = 0

    # Written out: frozen, the generated one goes through object.__setattr__ for each of them.
    def __init__(
        self,
        device: Device,
        advisories: Advisories,
        policy: Policy,
        now: datetime,
        job_history: JobHistory = (),
        halts: tuple[HaltSet, ...] = (),
        approvals: tuple[ApprovalGranted, ...] = (),
        site_open_jobs: int = 0,
    ) -> None:
        self.__dict__.update(
            device=device,
            advisories=advisories,
            policy=policy,
            now=now,
            job_history=job_history,
            halts=halts,
            approvals=approvals,
            site_open_jobs=site_open_jobs,
        )

    @cached
    def now_us(self) -> int:
        """`now` in microseconds since 1970."""
        return to_us(self.now)

    @cached
    def site_name(self) -> str | None:
        """The Mac's site under this policy."""
        return site_of(self.device, self.policy)

    @cached
    def site(self) -> Site | None:
        """The site's settings."""
        return None if self.site_name is None else self.policy.sites[self.site_name]

    @cached
    def open_job(self) -> JobEntry | None:
        """The Mac's open job."""
        return open_job(self.job_history)

    @cached
    def line_is_supported(self) -> bool | None:
        """Whether Apple (or the policy) still counts the Mac's line; None without any release."""
        version = self.device.os_version
        lines = self.supported_lines
        if version is None or not lines:
            return None
        return version.line in lines or version.major > parse_os_version(lines[0]).major

    @cached
    def supported_lines(self) -> tuple[str, ...]:
        """The lines to be on, newest first."""
        wanted = self.policy.upgrades.supported_lines
        if wanted == "auto":
            return self.advisories.supported_lines
        return tuple(sorted(wanted, key=parse_os_version, reverse=True))
