"""Situation: everything that a rule may read about one Mac at one time."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from pipeline.decide.confirmation import confirmed_name
from pipeline.decide.fast.cached import cached
from pipeline.policy.model import Policy, Site
from pipeline.state.advisories import Advisories
from pipeline.state.device import Device, to_us
from pipeline.state.hardware import device_id_of_board, device_ids_of, supports_major
from pipeline.state.identity import CERTAIN, Identity
from pipeline.state.jobs import JobEntry, JobHistory, open_job
from schemas.events.control import ApprovalGranted, HaltSet
from schemas.macos import OSVersion, parse_os_version

_BOARD: Final = "Mac-"


def site_of(device: Device, policy: Policy) -> str | None:
    """Return the name of the Mac's site under this policy.

    None if no site matches and the policy has no default site.
    """
    trusts_all = policy.blast_radius.trusts_all_hostnames
    earlier = device.earlier_hostnames if trusts_all else device.earlier_corroborated_hostnames
    return policy.site_of(
        site=device.site,
        hostname=matched_hostname(device, policy),
        serial=device.serial,
        udid=device.udid,
        model=device.model,
        earlier_hostnames=[name for name, _ in earlier or ()],
    )


def matched_hostname(device: Device, policy: Policy) -> str | None:
    """Return the host name that the policy compares with its globs; None if it is not known.

    It is the newest that the MDM channel, an executor or an operator reported, because any sender
    of reports can state one, or, if the policy wants that, the newest of all.
    """
    trusts_all = policy.blast_radius.trusts_all_hostnames
    return device.hostname if trusts_all else device.corroborated_hostname


@dataclass(frozen=True)
class Situation:
    """One Mac, its jobs and approvals, the catalogue, the policy, the halts, and the time.

    Immutable. `now` is aware. `job_history` is oldest first; `halts` are those set and not cleared,
    which may have passed their `until`; `site_open_jobs` counts the open jobs of the site's other
    Macs, without re-enrollments; `site_hour_jobs` counts by action, sorted, the jobs that the site
    got in the present hour of UTC, without the Mac's own open job, and `site_macs` the confirmed
    Macs of the site. `contradicted` is a reported version in whose place `device` has
    another one (`with_confirmed_version`); None for no other. Every rule must accept any Situation.
    """

    device: Device
    advisories: Advisories
    policy: Policy
    now: datetime
    job_history: JobHistory = ()
    halts: tuple[HaltSet, ...] = ()
    approvals: tuple[ApprovalGranted, ...] = ()
    site_open_jobs: int = 0
    contradicted: OSVersion | None = None
    identity: Identity = CERTAIN
    site_macs: int = 0
    site_hour_jobs: tuple[tuple[str, int], ...] = ()

    @cached
    def now_us(self) -> int:
        """`now` in microseconds since 1970."""
        return to_us(self.now)

    @cached
    def site_name(self) -> str | None:
        """The name of the Mac's site under this policy.

        None if no site matches and the policy has no default site.
        """
        return site_of(self.device, self.policy)

    @cached
    def site(self) -> Site | None:
        """The settings of the Mac's site; None if `site_name` is None."""
        return None if self.site_name is None else self.policy.sites[self.site_name]

    @cached
    def is_confirmed(self) -> bool:
        """True if the MDM channel, the allow-list of its site or an operator confirms the Mac.

        A serial number confirms no Mac whose identity is in conflict.
        """
        name = confirmed_name(self.device, self.policy, self.site_name)
        return name is not None and (name == self.device.udid or not self.identity.conflicts)

    @cached
    def device_id(self) -> str | None:
        """The SoftwareUpdateDeviceID by which releases list the Mac; None if it is not known.

        Without a report, and in place of a board's id, it is the id of the model. If a marketing
        name has several models, it is the id of the first one, provided that every release lists
        all of their ids or none.
        """
        reported = self.device.device_id
        if reported is not None and not reported.startswith(_BOARD):
            return reported
        ids = device_ids_of(self.device.model)
        if len(ids) == 1 or (ids and self.advisories.lists_all_or_none(ids)):
            return ids[0]
        return reported and (device_id_of_board(reported) or reported)

    def runs_line(self, line: str) -> bool | None:
        """Return True if the Mac's hardware runs this line of macOS; None if that is not known.

        The table of models is read first, then the device ids that the line's releases list.
        """
        known = supports_major(self.device.model, parse_os_version(line).major)
        return self.advisories.lists_device(line, self.device_id) if known is None else known

    @cached
    def open_job(self) -> JobEntry | None:
        """The Mac's open job; None if no job is open.

        Of several, the newest that may have touched the Mac, else the newest.
        """
        return open_job(self.job_history)

    @cached
    def line_is_supported(self) -> bool | None:
        """True if the Mac's line is supported, or newer than every supported line.

        False if the line is dead. None if the Mac's version is unknown, or no line is known to be
        supported.
        """
        version = self.device.os_version
        lines = self.supported_lines
        if version is None or not lines:
            return None
        return version.line in lines or version.major > parse_os_version(lines[0]).major

    @cached
    def supported_lines(self) -> tuple[str, ...]:
        """The supported lines, newest first: the policy's, or those that Apple still patches.

        Empty if the policy lists none, or if no release is known.
        """
        wanted = self.policy.upgrades.supported_lines
        if wanted == "auto":
            return self.advisories.supported_lines
        return tuple(sorted(wanted, key=parse_os_version, reverse=True))
