"""A simulated Mac that speaks Apple's MDM protocol to real servers.

The physics - downloads, installations, reboots, erasure, automated enrollment - are those of
`agents.simulated`. This module translates: commands and declarations to orders of the simulated
Mac, and the simulated Mac's events to check-ins and status reports.
"""

import uuid
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, Protocol

import httpx

from agents.simulated.machine import SimulatedMac
from agents.simulated.spec import MacSpec, SimulatedRelease
from schemas.envelope import (
    AuthenticatedEvent,
    BootstrapTokenEvent,
    CheckedOutEvent,
    DdmStatusEvent,
    DeviceEvent,
    InventoryEvent,
    TokenUpdatedEvent,
)
from schemas.ids import derive_job_id
from schemas.jobs import Action, Job, Method, Target
from schemas.macos import OSVersion, parse_build, parse_os_version
from tests.mdm.client import MdmClient, RefusedError
from tests.mdm.commands import Response, respond
from tests.mdm.declarations import ENFORCEMENT, SUBSCRIPTIONS, Declarations, Declared, StatusItems
from tests.mdm.identity import Identity

_FIRST_ENFORCEMENT: Final = 14
_RETRY: Final = timedelta(minutes=30)
_VALIDITY: Final = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behavior:
    """Deviations of a Mac from one that responds at once and carries everything out.

    What happens to an accepted order is in `MacSpec.faults`. `errors` are responses to commands of
    a type, used up one by one. `zone` is the Mac's own time zone.
    """

    not_now: Mapping[str, int] = field(default_factory=dict)  # how often it declines a type
    errors: Mapping[str, tuple[Response, ...]] = field(default_factory=dict)
    repeats_answers: bool = False  # sends each answer twice, as after a lost HTTP response
    dies_at: datetime | None = None  # then APNs answers 410 for it, and it never connects again
    awaiting_configuration: bool = False  # waits in Setup Assistant
    pin_required: bool = False  # has no Apple silicon and no T2
    eacs_preflight: str = "success"
    answers_enrollment_profile: bool = False
    profiles: tuple[str, ...] = ()  # the identifiers of its configuration profiles
    first_identity_ends_soon: bool = False
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class Received:
    """A command that the Mac got, and the status of its response. `at` is the Mac's time."""

    at: datetime
    uuid: str
    request_type: str
    status: str


@dataclass(frozen=True, slots=True)
class Performed:
    """Something that the Mac began: `erase`, `restart`, or an update to a version."""

    at: datetime
    what: str


class Site(Protocol):
    """The surroundings of a Mac: its clock, Apple's releases, and its servers."""

    url: str
    releases: tuple[SimulatedRelease, ...]
    http: httpx.Client

    def now(self) -> datetime:
        """Return the Macs' time, aware."""
        ...

    def issue(self, name: str, *, ends_soon: bool) -> Identity:
        """Return a new identity from the SCEP server, or from the one whose identities end soon."""
        ...

    def order(self, mac: SimulatedMac, job: Job) -> bool:
        """Give this order to the simulated Mac; return True if it takes the order."""
        ...

    def withdraw(self, mac: SimulatedMac, job: Job) -> None:
        """End this order, unless it installs already."""
        ...

    def wake(self, udid: str, kind: str, at: datetime) -> None:
        """Let the simulated Mac's event of this kind happen at this time."""
        ...

    def connect(self, udid: str, at: datetime) -> None:
        """Let the Mac connect to its MDM server at this time."""
        ...


class ManagedMac:
    """One Mac.

    `received` are the commands that it got, `performed` what it began to do, `enrollments` counts
    its accepted Authenticate messages, `refusals` are the statuses of refused messages.
    `emptied_at` is the last time at which its server had no command left for it.
    """

    def __init__(
        self, spec: MacSpec, physics: SimulatedMac, behavior: Behavior, site: Site
    ) -> None:
        self.spec = spec
        self.physics = physics
        self.behavior = behavior
        self.site = site
        self.received: list[Received] = []
        self.performed: list[Performed] = []
        self.refusals: list[int] = []
        self.enrollments = 0
        self.emptied_at: datetime | None = None
        self.token = b""
        self.push_magic = ""
        self.enforced: tuple[str, Job] | None = None  # the declaration that is carried out
        self.must_fetch_declarations = False
        self.awaiting_configuration = behavior.awaiting_configuration
        self.must_poll = False  # its next connection asks for commands
        self.declarations = Declarations(self._supported_configurations)
        self._client: MdmClient | None = None
        self._events: deque[DeviceEvent] = deque()
        self._not_now = Counter(behavior.not_now)
        self._errors = {name: deque(errors) for name, errors in behavior.errors.items()}
        self._is_erasing = False
        self._leaves_command = False
        self._orders = 0

    # --- called by the fleet ---

    def is_dead_at(self, at: datetime) -> bool:
        """Return True if its enrollment is dead at this time."""
        return self.behavior.dies_at is not None and self.behavior.dies_at <= at

    def notice(self, event: DeviceEvent) -> None:
        """Take an event of the simulated Mac, to be sent at the next connection."""
        self._events.append(event)

    def enroll(self) -> None:
        """Get an identity and enroll: Authenticate, TokenUpdate, SetBootstrapToken."""
        self._authenticate()
        self._update_token()
        if self.physics.bootstrap_token:
            self._escrow()

    def connect(self) -> None:
        """Send what waits, then get commands until no more are offered.

        Raises httpx.TransportError if the server does not respond, RefusedError if it refuses; what
        was not accepted is sent again by the next call.
        """
        while self._events:
            self._send(self._events[0])
            self._events.popleft()
        if self.must_poll and self._client is not None and self.physics.enrolled:
            self.must_poll = False
            try:
                self._synchronize()
                self._poll()
            except (httpx.TransportError, RefusedError):
                self.must_poll = True
                raise

    # --- called by the commands ---

    def update_by_command(self, version: OSVersion) -> bool:
        """Begin an update by ScheduleOSUpdate; return False if the Mac cannot do it."""
        target = self._offered(version, None)
        if target is None:
            return False
        return self._order(Method.MDM_COMMAND, target) is not None

    def erase(self) -> None:
        """Begin to erase the Mac, which does not connect again before it is enrolled again."""
        self._is_erasing = True
        running = Target(version=self.physics.os_version, build=self.physics.build)
        self._order(Method.ERASE_DEVICE, running)

    def restart(self) -> None:
        """Begin to restart."""
        self.site.wake(self.spec.udid, "restart", self.site.now())
        self.performed.append(Performed(self.site.now(), "restart"))

    def enroll_again(self) -> None:
        """Enroll again, as with a new enrollment profile; the command may get no answer."""
        self._leaves_command = not self.behavior.answers_enrollment_profile
        self.site.wake(self.spec.udid, "enrol", self.site.now())

    @property
    def identity(self) -> Identity:
        """The identity of its enrollment, which it must have begun."""
        assert self._client is not None
        return self._client.identity

    @property
    def base_build(self) -> str:
        """The build of the running release without its supplement."""
        running = self.physics.os_version
        if not running.supplement:
            return str(self.physics.build)
        return next(str(one.build) for one in self.site.releases if one.version == running.release)

    # --- commands ---

    def _poll(self) -> None:
        assert self._client is not None
        declined = False
        command = self._client.report("Idle")
        while command is not None:
            response = self._respond(command)
            uuid, name = str(command["CommandUUID"]), str(command["Command"]["RequestType"])
            self.received.append(Received(self.site.now(), uuid, name, response.status))
            if self._leaves_command:
                self._leaves_command = False
                return
            for _ in range(2 if self.behavior.repeats_answers else 1):
                command = self._client.report(response.status, CommandUUID=uuid, **response.fields)
            if self._is_erasing:
                return
            if response.status == "NotNow":
                declined = True
                self.site.connect(self.spec.udid, self.site.now() + _RETRY)
            self._synchronize()
        if not declined:
            self.emptied_at = self.site.now()

    def _respond(self, command: dict[str, Any]) -> Response:
        content = command["Command"]
        name = str(content["RequestType"])
        if self._not_now[name] > 0:
            self._not_now[name] -= 1
            return Response("NotNow", {})
        if self._errors.get(name):
            return self._errors[name].popleft()
        return respond(self, content)

    def _order(
        self, method: Method, target: Target, enforce_at: datetime | None = None
    ) -> Job | None:
        """Give an order to the simulated Mac; return it, or None if the Mac refuses it."""
        running, now = self.physics.os_version, self.site.now()
        action = Action.UPDATE if target.version.major == running.major else Action.UPGRADE
        if method is Method.ERASE_DEVICE:
            action = Action.REINSTALL
        self._orders += 1
        udid = self.spec.udid
        job = Job(
            job_id=derive_job_id(udid, action, target.key, self._orders),
            udid=udid,
            site=self.spec.site,
            action=action,
            method=method,
            intent=target.key,
            target=target,
            generation=self._orders,
            reason="mdm",
            issued_at=now,
            expires_at=now + _VALIDITY,
            enforce_at=enforce_at,
        )
        if not self.site.order(self.physics, job):
            return None
        what = "erase" if method is Method.ERASE_DEVICE else str(target.version)
        self.performed.append(Performed(now, what))
        return job

    def _offered(self, version: OSVersion, build: str | None) -> Target | None:
        """Return the release that a target means for this Mac; None if Apple does not offer it.

        A version without a patch is the newest patch of it; a build chooses a supplement.
        """
        if build is not None:
            wanted = parse_build(build)
            exact = [each for each in self.site.releases if each.build == wanted]
        else:
            exact = [each for each in self.site.releases if each.version == version]
        if build is None and version.patch == 0:
            exact = [
                each
                for each in self.site.releases
                if each.version[:2] == version[:2] and not each.version.supplement
            ]
        newest = max(exact, key=lambda each: each.version, default=None)
        return None if newest is None else Target(version=newest.version, build=newest.build)

    # --- check-ins ---

    def _send(self, event: DeviceEvent) -> None:
        """Send the message for an event of the simulated Mac, if there is one."""
        if self._client is None or (self._is_erasing and not isinstance(event, AuthenticatedEvent)):
            return
        match event:
            case AuthenticatedEvent():
                self._authenticate()
            case TokenUpdatedEvent():
                self._update_token()
                self.must_poll = True
            case BootstrapTokenEvent():
                self._escrow()
            case CheckedOutEvent():
                self._client.check_in("CheckOut")
                self.declarations.forget()
            case DdmStatusEvent():
                self._next_enforcement()
                self._report_status()
            case InventoryEvent():
                # A regular report of the simulated Mac: then it connects without a notification.
                self.must_poll |= event.data.source == "mdm"

    def _authenticate(self) -> None:
        spec, physics = self.spec, self.physics
        ends_soon = self.behavior.first_identity_ends_soon and not self.enrollments
        identity = self.site.issue(spec.udid, ends_soon=ends_soon)
        self._client = MdmClient(self.site.url, spec.udid, identity, self.site.http)
        self._client.check_in(
            "Authenticate",
            SerialNumber=spec.serial,
            OSVersion=str(physics.os_version.release),
            BuildVersion=self.base_build,
            ProductName=spec.model,
            Model=spec.model,
            ModelName="Mac",
            DeviceName=spec.hostname or spec.serial,
        )
        self.enrollments += 1
        self._is_erasing = self._leaves_command = False
        self.enforced = None
        self.declarations.forget()

    def _update_token(self) -> None:
        assert self._client is not None
        self.token, self.push_magic = uuid.uuid4().bytes * 2, str(uuid.uuid4()).upper()
        self._client.check_in(
            "TokenUpdate",
            Token=self.token,
            PushMagic=self.push_magic,
            AwaitingConfiguration=self.awaiting_configuration,
            NotOnConsole=False,
        )

    def _escrow(self) -> None:
        assert self._client is not None
        token = f"the-bootstrap-token-of-{self.spec.udid}".encode()
        self._client.check_in("SetBootstrapToken", BootstrapToken=token)

    # --- declarative management ---

    def _supported_configurations(self) -> set[str]:
        enforces = self.physics.os_version.major >= _FIRST_ENFORCEMENT and self.spec.supervised
        return {SUBSCRIPTIONS} | ({ENFORCEMENT} if enforces else set())

    def _synchronize(self) -> None:
        """Fetch the declarations if a command asked for it, carry them out, and report."""
        if not self.must_fetch_declarations:
            return
        assert self._client is not None
        self.declarations.fetch(self._client)
        self.must_fetch_declarations = False
        self._next_enforcement()
        self._report_status()

    def _next_enforcement(self) -> None:
        """Begin the first declared update that the Mac needs; end the work of a withdrawn one."""
        declared = sorted(self.declarations.active(ENFORCEMENT), key=_sequence)
        present = {_name(each) for each in declared}
        if self.enforced is not None:
            name, enforced = self.enforced
            assert enforced.target is not None
            if name in present and self.physics.os_version < enforced.target.version:
                return
            if name not in present:
                self.site.withdraw(self.physics, enforced)
            self.enforced = None
        for each in declared:
            version = parse_os_version(each.payload["TargetOSVersion"])
            target = self._offered(version, each.payload.get("TargetBuildVersion"))
            running = self.physics.os_version
            if target is None or target.version <= running:
                continue
            if target.version.supplement and target.version.release != running.release:
                continue
            local = datetime.fromisoformat(each.payload["TargetLocalDateTime"])
            at = local.replace(tzinfo=self.behavior.zone).astimezone(UTC)
            job = self._order(Method.DDM, target, at)
            if job is not None:
                self.enforced = (_name(each), job)
            return

    def _report_status(self) -> None:
        if self._client is None or not self.declarations.is_enabled:
            return
        report = self.declarations.report(self._status_items())
        if report is not None:
            self._client.declarative("status", report.body)
            self.declarations.sent(report)

    def _status_items(self) -> StatusItems:
        """Return the present value of each status item that this macOS has."""
        spec, physics, progress = self.spec, self.physics, self.physics.progress
        version, build = physics.os_version, str(physics.build)
        items: dict[str, Any] = {
            "device.identifier.serial-number": spec.serial,
            "device.identifier.udid": spec.udid,
            "device.model.family": "Mac",
            "device.model.identifier": spec.model,
            "device.operating-system.family": "macOS",
            "device.operating-system.version": str(version.release),
            "device.operating-system.build-version": self.base_build,
            "device.operating-system.marketing-name": f"macOS {version}",
            "device.operating-system.supplemental.build-version": build,
            "device.operating-system.supplemental.extra-version": (
                f"({version.supplement})" if version.supplement else ""
            ),
            "management.client-capabilities": {"supported-versions": ["1.0.0"]},
        }
        if version.major < _FIRST_ENFORCEMENT:
            return items
        pending = self.enforced[1].target if self.enforced and physics.pending_version else None
        failure: dict[str, Any] = {"count": 0}
        if progress.error_code is not None and progress.since is not None:
            at = progress.since.isoformat(timespec="seconds").replace("+00:00", "Z")
            failure = {"count": 1, "reason": progress.error_code.value, "timestamp": at}
        reason: dict[str, Any] = {"reason": []}
        if physics.pending_version is not None:
            reason = {"reason": ["mdm"]}
        if self.enforced is not None and physics.pending_version is not None:
            identifier = self.enforced[0].partition(" ")[0]
            reason = {"reason": ["declaration"], "declaration-id": identifier}
        return items | {
            "softwareupdate.device-id": spec.device_id or "",
            "softwareupdate.install-state": progress.state.value,
            "softwareupdate.failure-reason": failure,
            "softwareupdate.install-reason": reason,
            "softwareupdate.pending-version": {
                "os-version": "" if pending is None else str(pending.version.release),
                "build-version": "" if pending is None else str(pending.build or ""),
            },
        }


def _name(declared: Declared) -> str:
    """Return the identifier and the server's token: another token is another declaration."""
    return f"{declared.identifier} {declared.content['ServerToken']}"


def _sequence(declared: Declared) -> tuple[str, OSVersion, bool]:
    """Return the sort key of enforcements: by time, then version, and supplements last."""
    payload = declared.payload
    version = parse_os_version(payload["TargetOSVersion"])
    return payload["TargetLocalDateTime"], version, "TargetBuildVersion" in payload
