"""`drydock run` in this process and in virtual time, with faults, and the person who repairs it.

The run calls the service as its thread does: after an exception it is closed and opened again, and
until it is open inputs are refused. The sender repeats refused inputs. The clock of the service is
the time of the Macs plus `skew`.
"""

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Final

from agents.simulated import SimulatedFleet
from agents.simulated.machine import SimulatedMac
from agents.simulated.wire import Acted, FleetPlan
from agents.site_access import SiteAccess
from pipeline.embedded.service import Options, Service
from pipeline.embedded.status import read_status
from pipeline.embedded.transaction import Committed
from pipeline.gateway.payloads import translate
from pipeline.ingest.redaction import Redactor
from pipeline.reconcile.reconciler import Reconciler
from pipeline.signing_keys import KeyStore
from runtime.trusted_keys import Purpose
from schemas.dead_letters import DeadLetter
from schemas.decisions import Reason
from schemas.envelope import Event, JobIssuedEvent, JobResultedEvent
from schemas.jobs import Job, Method
from schemas.macos import parse_os_version
from schemas.results import ErrorCode, JobResult
from tests import factories
from tests.chaos import world
from tests.chaos.checker import Fault, Findings, Kind, judge
from tests.chaos.evidence import Evidence, MacState, read_journals
from tests.crash_points import Crash, WatchedMac
from tests.factories.sites import APPROVALS_KEY, JOBS_KEY, KEYS
from tests.faults.random.embedded_evidence import (
    ends_of,
    issued_jobs,
    journal_files,
    logged_inputs,
    read_records,
)
from tests.faults.random.sender import Message, Sender
from tests.faults.volumes import file_size_limit

LASTS: Final = timedelta(hours=24)
STEP: Final = timedelta(minutes=10)
# Longer than a job is valid (3 days): an order that got lost is issued again.
SETTLES_WITHIN: Final = timedelta(days=12)
_CALM: Final = timedelta(hours=8)
_PARTS: Final = (*world.PARTS, world.Part(0.03, loaned=True))
_REDACTOR: Final = Redactor(b"0123456789abcdef")


class EmbeddedRun:
    """One service, its Macs and its sender. `faults` are violations that were found on the way."""

    def __init__(self, folder: Path, seed: int, macs: int) -> None:
        self.folder = folder
        self.data_dir = folder / "data-0"
        self.plan: FleetPlan = world.fleet_plan(seed, macs, 1.0, LASTS, _PARTS)
        self.macs = SimulatedFleet(
            self.plan.macs, self.plan.start, seed=seed, releases=self.plan.releases
        )
        self.sender = Sender(Random(seed))
        self.policy = world.policy_text(macs)
        self.now: datetime = self.plan.start
        self.skew = timedelta(0)
        self.service: Service | None = None
        self.refusal: str | None = "not started"
        self.disk_limit: int | None = None
        self.moments_to_crash: int | None = None
        self.is_damaged = False
        self.issued: dict[str, Job] = {}
        self.published: list[Event] = []
        self.faults: list[Fault] = []
        self.forgotten: dict[str, Job] = {}
        self.ended_early: set[str] = set()
        self._issued_at: dict[str, datetime] = {}
        self.journaled: dict[str, bool] = {}
        self.data_dir.mkdir(parents=True)
        for purpose in Purpose:
            KeyStore(self.data_dir / "keys").make(purpose)

    @property
    def clock(self) -> datetime:
        """The time of the service."""
        return self.now + self.skew

    # --- time ---

    def publish(self, versions: tuple[str, ...]) -> None:
        """Send these releases."""
        new = [
            factories.release(version, build=world.BUILDS[version], first_seen_at=self.now)
            for version in versions
        ]
        self.published += new
        self.sender.add(new, self.now)

    def live(self, until: datetime) -> None:
        """Let the Macs, the sender and the service work until this time."""
        while self.now < until:
            self.now = min(self.now + STEP, until)
            self.sender.add(self.macs.advance(self.now), self.now)
            self.serve()

    def serve(self) -> None:
        """Let the service do all that is due now, as far as it can."""
        if self.service is None:
            self.attempt(self._open)
        if self.service is not None:
            self.attempt(self._take_inputs)
        if self.service is not None:
            self.attempt(self._work)
        if self.service is not None:
            self.attempt(self._approve)

    def attempt(self, work: Callable[[], None]) -> None:
        """Call `work`; a crash or a failure closes the service, until it is opened again."""
        limit: AbstractContextManager[None] = nullcontext()
        if self.disk_limit is not None:
            limit = file_size_limit(self.disk_limit)
        try:
            with limit:
                work()
        except Crash:
            self.end("killed")
        except Exception as error:  # noqa: BLE001 - as the thread of the service does
            expected = self.disk_limit is not None or (
                self.is_damaged and "drydock restore" in str(error)
            )
            if not expected:
                self.blame(Kind.UNTRUE, "".join(traceback.format_exception(error)))
            self.end(f"{type(error).__name__}: {error}")

    def end(self, refusal: str) -> None:
        """Close the service; inputs are refused for this reason until it is open again."""
        self.moments_to_crash = None
        self.refusal = refusal
        service, self.service = self.service, None
        if service is not None:
            service.close()

    def blame(self, kind: Kind, what: str) -> None:
        """Record a violation."""
        self.faults.append(Fault(kind, f"{self.now:%d %H:%M} {what}"))

    def _open(self) -> None:
        service = Service.open(
            self.data_dir,
            now=self.clock,
            signer=JOBS_KEY,
            trust=KEYS,
            policy_text=self.policy,
            access=lambda _: SiteAccess.simulated(self._mac_for),
            on_commit=self._note_jobs,
            options=Options(on_durable_write=self._pass_moment),
        )
        try:
            service.store.check_writable()
        except BaseException:
            service.close()
            raise
        self.service, self.refusal = service, None

    def _note_jobs(self, committed: Committed, _: Reconciler) -> None:
        for event in committed.events:
            if isinstance(event, JobIssuedEvent):
                self.issued[event.data.job.job_id] = event.data.job
                self._issued_at[event.data.job.job_id] = self.now
            elif isinstance(event, JobResultedEvent):
                self._note_early_end(event.data)

    def _note_early_end(self, result: JobResult) -> None:
        """Keep a request to a user that ended by a wrong clock, before its time had passed."""
        job = self.issued.get(result.job_id)
        if job is None or job.report_by is None or result.error_code is not ErrorCode.NO_REPORT:
            return
        lasted = self.now - self._issued_at[job.job_id]
        if job.method is Method.PROFILES_RENEW and lasted < job.report_by - job.issued_at:
            self.ended_early.add(job.job_id)

    def _mac_for(self, job: Job) -> WatchedMac:
        return WatchedMac(self.macs.mac_for(job), self._pass_moment)

    def _pass_moment(self, moment: str) -> None:
        if self.moments_to_crash is not None:
            self.moments_to_crash -= 1
            if self.moments_to_crash < 0:
                raise Crash(moment)

    def _take_inputs(self) -> None:
        assert self.service is not None
        while batch := self.sender.due(self.now):
            events = [one.content for one in batch if not isinstance(one.content, bytes)]
            letters = [letter for one in batch for letter in self._letters(one)]
            self.service.accept(events, letters, self.clock)
            self.sender.confirm(batch)

    def _letters(self, message: Message) -> tuple[DeadLetter, ...]:
        if not isinstance(message.content, bytes):
            return ()
        made = translate("nanomdm", message.content, "/webhooks/nanomdm", self.clock, _REDACTOR)
        return tuple(made.dead_letters)

    def _work(self) -> None:
        assert self.service is not None
        wake = self.service.next_wake(self.clock)
        while wake is not None and wake <= self.clock:
            self.service.tick(self.clock)
            wake = self.service.next_wake(self.clock)

    def _approve(self) -> None:
        """Approve each erase that waits, after a look at the Mac: not if it was erased already."""
        assert self.service is not None
        erased = {udid for _, udid, _, _, step in self.macs.acted if step == "erase"}
        for udid, last in [*self.service.reconciler.last_decisions.items()]:
            if last.reason is Reason.AWAITING_APPROVAL and udid not in erased:
                self.service.approve(
                    udid,
                    by="someone",
                    now=self.clock,
                    lasts=timedelta(days=2),
                    key=APPROVALS_KEY,
                )

    # --- the end ---

    def settle(self) -> None:
        """Live without faults until every Mac is done, then for some hours more."""
        ends_at = self.now + SETTLES_WITHIN
        while self.now < ends_at and not self.is_done:
            self.live(self.now + timedelta(hours=2))
        self.live(self.now + _CALM)
        while self.sender.next_at is not None:
            self.now = max(self.now, self.sender.next_at)
            self.serve()
        self.live(self.now)
        self.serve()

    @property
    def is_done(self) -> bool:
        """True if the service runs, no job is open and every enrolled Mac is up to date."""
        if self.service is None or any(self.service.reconciler.open_jobs.values()):
            return False
        return not any(self._is_old(mac) for mac in self.macs.macs.values())

    @staticmethod
    def _is_old(mac: SimulatedMac) -> bool:
        newest = world.NEWEST.get(mac.os_version.line)
        return mac.enrolled and newest is not None and mac.os_version < parse_os_version(newest)

    def judge(self) -> Findings:
        """Close the service and return the findings of the checker, with those of the run."""
        problems: list[str] = [] if self.refusal is None else [self.refusal]
        if self.service is not None:
            problems += read_status(self.service.store, self.clock).problems
        self.end("over")
        findings = judge(self.evidence())
        faults = [*self.faults, *findings.faults]
        if findings.count(Kind.MISSING) and not problems:
            faults.append(Fault(Kind.UNTRUE, "no probe shows that something is missing"))
        return replace(findings, faults=tuple(faults))

    def evidence(self) -> Evidence:
        """Return the evidence of the data directory, which no service has open."""
        records = read_records(self.data_dir)
        journals = read_journals(journal_files(self.data_dir))
        return Evidence(
            inputs=self.sender.accepted,
            records=dict(records),
            committed=ends_of(records),
            acted=[
                Acted(at=at, udid=udid, job_id=job_id, attempt=attempt, step=step)
                for at, udid, job_id, attempt, step in self.macs.acted
            ],
            macs=[
                MacState(udid, str(mac.os_version), mac.enrolled)
                for udid, mac in self.macs.macs.items()
            ],
            journals={
                job_id: journals.get(job_id, False) or self.journaled.get(job_id, False)
                for job_id in journals.keys() | self.journaled.keys()
            },
            trusted=KEYS.jobs,
            newest=world.NEWEST,
            may_repeat={
                spec.udid: spec.faults.failing_installs + spec.faults.failing_downloads
                for spec in self.plan.macs
            },
            forgotten=self.forgotten,
            ended_early=self.ended_early,
        )

    # --- losses ---

    def remember(self) -> None:
        """Keep the jobs that are known now: a fault will delete records of them.

        The inputs that were accepted so far must still be there. Files that are damaged already
        are not read: an earlier call did, and jobs issued since are known from their commits.
        """
        if self.is_damaged:
            self.forgotten |= self.issued
            return
        for one in self.sender.accepted - logged_inputs(self.data_dir):
            self.blame(Kind.MISSING, f"{one.kind} {one.name}: accepted and then lost")
        self.issued |= issued_jobs(read_records(self.data_dir))
        self.journaled |= read_journals(journal_files(self.data_dir))
        self.forgotten |= self.issued

    def forget_inputs(self) -> None:
        """Expect no longer the inputs that a fault has deleted; feeds publish releases again."""
        self.forgotten |= self.issued
        self.sender.accepted &= logged_inputs(self.data_dir)
        self.sender.add(self.published, self.now)
