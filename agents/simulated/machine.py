"""One simulated Mac: its reactions to orders, its own events, and its faults."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from agents.mac import Ack, InstallState, Observation, Progress, UnreachableError, order_marker
from agents.preflight import erases
from agents.simulated.environment import Environment
from agents.simulated.refusals import refusal
from agents.simulated.reports import Reporter
from agents.simulated.spec import MacSpec, draw
from schemas.envelope import DeviceEvent
from schemas.jobs import ERASING_METHODS, MDM_METHODS, Action, Job, Method
from schemas.macos import OSVersion
from schemas.results import ErrorCode

_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_POLL: Final = timedelta(minutes=30)
_SOON: Final = timedelta(seconds=5)
_UPTIME: Final = timedelta(days=6)
# A DDM declaration without a date installs this long after the download. A declaration whose date
# passes while the Mac is off is enforced an hour after the Mac is back
# (github.com/apple/device-management, softwareupdate.enforcement.specific).
_DDM_GRACE: Final = timedelta(hours=1)
_PREPARE: Final = timedelta(minutes=2)
_DISK_NEEDED_GB: Final = 10.0
_INSTALL_MINUTES: Final = {
    Action.UPDATE: 12,
    Action.UPGRADE: 25,
    Action.REINSTALL: 22,
    Action.REIMAGE: 3,
}

Events = list[DeviceEvent]


@dataclass(frozen=True, slots=True)
class _Work:
    """The work of the last order that the Mac accepted."""

    number: int
    job: Job


class SimulatedMac:
    """A simulated Mac that implements `agents.mac.Mac`.

    It carries out each order that it accepts, also a repeated one with the same name, as real Macs
    do.
    """

    def __init__(self, spec: MacSpec, environment: Environment, start: datetime) -> None:
        self.spec = spec
        self.os_version: OSVersion = spec.os_version
        self.build = spec.build
        self.firmware = spec.firmware
        self.sealed = True
        self.enrolled = spec.enrolled
        self.user_approved = spec.user_approved
        self.bootstrap_token = spec.bootstrap_token
        self.free_disk_gb = spec.free_disk_gb
        self.activations = spec.activations
        self._activated: set[str] = set()
        self.compliant = True
        self.boot_at = start - _UPTIME * (0.1 + draw(environment.seed, spec.udid, "uptime"))
        self.installed_at = start - timedelta(days=90)
        self.progress = Progress()
        self.pending_version: OSVersion | None = None
        self._environment = environment
        self._reporter = Reporter(self)
        self._left = {name: getattr(spec.faults, name) for name in _COUNTED}
        self._pending: dict[str, tuple[str, Job, int]] = {}
        self._marks: set[str] = set()
        self._work: _Work | None = None
        self._works = 0
        self._installing = self._in_setup = False
        self._mute_until = start
        self._reports = 0
        self._plan(start)

    # --- the Mac protocol ---

    def look(self, job: Job) -> Observation:
        """Return its state.

        Raises UnreachableError while it installs, waits in Setup Assistant or has no network.
        """
        if not self.is_online(self._environment.now):
            raise UnreachableError(self.spec.udid)
        guarded = self.spec.apple_silicon
        return Observation(
            os_version=self.os_version,
            build=self.build,
            boot_at=self.boot_at,
            installed_at=self.installed_at,
            apple_silicon=self.spec.apple_silicon,
            free_disk_gb=self.free_disk_gb,
            on_ac_power=self.on_ac_power,
            battery_percent=self.battery_percent,
            enrolled=self.enrolled,
            user_approved=self.user_approved,
            bootstrap_token=self.bootstrap_token if guarded else None,
            volume_owner=self.spec.volume_owner if guarded else None,
            marks=frozenset(self._marks),
            pending=frozenset(self._pending),
            progress=self.progress,
            serial=self.spec.serial,
            is_activated=job.job_id in self._activated,
        )

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        """Give it an order and return the response.

        Raises UnreachableError while it installs, waits in Setup Assistant or has no network, or if
        a fault loses the order or only its response.
        """
        if not self.is_online(self._environment.now):
            raise UnreachableError(self.spec.udid)
        return self._environment.submit_order(self, step, job, attempt)

    def is_online(self, at: datetime) -> bool:
        """Return True if it can be reached at this time.

        False while it installs, waits in Setup Assistant or is without network by its faults.
        """
        if self._installing or self._in_setup:
            return False
        return not any(away.holds(at) for away in self.spec.faults.offline)

    @property
    def on_ac_power(self) -> bool:
        """True if it is plugged in at the current virtual time."""
        return self.spec.on_ac_power and not self._unplugged

    @property
    def battery_percent(self) -> float | None:
        """Its charge (0-100) at the current virtual time, None for a desktop."""
        percent = self.spec.battery_percent
        low = percent is not None and self._unplugged
        return self.spec.faults.low_battery_percent if low else percent

    @property
    def _unplugged(self) -> bool:
        return any(away.holds(self._environment.now) for away in self.spec.faults.unplugged)

    # --- orders ---

    def receive_order(self, step: str, job: Job, attempt: int, at: datetime) -> Ack:
        """Return the response to an order that reached the Mac's network, with the spec's faults.

        Raises UnreachableError if a fault loses the order, or only its response: then the order has
        its effects.
        """
        if self._strikes("lost_orders"):
            raise UnreachableError("the order was lost")
        ack = self._acknowledge(step, job, attempt, at)
        if self._strikes("lost_answers"):
            raise UnreachableError("the response was lost")
        return ack

    def _acknowledge(self, step: str, job: Job, attempt: int, at: datetime) -> Ack:
        """Return the response to an order that arrived, with the effects of that response.

        An accepted order is carried out. After a NotNow an MDM order stays pending and is offered
        again.
        """
        if self._strikes("rejected"):
            return Ack.refused(ErrorCode.COMMAND_REJECTED, "rejected")
        refused = refusal(self, job)
        if refused is not None:
            return refused
        name = order_marker(job.job_id, attempt, step)
        if self._strikes("not_now"):
            if job.method in MDM_METHODS:
                self._pending[name] = (step, job, attempt)
                self._wake(at + _POLL, "poll")
            return Ack.not_now()
        self._carry_out(step, job, attempt, at)
        return Ack.accepted()

    def _carry_out(self, step: str, job: Job, attempt: int, at: datetime) -> None:
        """Leave the mark of the order, record it, and schedule its work.

        An order that the fault `ignored` strikes has a mark but no work. A declaration that the Mac
        has can change the time of its enforcement only.
        """
        name = order_marker(job.job_id, attempt, step)
        if job.method is Method.DDM and name in self._marks:
            self._enforce(job, at)
            return
        self._marks.add(name)
        self._environment.record_action(at, self.spec.udid, job.job_id, attempt, step)
        if self._strikes("ignored"):
            return
        if job.method is Method.PROFILES_RENEW:
            if self.spec.faults.answers_prompt:
                self._wake(at + self._between(20, 300, "prompt"), "enrol")
            return
        if job.method is Method.RESTART_UPDATE_SERVICE:
            return
        if job.method is Method.ACTIVATION_COMMAND:
            self._activated.add(job.job_id)
            return
        if job.method is Method.INSTALL_PROFILE:
            self._wake(at + _SOON, "enrol")
            return
        if job.method is Method.RESTART_DEVICE:
            self._wake(at + timedelta(minutes=2), "restart")
            return
        self._works += 1
        self._work = _Work(self._works, job)
        if job.method in ERASING_METHODS:
            self._wake(at + timedelta(minutes=1), "install", self._works)
        else:
            self._wake(at + _SOON, "download", self._works)

    def _enforce(self, job: Job, at: datetime) -> None:
        """Enforce a declared update at this job's time, if it is not being installed."""
        if self._work is None or self._work.job.job_id != job.job_id or self._installing:
            return
        if self.progress.state is not InstallState.PREPARED:
            self._work = _Work(self._work.number, job)
            return
        self._works += 1
        self._work = _Work(self._works, job)
        self._wake(max(at, job.enforce_at or at + _DDM_GRACE), "install", self._works)

    def _strikes(self, fault: str) -> bool:
        """Return True and use up one strike if the fault has strikes left, else False."""
        if self._left[fault] <= 0:
            return False
        self._left[fault] -= 1
        return True

    def withdraw(self, job: Job) -> None:
        """End the work of this job, unless the Mac installs already or has other work."""
        if self._installing or (self._work is not None and self._work.job.job_id != job.job_id):
            return
        self._work = None
        self.pending_version = None
        self.progress = Progress(since=self._environment.now)
        self._reporter.changed()

    # --- events without an order ---

    def on(self, kind: str, work: int, at: datetime) -> Events:
        """Handle a scheduled event and return the events that it leads to.

        `kind` is the name of a handler without `_on_`. `work` is the number of an order's work, 0
        for an event without an order. For work that has ended or that a later order replaced,
        nothing happens and the list is empty.
        """
        if work and (self._work is None or self._work.number != work):
            return []
        return _HANDLERS[kind](self, at)

    def _plan(self, start: datetime) -> None:
        """Schedule the first report and every fault that has a time."""
        spec, faults = self.spec, self.spec.faults
        self._wake(
            start + spec.report_every * draw(self._environment.seed, spec.udid, "first"), "report"
        )
        planned = (
            ("lose", faults.loses_profile_at),
            ("drift", faults.drifts_firmware_at),
            ("unseal", faults.breaks_seal_at),
            ("fill", faults.disk_full_at),
            ("loan", spec.loan_returned_at),
        )
        for kind, at in planned:
            if at is not None:
                self._wake(at, kind)
        for away in faults.offline:
            self._wake(away.end, "report_all")
        for period in faults.unplugged:
            self._wake(period.start, "power")
            self._wake(period.end, "power")

    def _on_report(self, at: datetime) -> Events:
        """Schedule the next report and return this one; none without network or while mute.

        The first report is from all sources. Later ones alternate between osquery and MDM, or are
        from osquery only outside MDM.
        """
        self._wake(at + self.spec.report_every, "report")
        if at < self._mute_until or not self.is_online(at):
            return []
        self._reports += 1
        if self._reports == 1:
            return self._on_report_all(at)
        by_mdm = self.enrolled and self._reports % 2 == 0
        return [self._reporter.inventory("mdm" if by_mdm else "osquery", at)]

    def _on_report_all(self, at: datetime) -> Events:
        """Return a report from each source; none without network or while mute.

        Without enrollment the only source is osquery.
        """
        if at < self._mute_until or not self.is_online(at):
            return []
        events: Events = [self._reporter.inventory("osquery", at)]
        if self.enrolled:
            events += [self._reporter.inventory("mdm", at), *self._reporter.ddm_status(at)]
        return events

    def _on_poll(self, at: datetime) -> Events:
        """Take the oldest pending order from the MDM server and carry it out.

        Returns a NotNow report if the Mac declines the order again, otherwise no event. Without
        network or enrollment the Mac polls again in 30 minutes.
        """
        if not self._pending:
            return []
        if not self.is_online(at) or not self.enrolled:
            self._wake(at + _POLL, "poll")
            return []
        name, (step, job, attempt) = next(iter(self._pending.items()))
        if self._strikes("not_now"):
            self._wake(at + _POLL, "poll")
            return [self._reporter.not_now(name, at)]
        del self._pending[name]
        self._carry_out(step, job, attempt, at)
        if self._pending:
            self._wake(at + _POLL, "poll")
        return []

    def _on_download(self, at: datetime) -> Events:
        work = self._current_work()
        if self.free_disk_gb < _DISK_NEEDED_GB:
            return self._fail(ErrorCode.NO_DISK_SPACE, at)
        target = work.job.target
        assert target is not None
        release = self._environment.release(target)
        update = work.job.action is Action.UPDATE
        size_gb = release.update_gb if update else release.installer_gb
        self.pending_version = release.version
        item = f"{work.job.action}/{release.version}/{release.build}"
        self._environment.download(self.spec.udid, work.number, item, size_gb, at)
        return self._move(InstallState.DOWNLOADING, at)

    def _on_downloaded(self, at: datetime) -> Events:
        work = self._current_work()
        if not self.is_online(at):
            # The Mac went offline during the download; try again until it is back.
            self._wake(at + timedelta(minutes=15), "downloaded", work.number)
            return []
        if self._strikes("failing_downloads"):
            return self._fail(ErrorCode.DOWNLOAD_FAILED, at)
        install_at = at + _PREPARE
        if work.job.method is Method.DDM:
            enforce_at = work.job.enforce_at or at + _DDM_GRACE
            install_at = max(install_at, enforce_at)
        self._wake(install_at, "install", work.number)
        return self._move(InstallState.PREPARED, at)

    def _on_install(self, at: datetime) -> Events:
        work = self._current_work()
        if not self.is_online(at):
            back_at = max((a.end for a in self.spec.faults.offline if a.holds(at)), default=at)
            self._wake(back_at + _DDM_GRACE, "install", work.number)
            return []
        events = self._move(InstallState.INSTALLING, at)
        self._installing = True
        minutes = (
            15 if work.job.method is Method.ERASE_DEVICE else _INSTALL_MINUTES[work.job.action]
        )
        pace = 0.8 + 0.6 * draw(self._environment.seed, self.spec.udid, "pace", work.number)
        self._wake(at + timedelta(minutes=minutes) * pace, "installed", work.number)
        return events

    def _on_installed(self, at: datetime) -> Events:
        job = self._current_work().job
        self._installing = False
        self.boot_at = at
        self.pending_version = None
        if self._strikes("failing_installs"):
            return [*self._fail(self.spec.faults.install_error, at), *self._on_report_all(at)]
        self._work = None
        self.installed_at = at
        self.progress = Progress(since=at)
        self._install_system(job)
        if job.action in (Action.REINSTALL, Action.REIMAGE):
            self.activations, self.compliant = (), False
            self._wake(at + self._between(60, 240, "activation"), "activate")
        faults = self.spec.faults
        if faults.mute_after_install:
            self._mute_until = _NEVER
        elif faults.report_delay:
            self._mute_until = at + faults.report_delay
            self._wake(self._mute_until, "report_all")
        self._reporter.changed()
        if erases(job):
            return self._erase(job, at)
        return self._on_report_all(at)

    def _install_system(self, job: Job) -> None:
        """Install the system, with its firmware and seal unless it comes from an image.

        An older release than the current one leaves version and build unchanged.
        """
        assert job.target is not None
        release = self._environment.release(job.target)
        if release.version >= self.os_version:
            self.os_version, self.build = release.version, release.build
        if job.method is not Method.ASR:
            self.firmware = release.firmware or self.spec.firmware
            self.sealed = True

    def _erase(self, job: Job, at: datetime) -> Events:
        """Erase the Mac and return no event.

        Its enrollment, bootstrap token and pending orders end. Its marks are deleted too, unless
        the order came over MDM. The Mac then waits in Setup Assistant, unreachable, until automated
        enrollment; for ever if its specification has none.
        """
        if job.method not in MDM_METHODS:
            self._marks.clear()
        self._pending.clear()
        self.enrolled = self.bootstrap_token = False
        self._in_setup = True
        if self.spec.ade:
            self._wake(at + self._between(10, 40, "setup"), "enrol")
        return []

    def _on_restart(self, at: datetime) -> Events:
        """Boot, and return a report from each source; nothing happens while it installs."""
        if self._installing:
            return []
        self.boot_at = at
        if self.spec.faults.is_cured_by_restart:
            self._left["failing_installs"] = 0
        self._reporter.changed()
        return self._on_report_all(at)

    def _on_enrol(self, at: datetime) -> Events:
        if self._installing or any(away.holds(at) for away in self.spec.faults.offline):
            self._wake(at + _POLL, "enrol")
            return []
        self._in_setup = False
        self.enrolled = self.user_approved = True
        # A new Authenticate clears the server's queue (nanomdm, service.go).
        self._pending.clear()
        self._reporter.changed()
        self._wake(at + timedelta(seconds=2), "token")
        return [self._reporter.authenticated(at)]

    def _on_token(self, at: datetime) -> Events:
        self._wake(at + timedelta(minutes=1), "escrow")
        return [self._reporter.token_updated(at)]

    def _on_escrow(self, at: datetime) -> Events:
        self.bootstrap_token = True
        self._reporter.changed()
        return [self._reporter.escrowed(at), *self._on_report_all(at)]

    def _on_activate(self, at: datetime) -> Events:
        if not self.is_online(at) or not self.enrolled:
            self._wake(at + timedelta(hours=1), "activate")
            return []
        self.activations, self.compliant = self.spec.activations, True
        self._reporter.changed()
        return self._on_report_all(at)

    def _on_lose(self, at: datetime) -> Events:
        self.enrolled = False
        self._reporter.changed()
        return [self._reporter.checked_out(at)] if self.spec.faults.sends_checkout else []

    def _on_drift(self, _: datetime) -> Events:
        self.firmware = f"{self.firmware or 'unknown'}-drifted"
        return self._unreported()

    def _on_unseal(self, _: datetime) -> Events:
        self.sealed = False
        return self._unreported()

    def _on_fill(self, _: datetime) -> Events:
        self.free_disk_gb = self.spec.faults.disk_left_gb
        return self._unreported()

    def _on_power(self, _: datetime) -> Events:
        return self._unreported()

    def _on_loan(self, at: datetime) -> Events:
        return [self._reporter.loan_returned(at)]

    # --- helpers ---

    def _unreported(self) -> Events:
        """Return no event; the next report has the new state."""
        self._reporter.changed()
        return []

    def _current_work(self) -> _Work:
        assert self._work is not None
        return self._work

    def _move(self, state: InstallState, at: datetime) -> Events:
        """Set the state of the installation and return its DDM status report.

        Returns no event before macOS 14 and outside MDM.
        """
        self.progress = Progress(state, since=at)
        return self._reporter.ddm_status(at)

    def _fail(self, code: ErrorCode, at: datetime) -> Events:
        """End the work with a failed installation.

        Returns the DDM status report of the failure; no event before macOS 14 and outside MDM.
        """
        self._work = None
        self.pending_version = None
        self.progress = Progress(InstallState.FAILED, error_code=code, since=at)
        self._reporter.changed()
        return self._reporter.ddm_status(at)

    def _between(self, least: int, most: int, what: str) -> timedelta:
        """Return a pseudo-random duration between `least` and `most` minutes.

        It depends only on the seed, the Mac, `what` and the number of the last work.
        """
        share = draw(self._environment.seed, self.spec.udid, what, self._works)
        return timedelta(minutes=least + (most - least) * share)

    def _wake(self, at: datetime, kind: str, work: int = 0) -> None:
        self._environment.wake(at, self.spec.udid, kind, work)


_COUNTED: Final = (
    "not_now",
    "lost_orders",
    "lost_answers",
    "ignored",
    "rejected",
    "failing_downloads",
    "failing_installs",
)
_HANDLERS: Final[dict[str, Callable[[SimulatedMac, datetime], Events]]] = {
    name.removeprefix("_on_"): getattr(SimulatedMac, name)
    for name in vars(SimulatedMac)
    if name.startswith("_on_")
}
