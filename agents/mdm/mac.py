"""Macs of one site, reached through its MDM servers.

An order is a command in a server's queue, or a declaration with the command that makes the Mac
fetch it. Its effect follows from the events of the store, and for a declaration from the status
report that its server keeps. A look sends at most read-only queries.

| method | order | mark on the Mac |
| --- | --- | --- |
| ddm | declaration set, then DeclarativeManagement | its answer, or the set in a status report |
| mdm_command | ScheduleOSUpdate | its answer |
| erase_device | EraseDevice | its answer, or a new enrollment in Setup Assistant |
| install_profile | InstallProfile of the enrollment | its answer, or a new enrollment |
| restart_device | RestartDevice | its answer |

MDM does not report a boot. The first report of the present version takes its place, and for an
erasing job the begin of the present enrollment: an erased Mac enrolls again.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final

from agents.mac import (
    STEPS,
    Ack,
    Mac,
    Observation,
    Obstacle,
    UnreachableError,
    order_marker,
)
from agents.mdm.answers import AnswerStore
from agents.mdm.commands import (
    Command,
    RequestType,
    UnsupportedCommandError,
    declarative_management,
    device_information,
    erase_device,
    install_profile,
    restart_device,
    schedule_os_update,
    security_info,
)
from agents.mdm.declarations import UndeclarableError, enforcement, set_name
from agents.mdm.delivery import ACKNOWLEDGED, SentCommand, State
from agents.mdm.facts import MacFacts, Name
from agents.mdm.observation import Deliveries, answer_progress, delivered, progress
from agents.mdm.server import (
    LoginRefusedError,
    MdmServer,
    ServerRefusedError,
    ServerUnavailableError,
    ServerView,
)
from agents.preflight import erases
from schemas.jobs import INSTALLATIONS, Job, Method
from schemas.macos import OSVersion
from schemas.method_versions import exists_on
from schemas.results import ErrorCode

# Older facts are unknown where the present state counts.
FACT_MAX_AGE: Final = timedelta(hours=24)
# A command that was not answered for so long is not waited for any more.
LATE_LIMIT: Final = timedelta(days=60)
# The checks before an erase, and the version after an update command.
QUERY_MAX_AGE: Final = timedelta(hours=1)
# The server's Date has whole seconds, cut off. A webhook of the same second can be older.
_DATE_STEP: Final = timedelta(seconds=1)
_NEVER: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PREFLIGHT_FROM: Final = OSVersion(13, 3)
_PREFLIGHT_PASSED: Final = "success"
_COMMANDS: Final = {
    Method.DDM: RequestType.DECLARATIVE_MANAGEMENT,
    Method.MDM_COMMAND: RequestType.SCHEDULE_OS_UPDATE,
    Method.ERASE_DEVICE: RequestType.ERASE_DEVICE,
    Method.INSTALL_PROFILE: RequestType.INSTALL_PROFILE,
    Method.RESTART_DEVICE: RequestType.RESTART_DEVICE,
}


@dataclass(frozen=True, slots=True)
class Enrollment:
    """A Mac at its MDM server, with the facts about it."""

    server: MdmServer
    id: str
    facts: MacFacts


class MdmMacs:
    """The Macs of one site.

    `zone` is the time zone of the site, used for its Macs. `erase_pin` returns the PIN for Macs
    that require one to be erased, None if the site has none. `is_current` is False while events of
    the past are still being read; no Mac can be reached before. `enrollment_profile` returns the
    enrollment profile of a server by its name, None if it has none.
    """

    def __init__(
        self,
        servers: Mapping[str, MdmServer],
        answers: AnswerStore,
        *,
        zone: tzinfo,
        now: Callable[[], datetime],
        erase_pin: Callable[[], str | None] = lambda: None,
        is_current: Callable[[], bool] = lambda: True,
        enrollment_profile: Callable[[str], bytes | None] = lambda _: None,
    ) -> None:
        self._servers = servers
        self._answers = answers
        self._zone = zone
        self._now = now
        self._erase_pin = erase_pin
        self._is_current = is_current
        self._enrollment_profile = enrollment_profile

    def mac_for(self, _: Job) -> Mac:
        """Return the Mac of a job."""
        return self

    def look(self, job: Job) -> Observation:
        """Return an observation of the job's Mac.

        Raises UnreachableError while past events are being read, if a server that must be asked
        does not respond, and while a query whose answer the job needs has none.
        """
        enrollment = self.enrollment(job.udid)
        if isinstance(enrollment, Obstacle):
            return Observation(obstacle=enrollment)
        return self._observe(enrollment, job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        """Queue the order of this step once.

        Raises UnreachableError if the server does not respond; the order may be queued then.
        """
        enrollment = self.enrollment(job.udid)
        if isinstance(enrollment, Obstacle):
            return Ack.refused(enrollment.error_code, enrollment.detail)
        order = order_marker(job.job_id, attempt, step)
        try:
            self._give(enrollment, job, order)
        except ServerRefusedError as error:
            refusal = _refusal(error)
            return Ack.refused(refusal.error_code, refusal.detail)
        except (UnsupportedCommandError, UndeclarableError) as error:
            return Ack.refused(ErrorCode.UNSUPPORTED, str(error))
        except ServerUnavailableError as error:
            raise UnreachableError(str(error)) from error
        return Ack.queued()

    def withdraw_order(self, job: Job, order: str) -> str | None:
        """Withdraw an order of an ended job; return None while something of it is left.

        A declaration is withdrawn from its server, and then the Mac must fetch its declarations
        again; the result is "", also for a server that has none. A queued command cannot be
        withdrawn: None until its answer arrives, then a text with it, or "" if the answer was there
        before the end or cannot arrive any more. Raises UnreachableError if the server does not
        respond.
        """
        enrollment = self.enrollment(job.udid)
        if isinstance(enrollment, Obstacle):
            self._answers.close_job(job.job_id)
            return ""
        if job.method is not Method.DDM:
            return self._late_answer(job, order)
        if not enrollment.server.takes_declarations:
            return ""
        try:
            enrollment.server.withdraw(enrollment.id, set_name(order))
            is_gone = self._has_fetched(enrollment, job, f"{order}/withdraw")
        except (ServerUnavailableError, ServerRefusedError) as error:
            raise UnreachableError(str(error)) from error
        if not is_gone:
            return None
        self._answers.close_job(job.job_id)
        return ""

    def _late_answer(self, job: Job, order: str) -> str | None:
        """Return a text about the answer to a command of an ended job, None while there is none.

        It is "" if the answer was known at the end of the job, if the queue was cleared, or if the
        command is older than LATE_LIMIT.
        """
        now = self._now()
        sent = self._answers.deliveries(order, now)
        was_closed = any(command.closed for command, _ in sent)
        self._answers.close_job(job.job_id)
        answered = next((state for _, state in sent if state.has_answer), None)
        if answered is not None:
            text = f"answered after the end: {answered.detail or ACKNOWLEDGED}"
            return text if was_closed else ""
        is_old = all(command.sent_at < now - LATE_LIMIT for command, _ in sent)
        return None if any(state.may_arrive for _, state in sent) and not is_old else ""

    # --- the Mac at its server ---

    def enrollment(self, udid: str) -> Enrollment | Obstacle:
        """Return the Mac's enrollment; the obstacle if its server is unknown.

        Raises UnreachableError while past events are being read.
        """
        if not self._is_current():
            raise UnreachableError("the answers of the Macs are not read yet")
        facts = self._answers.facts(udid)
        enrollment_id = facts.text(Name.ENROLLMENT_ID)
        if enrollment_id is None:
            return Obstacle(ErrorCode.NOT_ENROLLED, "no MDM server has reported this Mac")
        name = facts.text(Name.SERVER)
        if len(self._servers) == 1 and name is None:
            (server,) = self._servers.values()
        elif name is not None and name in self._servers:
            server = self._servers[name]
        else:
            detail = f"its enrollment names the server {name or 'nowhere'}, not one of this site"
            return Obstacle(ErrorCode.NO_MDM_SERVER, detail)
        return Enrollment(server, enrollment_id, facts)

    def has_open(self, udid: str, request_type: RequestType) -> bool:
        """Return True if a command of this type waits for the Mac, of any order."""
        return any(
            sent.request_type is request_type and state.is_open
            for sent, state in self._answers.deliveries_to(udid, self._now())
        )

    # --- looking ---

    def _observe(self, enrollment: Enrollment, job: Job) -> Observation:
        facts, now = enrollment.facts, self._now()
        order = order_marker(job.job_id, 1, STEPS[job.method])
        sent = self._deliveries(job, order)
        view, obstacle = self._view(enrollment, job, is_sent=bool(sent))
        if not sent and obstacle is None:
            obstacle = self._obstacle(enrollment, job, order)
        if job.method is Method.MDM_COMMAND and any(one.has_answer for _, one in sent):
            self._ask_version(enrollment, job, order)
        marks, pending, lost, not_delivered = delivered(order, sent, view, now)
        system_at = facts.version_since
        enrolled_at = facts.at(Name.ENROLLED)
        if erases(job):
            system_at, marks, lost = self._erased(facts, order, sent, marks, lost)
        if job.method is Method.INSTALL_PROFILE and sent:
            enrolled_at = _enrolled_since(facts, sent[0][0].sent_at, is_answered=bool(marks))
            # The new enrollment clears the queue: that is no loss.
            marks, lost = marks | lost, frozenset()
            self._ask_security(enrollment, job, order, enrolled_at)
        recent = now - FACT_MAX_AGE
        return Observation(
            os_version=facts.os_version,
            build=facts.build,
            boot_at=system_at,
            installed_at=system_at,
            apple_silicon=facts.flag(Name.APPLE_SILICON),
            free_disk_gb=facts.number(Name.FREE_DISK_GB, recent),
            battery_percent=facts.number(Name.BATTERY_PERCENT, recent),
            enrolled=facts.is_enrolled,
            user_approved=facts.flag(Name.USER_APPROVED),
            bootstrap_token=facts.flag(Name.BOOTSTRAP_TOKEN),
            enrolled_at=enrolled_at,
            marks=marks,
            pending=pending,
            lost=lost,
            not_delivered=not_delivered,
            # Fetched after the expiry, it would restart the Mac outside of its window.
            is_revocable=job.method is Method.DDM,
            # However old: a query of the inventory shows when Setup Assistant has ended.
            busy=facts.flag(Name.AWAITING_CONFIGURATION) is True
            or (not sent and self._is_full(enrollment.server)),
            obstacle=obstacle,
            progress=progress(set_name(order), sent, view, facts, recent)
            if job.action in INSTALLATIONS
            else answer_progress(sent),
            serial=facts.text(Name.SERIAL),
        )

    def _deliveries(self, job: Job, order: str) -> Deliveries:
        """Return the commands of an order with their states; also if another agent sent it."""
        now = self._now()
        found = self._answers.deliveries(order, now)
        if not found and job.method in _COMMANDS:
            kind = _COMMANDS[job.method]
            found = self._answers.unrecorded_delivery(order, kind, job.udid, now)
        return found

    def _view(
        self, enrollment: Enrollment, job: Job, *, is_sent: bool
    ) -> tuple[ServerView, Obstacle | None]:
        """Return the declarations and the status report of the Mac, for a declared update.

        The obstacle is that the server cannot be used for it. After the order was sent there is
        none: UnreachableError is raised instead.
        """
        if job.method is not Method.DDM:
            return ServerView(), None
        if not enrollment.server.takes_declarations:
            detail = f"{enrollment.server.name} has no server of declarations"
            return ServerView(), Obstacle(ErrorCode.UNSUPPORTED, detail)
        try:
            return enrollment.server.observe(enrollment.id), None
        except ServerUnavailableError as error:
            raise UnreachableError(str(error)) from error
        except ServerRefusedError as error:
            if is_sent:
                raise UnreachableError(str(error)) from error
            return ServerView(), _refusal(error)

    def _is_full(self, server: MdmServer) -> bool:
        """Return True if the server's queues have as many commands of ours as they may have."""
        return self._answers.open_commands(server.name) >= server.limits.max_open_commands

    def _obstacle(self, enrollment: Enrollment, job: Job, order: str) -> Obstacle | None:
        """Return the reason for which the first order cannot be given, None without one.

        Raises UnreachableError until the Mac has answered the query about it.
        """
        if erases(job):
            return self._erase_obstacle(enrollment, job, order)
        version = enrollment.facts.os_version
        if version is not None and not exists_on(job.method, version):
            return Obstacle(ErrorCode.UNSUPPORTED, f"{job.method} is not for macOS {version}")
        server = enrollment.server.name
        if job.method is Method.INSTALL_PROFILE and self._enrollment_profile(server) is None:
            detail = f"the configuration of {server} has no readable enrollment_profile"
            return Obstacle(ErrorCode.UNSUPPORTED, detail)
        return None

    def _erase_obstacle(self, enrollment: Enrollment, job: Job, order: str) -> Obstacle | None:
        """Return the reason for which the Mac cannot or must not be erased now, None without one.

        Raises UnreachableError until the Mac has answered the query about it, with the serial
        number that is then compared with the job's.
        """
        for sent, state in self._answers.deliveries_to(job.udid, self._now()):
            if sent.erases and sent.order != order and state.may_arrive:
                detail = f"the erase of {sent.job_id} may still be delivered"
                return Obstacle(ErrorCode.ERASE_OUTSTANDING, detail)
        asked_at = self._answer_time(enrollment, job, f"{order}/information")
        facts = enrollment.facts
        # The answer and the serial number in it are two events, which can come on two topics.
        if facts.value(Name.SERIAL, asked_at - _DATE_STEP) is None:
            raise UnreachableError("the Mac's answer with its serial number is not read yet")
        version, preflight = facts.os_version, facts.text(Name.ERASE_PREFLIGHT)
        if version is None or not exists_on(Method.ERASE_DEVICE, version):
            detail = f"macOS {version or 'of an unknown version'} can only obliterate"
            return Obstacle(ErrorCode.ERASE_IMPOSSIBLE, detail)
        if version >= _PREFLIGHT_FROM and preflight != _PREFLIGHT_PASSED:
            return Obstacle(
                ErrorCode.ERASE_IMPOSSIBLE, f"its own check: {preflight or 'no result'}"
            )
        if facts.flag(Name.APPLE_SILICON) and facts.flag(Name.BOOTSTRAP_TOKEN) is False:
            return Obstacle(ErrorCode.NO_BOOTSTRAP_TOKEN, "no bootstrap token escrowed")
        if facts.flag(Name.PIN_REQUIRED, asked_at - _DATE_STEP) and self._erase_pin() is None:
            return Obstacle(ErrorCode.NO_ERASE_PIN, "the Mac requires a PIN, and the site has none")
        return None

    def _answer_time(self, enrollment: Enrollment, job: Job, query: str) -> datetime:
        """Return the time of the answer to DeviceInformation; send it if there is no recent one.

        Raises UnreachableError until the Mac has answered.
        """
        now = self._now()
        asked = self._answers.deliveries(query, now)
        if asked:
            state = asked[-1][1]
            if state.state is State.DONE and state.at > now - QUERY_MAX_AGE:
                return state.at
            if state.is_open:
                raise UnreachableError("the Mac has not answered DeviceInformation yet")
        self._query(enrollment, job, query, device_information)
        raise UnreachableError("DeviceInformation was sent to the Mac")

    def _ask_version(self, enrollment: Enrollment, job: Job, order: str) -> None:
        """Ask for the version unless a recent report or an open query has it."""
        now, at = self._now(), enrollment.facts.at(Name.OS_VERSION)
        is_recent = at is not None and at > now - QUERY_MAX_AGE
        if not is_recent and not self.has_open(job.udid, RequestType.DEVICE_INFORMATION):
            self._query(enrollment, job, f"{order}/information", device_information)

    def _ask_security(
        self, enrollment: Enrollment, job: Job, order: str, enrolled_at: datetime | None
    ) -> None:
        """Ask for the user approval of the enrollment that followed the order, if it is unknown.

        Before that enrollment nothing is sent: the Mac may never get to it.
        """
        if enrolled_at is None or enrollment.facts.flag(Name.USER_APPROVED) is not None:
            return
        if not self.has_open(job.udid, RequestType.SECURITY_INFO):
            self._query(enrollment, job, f"{order}/security", security_info)

    def _query(
        self,
        enrollment: Enrollment,
        job: Job,
        query: str,
        make: Callable[[str, int], Command],
    ) -> None:
        """Send the next command of a query. Raises UnreachableError if that fails.

        It has an obstacle if the server refuses the query: it would refuse the order too.
        """
        number = len(self._answers.deliveries(query, self._now()))
        try:
            self.send(enrollment, job.udid, query, make(query, number), number)
        except ServerUnavailableError as error:
            raise UnreachableError(str(error)) from error
        except ServerRefusedError as error:
            raise UnreachableError(str(error), _refusal(error)) from error

    def _erased(
        self,
        facts: MacFacts,
        order: str,
        sent: Deliveries,
        marks: frozenset[str],
        lost: frozenset[str],
    ) -> tuple[datetime, frozenset[str], frozenset[str]]:
        """Return the time of the last erase of the Mac, and the marked and the lost orders.

        Before the order it is the begin of the present enrollment. After it, only an enrollment
        that follows an acknowledged order or passes Setup Assistant counts as an erase.
        """
        authenticated_at = facts.authenticated_at or _NEVER
        if not sent or authenticated_at <= sent[-1][0].sent_at:
            return authenticated_at, marks, lost
        setup_at = facts.at(Name.IN_SETUP_ASSISTANT)
        in_setup = setup_at is not None and setup_at >= authenticated_at
        if in_setup or sent[-1][1].state is State.DONE:
            return authenticated_at, marks | {order}, lost - {order}
        return _NEVER, marks, lost

    # --- acting ---

    def _give(self, enrollment: Enrollment, job: Job, order: str) -> None:
        """Queue the order; raises the errors of the server, of commands and of declarations."""
        match job.method:
            case Method.DDM:
                self._declare(enrollment, job, order)
            case Method.MDM_COMMAND if job.target is not None:
                version = enrollment.facts.os_version
                command = schedule_os_update(order, job.target.version, version)
                self.send(enrollment, job.udid, order, command, 0)
            case Method.ERASE_DEVICE:
                is_required = enrollment.facts.flag(Name.PIN_REQUIRED)
                command = erase_device(order, self._erase_pin() if is_required else None)
                self.send(enrollment, job.udid, order, command, 0)
            case Method.INSTALL_PROFILE:
                profile = self._enrollment_profile(enrollment.server.name)
                if profile is None:
                    raise UnsupportedCommandError("the server has no enrollment profile")
                self.send(enrollment, job.udid, order, install_profile(order, profile), 0)
            case Method.RESTART_DEVICE:
                # After the deadline no window is waited for: its user may be at work.
                is_late = job.deadline_at is not None and job.issued_at >= job.deadline_at
                command = restart_device(order, asks_user=is_late)
                self.send(enrollment, job.udid, order, command, 0)
            case _:
                raise UnsupportedCommandError(f"{job.method} is no method of an MDM server")

    def _declare(self, enrollment: Enrollment, job: Job, order: str) -> None:
        """Replace our declarations of this Mac by those of the order, and make the Mac fetch them.

        An earlier declaration of ours would still be enforced beside this one.
        """
        if job.target is None:
            raise UndeclarableError("an update without a target")
        at = job.enforce_at or job.deadline_at or job.expires_at
        declared = enforcement(order, job.target, at, self._zone)
        server = enrollment.server
        for name in sorted(server.observe(enrollment.id).sets - {declared.name}):
            server.withdraw(enrollment.id, name)
        server.declare(enrollment.id, declared)
        self._notify(enrollment, job, order)

    def _notify(self, enrollment: Enrollment, job: Job, order: str) -> None:
        """Make the Mac fetch its declarations, unless a command for it is in the queue."""
        sent = self._answers.deliveries(order, self._now())
        if not sent or not sent[-1][1].is_open:
            command = declarative_management(order, len(sent))
            self.send(enrollment, job.udid, order, command, len(sent))

    def _has_fetched(self, enrollment: Enrollment, job: Job, order: str) -> bool:
        """Return True if the Mac fetched its declarations since the withdrawal, or has none.

        It has none after the end of its enrollment, and of an enrollment that began later it never
        had the withdrawn one. A Mac that refuses to fetch cannot be helped from here.
        """
        if enrollment.facts.is_enrolled is False:
            return True
        if self.has_open(job.udid, RequestType.INSTALL_PROFILE):
            return False  # nothing is queued behind it: the Mac may never get to it
        sent = self._answers.deliveries(order, self._now())
        if sent and sent[-1][1].state in (State.DONE, State.FAILED, State.CLEARED):
            return True
        self._notify(enrollment, job, order)
        return False

    def send(
        self,
        enrollment: Enrollment,
        udid: str,
        order: str,
        command: Command,
        number: int,
        *,
        has_job: bool = True,
    ) -> None:
        """Queue a command and store it. After a crash between the two, a repeat is the same.

        Without `has_job` it is a query of the inventory. Raises the errors of the server.
        A command that is not safe to repeat is stored before: if the server does not respond, it
        may be delivered, and must not be forgotten.
        """
        sent = SentCommand(
            uuid=command.uuid,
            order=order,
            number=number,
            udid=udid,
            server=enrollment.server.name,
            request_type=command.request_type,
            sent_at=self._now(),
            closed=not has_job,
            confirmed=False,
        )
        is_new = not self._answers.deliveries(order, self._now())
        if not sent.is_safe and is_new:
            self._answers.record(sent)
        try:
            enqueued = enrollment.server.enqueue(enrollment.id, command)
        except ServerRefusedError:
            if is_new:
                self._answers.forget(command.uuid)
            raise
        self._answers.record(
            replace(
                sent,
                sent_at=(enqueued.at or self._now()) + _DATE_STEP,
                push_error=enqueued.push_error,
                confirmed=True,
            )
        )


def _refusal(error: ServerRefusedError) -> Obstacle:
    """Return the obstacle that a refusal of the server is."""
    is_login = isinstance(error, LoginRefusedError)
    code = ErrorCode.MDM_LOGIN_REFUSED if is_login else ErrorCode.MDM_SERVER_REFUSED
    return Obstacle(code, str(error))


def _enrolled_since(facts: MacFacts, sent_at: datetime, *, is_answered: bool) -> datetime | None:
    """Return the time of a complete enrollment that followed the profile, None without one.

    A first token update completes an enrollment. If the Mac replaced the profile in place, it sends
    a token update only; that counts after the answer to the command, else it can be a refresh.
    """
    times = [facts.at(Name.ENROLLED)]
    if is_answered:
        times.append(facts.at(Name.TOKEN_UPDATED))
    return max((at for at in times if at is not None and at > sent_at), default=None)
