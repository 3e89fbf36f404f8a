"""Macs of one site, reached over SSH.

An order is a task on the Mac: a folder, in which a link appears just before its command begins. The
link is the mark, and its creation succeeds once, so the command runs once however often the order
is given. launchd runs the task, so a lost connection loses nothing; the connection ends at the
restart by design. Afterwards a look compares boot time, build and serial number.

| method | order |
| --- | --- |
| softwareupdate | `softwareupdate --install LABEL --restart`, the label from a listing of the Mac |
| profiles_renew | `profiles renew -type enrollment`, which shows a prompt to the user |
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from agents.mac import Ack, Mac, Observation, Obstacle, UnreachableError, order_marker
from agents.preflight import runs_target
from agents.ssh.connection import NotConnectedError, SshConnection
from agents.ssh.listing import List, Listed, next_listing
from agents.ssh.mac_facts import parse_deferral, parse_serial
from agents.ssh.observation import observation, user_at_screen
from agents.ssh.offers import Offer
from agents.ssh.report import Report, TaskState, UnreadableReportError, listing_name, task_name
from agents.ssh.shell import Command, MacPaths, MacShell
from schemas.ids import clean_text
from schemas.jobs import Job, Method
from schemas.results import ErrorCode

# Seconds without output. Those of github.com/Macjutsu/super are shorter; a server can pause.
_LIST_SILENCE_S: Final = 600
_RENEW_SILENCE_S: Final = 60


@dataclass(frozen=True, slots=True)
class VolumeOwner:
    """The account that authorizes installations on Apple silicon.

    `password` returns its password, None if it cannot be read now.
    """

    name: str
    password: Callable[[], str | None]


class SshMacs:
    """The Macs of one site.

    `connect` returns the connection to the Mac with a serial number. `volume_owner` is the same
    account on each Mac, None without one. A user at the screen gets a notice `notice_s` seconds
    before the command of an order. `silence_s`: seconds without output after which an installation
    is ended.
    """

    def __init__(
        self,
        connect: Callable[[str], SshConnection],
        *,
        now: Callable[[], datetime],
        volume_owner: VolumeOwner | None = None,
        notice_s: int = 900,
        silence_s: int = 1800,
        paths: MacPaths | None = None,
    ) -> None:
        self._connect = connect
        self._now = now
        self._owner = volume_owner
        self._notice_s = notice_s
        self._silence_s = silence_s
        self._paths = paths or MacPaths()

    def mac_for(self, _: Job) -> Mac:
        """Return the Mac of a job."""
        return self

    def look(self, job: Job) -> Observation:
        """Return an observation of the job's Mac; may begin a listing of the offered updates.

        Raises UnreachableError if the Mac does not respond, also with an obstacle, and until a
        listing that the order needs has ended.
        """
        if job.serial is None:
            return Observation(obstacle=_no_serial())
        shell = self._shell(job.serial)
        report = self._report(shell, job)
        seen = observation(report, job, self._now(), has_password=self._password() is not None)
        if not self._needs_offer(job, seen):
            return seen
        match self._offer(report, job):
            case Obstacle() as obstacle:
                return replace(seen, obstacle=obstacle)
            case List(number):
                command = Command(["softwareupdate", "--list"], _LIST_SILENCE_S)
                shell.begin(listing_name(job.job_id, number), command)
                raise UnreachableError("the updates offered to the Mac are being listed")
            case Listed():
                raise UnreachableError("the updates offered to the Mac are being listed")
            case _:
                return seen

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        """Give the order of this step once.

        Raises UnreachableError if the Mac does not respond; then the order may have arrived or not.
        """
        if job.serial is None:
            return Ack.refused(ErrorCode.UNSUPPORTED, _no_serial().detail)
        try:
            shell = self._shell(job.serial)
            report = self._report(shell, job)
        except UnreachableError as error:
            if error.obstacle is None:
                raise
            return Ack.refused(error.obstacle.error_code, error.obstacle.detail)
        order = report.order(job.job_id, attempt, step)
        if order is not None and order.has_begun:
            return Ack.accepted()
        command = self._command(report, job)
        if isinstance(command, Ack):
            return command
        task = task_name(order_marker(job.job_id, attempt, step))
        is_short = job.method is Method.PROFILES_RENEW
        begun = shell.begin(task, command, until_end=is_short)
        if begun.exit_status != 0:
            detail = f"launchd did not take the order: {clean_text(begun.stderr)}"
            return Ack.refused(ErrorCode.COMMAND_REJECTED, detail[:200])
        return self._response(self._report(shell, job), job, attempt, step)

    def _response(self, report: Report, job: Job, attempt: int, step: str) -> Ack:
        order = report.order(job.job_id, attempt, step)
        if order is None or not order.has_begun:
            raise UnreachableError("the order has not begun yet")
        has_failed = order.state is TaskState.ENDED and order.exit_status != 0
        if job.method is Method.PROFILES_RENEW and has_failed:
            # The tool itself asks the server, so a failure of it changed nothing.
            detail = f"exit status {order.exit_status}: {clean_text(order.output.strip())}"
            return Ack.refused(ErrorCode.COMMAND_REJECTED, detail[:200])
        return Ack.accepted()

    def _command(self, report: Report, job: Job) -> Command | Ack:
        """Return the command of the order, or the response of a Mac that must not get it."""
        if job.method is Method.PROFILES_RENEW:
            return Command(["profiles", "renew", "-type", "enrollment"], _RENEW_SILENCE_S)
        if job.method is not Method.SOFTWAREUPDATE:
            return Ack.refused(ErrorCode.UNSUPPORTED, f"{job.method} over SSH")
        offer = self._offer(report, job)
        if isinstance(offer, Obstacle):
            return Ack.refused(offer.error_code, offer.detail)
        if not isinstance(offer, Offer):
            # The listing of the look became too old; the next look lists again.
            return Ack.not_now()
        argv = ["softwareupdate", "--install", offer.label, "--restart", "--agree-to-license"]
        argv.append("--verbose")
        seen = observation(report, job, self._now(), has_password=True)
        password = None
        if seen.apple_silicon is not False:
            password = self._password()
            if self._owner is None or password is None:
                return Ack.refused(ErrorCode.NO_VOLUME_OWNER, "no volume owner's password at hand")
            argv += ["--user", self._owner.name, "--stdinpass"]
        notice_s = self._notice_s if user_at_screen(report) else 0
        return Command(argv, self._silence_s, notice_s, password)

    def _needs_offer(self, job: Job, seen: Observation) -> bool:
        """Return True before the order of an update that the Mac could begin now."""
        if job.method is not Method.SOFTWAREUPDATE or seen.busy:
            return False
        return not seen.marks and not runs_target(job, seen)

    def _offer(self, report: Report, job: Job) -> List | Listed | Offer | Obstacle:
        if job.target is None:
            return Obstacle(ErrorCode.UNSUPPORTED, "an update without a target")
        deferral = parse_deferral(report.facts.get("restrictions", "").encode())
        return next_listing(report, job.target, deferral)

    def _report(self, shell: MacShell, job: Job) -> Report:
        """Return the report of the job's Mac.

        Raises UnreachableError, with an obstacle if another Mac responds at the address.
        """
        owner = "" if self._owner is None else self._owner.name
        is_renewal = job.method is Method.PROFILES_RENEW
        try:
            report = shell.report(job.job_id, owner, with_enrollment=is_renewal)
        except UnreadableReportError as error:
            raise UnreachableError(str(error)) from error
        serial = parse_serial(report.facts.get("serial", ""))
        if serial is None:
            raise UnreachableError("the Mac does not give its serial number")
        if serial != job.serial:
            detail = f"the Mac at this address is {serial}, not {job.serial}"
            raise NotConnectedError(detail, Obstacle(ErrorCode.WRONG_DEVICE, detail))
        return report

    def _shell(self, serial: str) -> MacShell:
        return MacShell(self._connect(serial), self._paths)

    def _password(self) -> str | None:
        return None if self._owner is None else self._owner.password()


def _no_serial() -> Obstacle:
    return Obstacle(ErrorCode.UNSUPPORTED, "a job without a serial number: the Mac is not known")
