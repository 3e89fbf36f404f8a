"""Limits of what wrong or forged reports can cause: jobs an hour and a day, and for which Macs."""

from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import Field

from runtime.yaml_model import StrictModel
from schemas.ids import SerialField, UdidField
from schemas.jobs import Action

Percent = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]


class JobsPerHour(StrictModel):
    """The new jobs that a site gets in one hour of UTC, in percent of its confirmed Macs.

    At least one; None is no limit.
    """

    update: Percent | None = 2.0
    upgrade: Percent | None = 2.0
    reinstall: Percent | None = 0.5
    reimage: Percent | None = 0.5
    reenroll: Percent | None = 0.5
    restart: Percent | None = 2.0
    activate: Percent | None = 2.0

    def limit(self, action: Action, macs: int) -> int | None:
        """Return the largest number of jobs an hour for a site of so many confirmed Macs."""
        percent: float | None = getattr(self, action.value)
        return None if percent is None else max(1, int(macs * percent / 100))


# A site of few Macs repairs one or another of them every day.
FEWEST_BEFORE_HALT: Final = 5


class HaltAbove(StrictModel):
    """The Macs of a site that get a job within 24 hours, in percent of its confirmed Macs.

    If one more needs the action, Drydock halts it at the site until an operator resumes it. At
    least five Macs; None is no limit. Updates have none: a new release concerns every Mac, the
    hourly limit slows it, and a release that fails on a model family is held for it.
    """

    update: Percent | None = None
    upgrade: Percent | None = None
    reinstall: Percent | None = 5.0
    reimage: Percent | None = 5.0
    reenroll: Percent | None = 5.0
    restart: Percent | None = None
    activate: Percent | None = None

    def limit(self, action: Action, macs: int) -> int | None:
        """Return the largest number of Macs for a site of so many confirmed Macs."""
        percent: float | None = getattr(self, action.value)
        return None if percent is None else max(FEWEST_BEFORE_HALT, int(macs * percent / 100))


class BlastRadius(StrictModel):
    """Limits of what wrong or forged reports can cause.

    `jobs_per_hour`, `halt_above`: None is no limit for any action. `confirmed_only`: only Macs get
    jobs that the MDM channel has reported, that the list `confirmed` of their site has, or that an
    operator stated to be the company's, and a broken seal or old firmware leads to a reinstall only
    if the MDM channel, an executor or an operator reported it too. `new_macs_per_hour`: the Macs
    that one sender outside the MDM channel may report first in an hour, besides those that a list
    `confirmed` has by UDID, and the first one with each serial number that it has; reports of more
    are refused. None is no limit. `hostnames_of`: the senders whose host names count where the
    policy matches them: `mdm` are the MDM channel, executors and operators, `any` are all. None is
    `mdm`, but `any` with `confirmed_only` false: that policy trusts inventory alone.
    """

    jobs_per_hour: JobsPerHour | None = JobsPerHour()
    halt_above: HaltAbove | None = HaltAbove()
    confirmed_only: bool = True
    new_macs_per_hour: Annotated[int, Field(ge=1)] | None = 1000
    hostnames_of: Literal["mdm", "any"] | None = None

    @property
    def trusts_all_hostnames(self) -> bool:
        """True if the host names of all senders count."""
        if self.hostnames_of is None:
            return not self.confirmed_only
        return self.hostnames_of == "any"

    def limit(self, action: Action, macs: int) -> int | None:
        """Return the largest number of new jobs an hour for a site of so many confirmed Macs.

        None if there is no limit.
        """
        limits = self.jobs_per_hour
        return None if limits is None else limits.limit(action, macs)

    def halt_limit(self, action: Action, macs: int) -> int | None:
        """Return the largest number of Macs that get a job for an action within 24 hours.

        None if there is no limit, for a site of so many confirmed Macs.
        """
        limits = self.halt_above
        return None if limits is None else limits.limit(action, macs)


class ConfirmedMacs(StrictModel):
    """Macs of a site that count as confirmed without the MDM channel: its allow-list."""

    serials: tuple[SerialField, ...] = ()
    udids: tuple[UdidField, ...] = ()

    def has_udid(self, udid: str) -> bool:
        """Return True if the list has this UDID."""
        return udid in self._udids

    def has_serial(self, serial: str | None) -> bool:
        """Return True if the list has this serial number."""
        return serial in self._serials

    @cached_property
    def _udids(self) -> frozenset[str]:
        return frozenset(self.udids)

    @cached_property
    def _serials(self) -> frozenset[str | None]:
        return frozenset(self.serials)
