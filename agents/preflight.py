"""Checks of a Mac before an order and after it, from one observation. Pure.

The pipeline has checked most of this in reports already. But a Mac changes between its report and
the job, and an installer that runs out of disk or power half-way does more harm than none.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from agents.mac import InstallState, Observation
from schemas.jobs import (
    ERASING_METHODS,
    INSTALLATIONS,
    MDM_METHODS,
    Action,
    Backup,
    Job,
    Method,
    is_destructive,
)
from schemas.macos import reaches
from schemas.results import ErrorCode

_SSH_INSTALLERS: Final = frozenset({Method.SOFTWAREUPDATE, Method.STARTOSINSTALL})
_BUSY: Final = frozenset({InstallState.INSTALLING})


@dataclass(frozen=True, slots=True)
class Limits:
    """Minimum free disk in GB (10^9 bytes) and minimum battery in percent.

    The values are those of github.com/Macjutsu/super and the defaults of the policy: 15 GB for an
    update, 25 GB plus the installer for an upgrade; battery 20 % on Apple silicon, 50 % on Intel.
    """

    disk_update_gb: float = 15.0
    disk_upgrade_gb: float = 44.0
    battery_apple_silicon: float = 20.0
    battery_intel: float = 50.0


@dataclass(frozen=True, slots=True)
class Ready:
    """The order can be given."""


@dataclass(frozen=True, slots=True)
class AlreadyThere:
    """The Mac runs the target already: nothing to do."""


@dataclass(frozen=True, slots=True)
class Busy:
    """The Mac must be left alone, as during an installation: check again later."""


@dataclass(frozen=True, slots=True)
class Unfit:
    """The order cannot be given, with the reason."""

    error_code: ErrorCode
    detail: str


Fitness = Ready | AlreadyThere | Busy | Unfit


def erases(job: Job) -> bool:
    """Return True if the job erases the Mac, by its flag or by its method."""
    return job.erases or job.method in ERASING_METHODS


def destroys(job: Job) -> bool:
    """Return True if the job erases or reinstalls its Mac."""
    return is_destructive(job.action, job.method, erases=job.erases)


def runs_target(job: Job, look: Observation) -> bool:
    """Return True if the Mac runs the job's target release or a later one.

    False for a job without a target, and for an unknown version.
    """
    target = job.target
    return target is not None and reaches(look.os_version, look.build, target.version, target.build)


def fitness(job: Job, look: Observation, limits: Limits, now: datetime) -> Fitness:
    """Return the fitness of the Mac for the job.

    An unknown field never makes it unfit, but unknown AC power counts as none. Another Mac than the
    job's comes first: none is erased or reinstalled by mistake (the lock of the site refuses a
    destructive job without a serial number, `agents.destructive_lock`). AlreadyThere is only for
    updates and upgrades. Otherwise Busy comes before Unfit, and Unfit has the first check that
    fails; an obstacle of the form comes first.
    """
    if destroys(job) and None not in (look.serial, job.serial) and look.serial != job.serial:
        detail = f"it reports the serial number {look.serial}, the job is for {job.serial}"
        return Unfit(ErrorCode.WRONG_DEVICE, detail)
    if job.action in (Action.UPDATE, Action.UPGRADE) and runs_target(job, look):
        return AlreadyThere()
    if look.busy or look.progress.state in _BUSY:
        return Busy()
    if look.obstacle is not None:
        return Unfit(look.obstacle.error_code, look.obstacle.detail)
    for check in (_too_new, _not_enrolled, _no_volume_owner, _no_disk, _no_power):
        unfit = check(job, look, limits)
        if unfit is not None:
            return unfit
    return _no_backup(job, look, now) or Ready()


def _no_backup(job: Job, look: Observation, now: datetime) -> Unfit | None:
    """Return Unfit with the code `no_backup` without the copy that the job needs, else None.

    Unlike other fields, an unknown copy is none: the work destroys data, and MDM shows no copies.
    A complete backup also serves where a snapshot is wanted.
    """
    if job.backup is None:
        return None
    copies = [look.time_machine_at]
    if job.backup.kind is Backup.SNAPSHOT:
        copies.append(look.snapshot_at)
    oldest = now - timedelta(minutes=job.backup.max_age_minutes)
    if any(copy is not None and copy >= oldest for copy in copies):
        return None
    known = [copy for copy in copies if copy is not None]
    newest = f"the newest is of {max(known):%Y-%m-%d %H:%M} UTC" if known else "none is known"
    hours = job.backup.max_age_minutes / 60
    kind = job.backup.kind.value
    return Unfit(ErrorCode.NO_BACKUP, f"needs a {kind} of the last {hours:g} h; {newest}")


def _too_new(job: Job, look: Observation, _: Limits) -> Unfit | None:
    """Return Unfit with the code `unsupported` if the Mac is newer than the target, else None.

    Apple's installers do not go back to an older release. `EraseDevice`, a job without a target and
    a Mac with an unknown version are not checked.
    """
    target = job.target
    if target is None or look.os_version is None or job.method is Method.ERASE_DEVICE:
        return None
    if look.os_version.release > target.version.release:
        detail = f"runs {look.os_version}, newer than {target.version}"
        return Unfit(ErrorCode.UNSUPPORTED, detail)
    return None


def _not_enrolled(job: Job, look: Observation, _: Limits) -> Unfit | None:
    """Return Unfit with the code `not_enrolled` if a Mac outside MDM has an MDM job, else None.

    Unknown enrollment gives None.
    """
    if job.method in MDM_METHODS and look.enrolled is False:
        return Unfit(ErrorCode.NOT_ENROLLED, "not enrolled in MDM")
    return None


def _no_volume_owner(job: Job, look: Observation, _: Limits) -> Unfit | None:
    """Return Unfit if nothing can authorize the installation, else None.

    On Apple silicon a volume owner must authorize it (code `no_volume_owner` over SSH). MDM does it
    with the escrowed bootstrap token (code `no_bootstrap_token`). An unknown field gives None.
    """
    if job.method in _SSH_INSTALLERS and look.volume_owner is False:
        return Unfit(ErrorCode.NO_VOLUME_OWNER, "no volume owner's password at hand")
    if job.method in (Method.DDM, Method.MDM_COMMAND) and look.bootstrap_token is False:
        return Unfit(ErrorCode.NO_BOOTSTRAP_TOKEN, "no bootstrap token escrowed")
    return None


def _no_disk(job: Job, look: Observation, limits: Limits) -> Unfit | None:
    """Return Unfit with the code `no_disk_space` if less is free than the limit, else None.

    Erasing methods, jobs that install nothing and a Mac with unknown free disk are not checked.
    """
    if job.action not in INSTALLATIONS or job.method in ERASING_METHODS:
        return None
    if look.free_disk_gb is None:
        return None
    update = job.action is Action.UPDATE
    needed = limits.disk_update_gb if update else limits.disk_upgrade_gb
    if look.free_disk_gb < needed:
        detail = f"{look.free_disk_gb:.1f} GB free, {needed:g} GB needed"
        return Unfit(ErrorCode.NO_DISK_SPACE, detail)
    return None


def _no_power(job: Job, look: Observation, limits: Limits) -> Unfit | None:
    """Return Unfit with the code `low_power` for a low battery without AC power, else None.

    Unknown AC power counts as none, unknown hardware as Apple silicon. A Mac with unknown or no
    battery is not checked, nor is a job that installs nothing.
    """
    if job.action not in INSTALLATIONS or look.on_ac_power or look.battery_percent is None:
        return None
    intel = look.apple_silicon is False
    needed = limits.battery_intel if intel else limits.battery_apple_silicon
    if look.battery_percent < needed:
        detail = f"battery at {look.battery_percent:.0f} %, {needed:g} % needed without AC"
        return Unfit(ErrorCode.LOW_POWER, detail)
    return None


def ran_since(job: Job, look: Observation, boot_at: datetime | None, intent_at: datetime) -> bool:
    """Return True if the Mac runs the job's target and booted after the order.

    False for a job without a target, and if the Mac's version or present boot time is unknown.
    `boot_at` is the boot time before the order: by the Mac's clock, as the present one, so a wrong
    clock does not matter. If it is None, `intent_at` is used instead. A job that is not an update
    or upgrade may end on the version that it began with: the system must then also have been
    installed after `boot_at` (or `intent_at`). If that time is unknown, the boot is enough.
    """
    if not runs_target(job, look) or not booted_since(look, boot_at, intent_at):
        return False
    if job.action in (Action.UPDATE, Action.UPGRADE) or look.installed_at is None:
        return True
    return look.installed_at > (intent_at if boot_at is None else boot_at)


def booted_since(look: Observation, boot_at: datetime | None, intent_at: datetime) -> bool:
    """Return True if the Mac booted after the order, False if its present boot time is unknown.

    `boot_at` is its boot time before the order: the present one must be more than 60 s later. If
    `boot_at` is None, the present one must be later than `intent_at`.
    """
    if look.boot_at is None:
        return False
    if boot_at is None:
        return look.boot_at > intent_at
    # macOS changes its boot time when it corrects the clock, so a few seconds are no boot.
    return (look.boot_at - boot_at).total_seconds() > 60
