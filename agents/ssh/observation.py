"""The observation of a Mac from its report. Pure."""

from datetime import datetime

from agents.mac import STEPS, Observation
from agents.ssh.activations import activation_progress, is_activated
from agents.ssh.fetching import fetched_gb
from agents.ssh.mac_facts import (
    newest_copy_at,
    parse_apple_silicon,
    parse_boot_time,
    parse_enrollment,
    parse_free_disk_gb,
    parse_generated_uid,
    parse_installed_at,
    parse_installer_running,
    parse_power,
    parse_serial,
    parse_system,
    parse_user_logged_in,
    parse_volume_owners,
)
from agents.ssh.orders import RESTARTS_NOTHING
from agents.ssh.progress import order_progress
from agents.ssh.report import Report, Task
from schemas.jobs import Job, Method


def observation(report: Report, job: Job, now: datetime, *, has_password: bool) -> Observation:
    """Return the observation of the job's Mac.

    `has_password` is True if the password of the account that authorizes installations is at hand.
    Before the first order the Mac is busy while another installer runs, and until the job's
    deadline while a user is at the screen: an update restarts the Mac during that user's work.
    """
    facts = report.facts
    system = parse_system(facts.get("system", ""))
    power = parse_power(facts.get("power", ""))
    boot_at = parse_boot_time(facts.get("boot_time", ""))
    apple_silicon = parse_apple_silicon(facts.get("apple_silicon", ""))
    enrollment = parse_enrollment(facts.get("enrollment", ""))
    order = report.order(job.job_id, 1, STEPS[job.method])
    activates = job.method is Method.ACTIVATION_COMMAND
    return Observation(
        os_version=system.version,
        build=system.build,
        boot_at=boot_at,
        installed_at=parse_installed_at(facts.get("history", "").encode()),
        apple_silicon=apple_silicon,
        free_disk_gb=_free_disk_gb(report),
        on_ac_power=power.on_ac,
        battery_percent=power.battery_percent,
        enrolled=enrollment.enrolled,
        user_approved=enrollment.user_approved,
        volume_owner=_volume_owner(report, apple_silicon, has_password=has_password),
        marks=report.marks,
        busy=_is_busy(report, job, order, now),
        serial=parse_serial(facts.get("serial", "")),
        snapshot_at=_newest_copy(report, "snapshots"),
        time_machine_at=_newest_copy(report, "time_machine"),
        progress=(
            activation_progress(order)
            if activates
            else order_progress(order, boot_at, report.clock)
        ),
        is_activated=activates and is_activated(order),
    )


def _free_disk_gb(report: Report) -> float | None:
    """Return the free disk in GB, with the installer that was fetched for the job.

    The limits include its size.
    """
    free_gb = parse_free_disk_gb(report.facts.get("disk", ""))
    return None if free_gb is None else free_gb + fetched_gb(report)


def _newest_copy(report: Report, fact: str) -> datetime | None:
    return newest_copy_at(report.facts.get(fact, ""), report.facts.get("zone", ""))


def _volume_owner(report: Report, apple_silicon: bool | None, *, has_password: bool) -> bool | None:
    """Return True if the account may authorize an installation; None if none is needed."""
    if not apple_silicon:
        return None
    owners = parse_volume_owners(report.facts.get("owners", ""))
    uid = parse_generated_uid(report.facts.get("owner_uid", ""))
    if not has_password or uid is None:
        return False
    return None if owners is None else uid in owners


def _is_busy(report: Report, job: Job, order: Task | None, now: datetime) -> bool:
    if order is not None and order.has_begun:
        return False
    # While a preparation runs, the installer seen may be Drydock's own softwareupdate.
    if not report.is_preparing and parse_installer_running(report.facts.get("processes", "")):
        return True
    restarts = job.method not in RESTARTS_NOTHING
    is_early = job.deadline_at is None or now < job.deadline_at
    return restarts and is_early and user_at_screen(report)


def user_at_screen(report: Report) -> bool:
    """Return True if a user is logged in at the screen, False also if that is unknown."""
    return parse_user_logged_in(report.facts.get("console", "")) is True
