"""Macs of one site, reached over SSH.

An order is a task on the Mac: a folder, in which a link appears just before its command begins. The
link is the mark, and its creation succeeds once, so the command runs once however often the order
is given. launchd runs the task, so a lost connection loses nothing; the connection ends at the
restart by design. Afterwards a look compares boot time, build and serial number. `agents.ssh.
orders` has the command of each method.

An update and an installation are prepared by tasks of their own, which a look begins: a listing of
the offered updates, and the fetch of an installer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from agents.installers.source import Installer, InstallerSource, Staging
from agents.mac import Ack, Mac, Observation, Obstacle, UnreachableError, order_marker
from agents.preflight import Limits, Ready, fitness, runs_target
from agents.ssh.activations import Activation, activation_command
from agents.ssh.connection import NotConnectedError, SshConnection
from agents.ssh.fetching import Fetch, Fetching, InstallerApp, next_fetch
from agents.ssh.images import Image, fitting_image, restore_arguments
from agents.ssh.listing import List, Listed, next_listing
from agents.ssh.mac_facts import parse_apple_silicon, parse_deferral, parse_serial
from agents.ssh.observation import observation, user_at_screen
from agents.ssh.offers import Offer
from agents.ssh.orders import SHORT, installer_arguments, short_command, update_command
from agents.ssh.report import (
    FETCH,
    LIST,
    Report,
    TaskState,
    UnreadableReportError,
    preparation_name,
    task_name,
)
from agents.ssh.shell import Command, CostlyFact, MacPaths, MacShell, script_command
from schemas.activations import activation_name
from schemas.ids import clean_text
from schemas.jobs import Action, Job, Method
from schemas.results import ErrorCode

# Seconds without output. Those of github.com/Macjutsu/super are shorter; a server can pause.
_LIST_SILENCE_S: Final = 600
_SHORT_SILENCE_S: Final = 60
# Longer than it takes to compare the SHA-256 of 18 GB and to unpack them, which print nothing.
_FETCH_SILENCE_S: Final = 3600
_INSTALLING: Final = frozenset({Method.STARTOSINSTALL, Method.ASR})
# Notice of an installation to a user at the screen, for a job without its own.
_NOTICE_MINUTES: Final = 15


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
    account on each Mac, None without one. `installers` has the installers of the site; without it
    Apple's own tool fetches them. `images` returns those for `asr`, and raises
    UnreachableError while it cannot. `activations` are those of the site by name. Nothing is
    fetched for a Mac below the `limits`. `silence_s`: seconds without output after which an
    installation is ended.
    """

    def __init__(  # noqa: PLR0913 - what a site has for its Macs
        self,
        connect: Callable[[str], SshConnection],
        *,
        now: Callable[[], datetime],
        volume_owner: VolumeOwner | None = None,
        installers: InstallerSource | None = None,
        images: Callable[[], Sequence[Image]] = tuple,
        activations: Mapping[str, Activation] | None = None,
        limits: Limits | None = None,
        silence_s: int = 1800,
        paths: MacPaths | None = None,
    ) -> None:
        self._connect = connect
        self._now = now
        self._owner = volume_owner
        self._installers = installers
        self._images = images
        self._activations = activations or {}
        self._limits = limits or Limits()
        self._silence_s = silence_s
        self._paths = paths or MacPaths()

    def mac_for(self, _: Job) -> Mac:
        """Return the Mac of a job."""
        return self

    def look(self, job: Job) -> Observation:
        """Return an observation of the job's Mac; may begin a listing of the offered updates.

        May also begin the fetch of an installer; the Mac is busy until it is there. Raises
        UnreachableError if the Mac does not respond, also with an obstacle, and until a listing
        that the order needs has ended.
        """
        if job.serial is None:
            return Observation(obstacle=_no_serial())
        shell = self._shell(job.serial)
        report = self._report(shell, job)
        seen = observation(report, job, self._now(), has_password=self._password() is not None)
        if job.method is Method.ACTIVATION_COMMAND and not seen.marks:
            activation = self._activation(job)
            return replace(seen, obstacle=activation) if isinstance(activation, Obstacle) else seen
        if job.method in _INSTALLING:
            is_ready = not seen.marks and fitness(job, seen, self._limits, self._now()) == Ready()
            return self._with_installer(shell, report, job, seen) if is_ready else seen
        if not self._needs_offer(job, seen):
            return seen
        match self._offer(report, job):
            case Obstacle() as obstacle:
                return replace(seen, obstacle=obstacle)
            case List(number):
                command = Command(["softwareupdate", "--list"], _LIST_SILENCE_S)
                shell.begin(preparation_name(job.job_id, LIST, number), command)
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
        if isinstance(command, Obstacle):
            return Ack.refused(command.error_code, command.detail)
        if isinstance(command, Ack):
            return command
        task = task_name(order_marker(job.job_id, attempt, step))
        begun = shell.begin(task, command, until_end=job.method in SHORT)
        if begun.exit_status != 0:
            detail = f"launchd did not take the order: {clean_text(begun.stderr)}"
            return Ack.refused(ErrorCode.COMMAND_REJECTED, detail[:200])
        return self._response(self._report(shell, job), job, attempt, step)

    def _response(self, report: Report, job: Job, attempt: int, step: str) -> Ack:
        order = report.order(job.job_id, attempt, step)
        if order is None or not order.has_begun:
            raise UnreachableError("the order has not begun yet")
        has_failed = order.state is TaskState.ENDED and order.exit_status != 0
        if job.method in SHORT and has_failed:
            # Such a tool does its work before it ends, so a failure of it changed nothing.
            detail = f"exit status {order.exit_status}: {clean_text(order.output.strip())}"
            return Ack.refused(ErrorCode.COMMAND_REJECTED, detail[:200])
        return Ack.accepted()

    def _command(self, report: Report, job: Job) -> Command | Ack | Obstacle:
        """Return the command of the order, or the response of a Mac that must not get it."""
        if job.method in SHORT:
            return Command(short_command(job.method), _SHORT_SILENCE_S)
        if job.method is Method.ACTIVATION_COMMAND:
            return self._activation(job)
        if job.method is Method.SOFTWAREUPDATE:
            prepared: object = self._offer(report, job)
        elif job.method in _INSTALLING:
            prepared = next_fetch(report)
        else:
            return Ack.refused(ErrorCode.UNSUPPORTED, f"{job.method} over SSH")
        if not isinstance(prepared, Offer | InstallerApp):
            # What the look found became too old; the next look prepares again.
            return prepared if isinstance(prepared, Obstacle) else Ack.not_now()
        if job.method is Method.ASR and isinstance(prepared, InstallerApp):
            return self._restore(report, job, prepared.path)
        owner, password = None, None
        if parse_apple_silicon(report.facts.get("apple_silicon", "")) is not False:
            password = self._password()
            if self._owner is None or password is None:
                return Ack.refused(ErrorCode.NO_VOLUME_OWNER, "no volume owner's password at hand")
            owner = self._owner.name
        if isinstance(prepared, Offer):
            argv = update_command(prepared, owner)
        else:
            arguments = installer_arguments(job, owner)
            argv = script_command("install.sh", prepared.path, *arguments)
        return Command(argv, self._silence_s, _notice_s(report, job), password)

    def _activation(self, job: Job) -> Command | Obstacle:
        """Return the command of the job's activation, or the reason without one."""
        name = activation_name(job.intent)
        if name is None or name not in self._activations:
            detail = f"the site's configuration has no activation {name or job.intent}"
            return Obstacle(ErrorCode.UNSUPPORTED, detail)
        return activation_command(self._activations[name])

    def _restore(self, report: Report, job: Job, path: str) -> Command | Obstacle:
        """Return the command that restores a volume, or the obstacle of a Mac that does not fit."""
        image = fitting_image(self._images(), job, report)
        if isinstance(image, Obstacle):
            return image
        argv = script_command("restore.sh", path, *restore_arguments(image, report))
        return Command(argv, self._silence_s, _notice_s(report, job))

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

    def _with_installer(
        self, shell: MacShell, report: Report, job: Job, seen: Observation
    ) -> Observation:
        """Return the observation of a Mac that could begin now; busy until its installer is there.

        Begins the fetch of the installer.
        """
        found = next_fetch(report)
        fetch = self._fetch(shell, report, job, found.number) if isinstance(found, Fetch) else found
        match fetch:
            case Obstacle() as obstacle:
                return replace(seen, obstacle=obstacle)
            case InstallerApp():
                return seen
            case _:
                return replace(seen, busy=True)

    def _fetch(
        self, shell: MacShell, report: Report, job: Job, number: int
    ) -> Staging | Fetching | Obstacle:
        """Begin the fetch with this number, unless the site does not have the installer yet."""
        if job.method is Method.ASR:
            return self._fetch_image(shell, report, job, number)
        if job.target is None:
            return Obstacle(ErrorCode.UNSUPPORTED, "an installation without a target")
        installer: Installer | None = None
        if self._installers is not None:
            match self._installers.installer(job):
                case Installer() as found:
                    installer = found
                case Staging() | Obstacle() as other:
                    return other
        # A reinstall of the release that runs is deferred by nothing.
        deferral = parse_deferral(report.facts.get("restrictions", "").encode())
        is_deferred = job.action is Action.UPGRADE and (deferral is None or any(deferral))
        argv = script_command(
            "fetch.sh",
            self._paths.applications,
            self._paths.installers,
            str(job.target.version),
            "-" if job.target.build is None else str(job.target.build),
            "-" if installer is None else str(installer.size_bytes),
            "-" if installer is None else installer.sha256,
            "deferral" if is_deferred else "-",
        )
        url = "" if installer is None else installer.url
        command = Command(argv, _FETCH_SILENCE_S, secret=url)
        shell.begin(preparation_name(job.job_id, FETCH, number), command)
        return Fetching()

    def _fetch_image(
        self, shell: MacShell, report: Report, job: Job, number: int
    ) -> Staging | Fetching | Obstacle:
        image = fitting_image(self._images(), job, report)
        if isinstance(image, Obstacle):
            return image
        url = image.url
        if self._installers is not None and image.stored is not None:
            match self._installers.image(job, image.stored):
                case Installer() as found:
                    url = found.url
                case Staging() | Obstacle() as other:
                    return other
        name = f"{job.job_id}.dmg"
        facts = (self._paths.installers, name, str(image.size_bytes), image.sha256)
        argv = script_command("fetch_image.sh", *facts)
        command = Command(argv, _FETCH_SILENCE_S, secret=url)
        shell.begin(preparation_name(job.job_id, FETCH, number), command)
        return Fetching()

    def _report(self, shell: MacShell, job: Job) -> Report:
        """Return the report of the job's Mac.

        Raises UnreachableError, with an obstacle if another Mac responds at the address.
        """
        owner = "" if self._owner is None else self._owner.name
        try:
            report = shell.report(job.job_id, owner, _costly_facts(job))
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


def _costly_facts(job: Job) -> frozenset[CostlyFact]:
    """Return the facts that only some jobs need."""
    wanted: set[CostlyFact] = set()
    if job.method is Method.PROFILES_RENEW:
        wanted.add("enrollment")
    if job.method is Method.STARTOSINSTALL:
        wanted.add("history")
    if job.method is Method.ASR:
        wanted.add("image")
    if job.backup is not None:
        wanted.add("backups")
    return frozenset(wanted)


def _notice_s(report: Report, job: Job) -> int:
    """Return the seconds between a notice to the user and the command; 0 without a user."""
    minutes = _NOTICE_MINUTES if job.notice_minutes is None else job.notice_minutes
    return minutes * 60 if user_at_screen(report) else 0


def _no_serial() -> Obstacle:
    return Obstacle(ErrorCode.UNSUPPORTED, "a job without a serial number: the Mac is not known")
