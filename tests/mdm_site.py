"""A site whose executor reaches one Mac over MDM, with servers and a clock in this process."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from agents.executor import Executor
from agents.journal import Journal
from agents.mdm.answers import AnswerStore, Finding
from agents.mdm.mac import MdmMacs
from agents.mdm.server import MdmServer
from agents.site_access import SiteAccess
from schemas.events.control import HaltScope
from schemas.jobs import Action, Job, JobSuperseded, Method, Target
from schemas.macos import parse_os_version
from schemas.results import JobResult, Outcome
from tests.crash_points import WatchedMac
from tests.factories.sites import KEYS, SITE, START, a_job, an_erasing_job, signed_job
from tests.fake_mdm import FakeMdm

MAC: Final = "11111111-AAAA-4000-8000-000000000001"
SERIAL: Final = "C02MAC000001"
PIN: Final = "604113"
PROFILE: Final = b"<plist>enrollment profile with a secret-challenge</plist>"
TARGET: Final = Target(version=parse_os_version("26.2.1"))
MINUTE: Final = timedelta(minutes=1)
BEFORE: Final = START - timedelta(days=1)

DDM: Final = a_job(
    method=Method.DDM, udid=MAC, target=TARGET, intent=TARGET.key, enforce_at=START + 60 * MINUTE
)
OLD_TARGET: Final = Target(version=parse_os_version("13.7.8"))
COMMAND: Final = a_job(
    method=Method.MDM_COMMAND, udid=MAC, target=OLD_TARGET, intent=OLD_TARGET.key
)
REENROLL: Final = a_job(
    Action.REENROLL,
    Method.INSTALL_PROFILE,
    udid=MAC,
    target=None,
    intent="identity_expiring@1",
    report_by=START + timedelta(days=3),
)
ERASE: Final = an_erasing_job(
    udid=MAC, serial=SERIAL, target=Target(version=parse_os_version("26.2"))
)


def nothing(_: str) -> None:
    """Ignore a moment."""


@dataclass
class MdmSite:
    """One life of a site's executor; another life gets the same `mdm` and `folder`.

    `moment` is called at each moment at which the process can die. `findings` are those of the
    store.
    """

    mdm: FakeMdm
    folder: Path | None = None
    moment: Callable[[str], None] = nothing
    servers: dict[str, MdmServer] | None = None
    pin: str | None = None
    profile: bytes | None = PROFILE
    now: datetime = START
    system: tuple[str, str] = ("26.2", "25C56")
    findings: list[Finding] = field(default_factory=list)
    results: list[JobResult] = field(default_factory=list)

    def __post_init__(self) -> None:
        name = ":memory:" if self.folder is None else str(self.folder / "journal.sqlite")
        answers = ":memory:" if self.folder is None else str(self.folder / "answers.sqlite")
        self.journal = Journal(name, self.moment)
        self.answers = AnswerStore(answers, self._on_answers_write)
        self.macs = MdmMacs(
            self.servers or {"mdm": self.mdm.server()},
            self.answers,
            zone=UTC,
            now=lambda: self.now,
            erase_pin=lambda: self.pin,
            enrollment_profile=lambda _: self.profile,
        )
        access = SiteAccess(
            lambda job: WatchedMac(self.macs.mac_for(job), self.moment),
            refusal=lambda _: None,
            withdraw_order=self._withdraw,
        )
        self.executor = Executor(SITE, self.journal, KEYS, access)
        self.executor.set_halts(())

    def close(self) -> None:
        """End this life."""
        self.journal.close()
        self.answers.close()

    def _on_answers_write(self, moment: str) -> None:
        # A lost fold of events is found again: it cannot repeat an order.
        if not moment.startswith("answers:"):
            self.moment(moment)

    def _withdraw(self, job: Job, order: str) -> str | None:
        try:
            return self.macs.withdraw_order(job, order)
        finally:
            self.moment("withdrawn:after")

    # --- time ---

    def step(self) -> None:
        """Read the events, then advance the due jobs."""
        self.mdm.now = self.now
        applied = self.answers.add_events(self.mdm.take_events(), self.now)
        self.findings += applied.findings
        self.executor.wake(applied.udids, self.now)
        self.executor.tick(self.now)
        while self.executor.next_wake(self.now) == self.now:
            self.executor.tick(self.now)
        unpublished = self.executor.results()
        self.results += [one.result for one in unpublished]
        self.executor.mark_published(unpublished)

    def run(self, duration: timedelta, every: timedelta = 10 * MINUTE) -> None:
        """Advance the clock by `duration`; the Mac does nothing."""
        until = self.now + duration
        while self.now < until:
            self.now = min(self.now + every, until)
            self.step()

    def start(self, job: Job) -> None:
        """Submit a job and advance it once."""
        self.executor.submit(signed_job(job), self.now)
        self.step()

    def supersede(self, job: Job) -> None:
        """Withdraw a job."""
        self.executor.supersede(
            JobSuperseded(job_id=job.job_id, udid=job.udid, site=SITE), self.now
        )
        self.step()

    def halt(self, *scopes: HaltScope) -> None:
        """Put these halts in force, and no others."""
        self.executor.set_halts(scopes)
        self.step()

    # --- the Mac ---

    def enroll(self) -> None:
        """Enroll the Mac with its system."""
        self.mdm.now = self.now
        version, build = self.system
        self.mdm.enroll(MAC, OSVersion=version, BuildVersion=build, ProductName="Mac14,2")
        self.step()

    def check_in(self, kind: str, **more: Any) -> None:
        """Send a check-in of the Mac."""
        self.mdm.now = self.now
        self.mdm.check_in(MAC, kind, **more)
        self.step()

    def poll(self, **answers: dict[str, Any]) -> list[str]:
        """Let the Mac ask for commands a minute later; return the types that it got.

        It answers each, by its type: with Status and content of `answers`, else it acknowledges.
        """
        self.mdm.now = self.now = self.now + MINUTE
        got = []
        uuid = self.mdm.report(MAC, "Idle")
        while uuid is not None:
            kind = self.mdm.commands[uuid]["RequestType"]
            got.append(kind)
            default = self.information() if kind == "DeviceInformation" else {}
            given = {"Status": "Acknowledged"} | default | answers.get(kind, {})
            uuid = self.mdm.report(MAC, given.pop("Status"), uuid, **given)
        self.step()
        return got

    def information(self, **more: Any) -> dict[str, Any]:
        """Return the answer to DeviceInformation of a Mac that can be erased, without None."""
        found = {
            "OSVersion": self.system[0],
            "BuildVersion": self.system[1],
            "ProductName": "Mac14,2",
            "SerialNumber": SERIAL,
            "IsAppleSilicon": True,
            "EACSPreflight": "success",
            "PINRequiredForEraseDevice": False,
            **more,
        }
        return {"QueryResponses": {name: it for name, it in found.items() if it is not None}}

    def status(
        self,
        state: str | None = None,
        version: str | None = None,
        more: dict[str, Any] | None = None,
    ) -> None:
        """Send a status report of the Mac; `more` are items beside the state."""
        self.mdm.now = self.now
        update = ({} if state is None else {"install-state": state}) | (more or {})
        items: dict[str, Any] = {"softwareupdate": update} if update else {}
        if version is not None:
            items["device"] = {"operating-system": {"version": version}}
        self.mdm.send_status(MAC, {"StatusItems": items})
        self.step()

    # --- what happened ---

    @property
    def outcomes(self) -> list[str]:
        """The results so far, as `outcome` or `outcome/code`."""
        return [
            one.outcome.value + (f"/{one.error_code.value}" if one.error_code else "")
            for one in self.results
        ]

    @property
    def end(self) -> str:
        """The last result, as in `outcomes`."""
        return self.outcomes[-1]

    @property
    def detail(self) -> str:
        """The detail of the last result."""
        return self.results[-1].detail

    def delivered(self, kind: str) -> int:
        """Return how often the Mac got a command of this type."""
        return sum(self.mdm.commands[uuid]["RequestType"] == kind for _, uuid in self.mdm.delivered)

    def queued(self, kind: str) -> int:
        """Return how many commands of this type the server was given."""
        return sum(command["RequestType"] == kind for command in self.mdm.commands.values())

    def ended(self) -> bool:
        """Return True if the job has an end."""
        ends = (Outcome.ACTED, Outcome.FAILED, Outcome.REFUSED, Outcome.SUPERSEDED, Outcome.EXPIRED)
        return bool(self.results) and self.results[-1].outcome in ends


def a_site(folder: Path | None = None, job: Job = DDM, **changes: Any) -> MdmSite:
    """Return a site whose Mac enrolled a day ago, with a system that the job can change."""
    system = ("13.7.7", "22H722") if job is COMMAND else ("26.2", "25C56")
    given: dict[str, Any] = {"mdm": FakeMdm(BEFORE), "now": BEFORE, "system": system} | changes
    site = MdmSite(folder=folder, **given)
    site.enroll()
    site.now = START
    return site


def started(job: Job, site: MdmSite | None = None) -> MdmSite:
    """Return a site whose job has queued its order."""
    site = site or a_site(job=job)
    site.start(job)
    if job is ERASE:
        site.poll()
    return site
