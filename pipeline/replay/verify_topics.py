"""Verification of a fleet's decisions, from the records of its topics.

Topics have no common order, each worker counts the Macs of its own partitions, and old records are
deleted. So the fold of `pipeline.replay.verify` cannot be repeated; each record is checked instead.

| check | passes if |
| --- | --- |
| `complete` | entries can be read and agree with their columns |
| `from_record` | the recorded inputs of a decision give that decision again |
| `from_log` | each recorded field of the Mac is one of its reports, each recorded job was issued |
| `ordered` | each issued job is the one that its decision ordered; each ordered one was issued |

Fields and jobs from before the log, or from its first day, are not compared with it: their records
can have left their topics. The log begins at its start: of the entries that retention keeps from
before it, only `complete` and `from_record` are checked. A job of the last minutes may lack its
decision or its order, because the record can still be on its way.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from pipeline.decide.job import build_job
from pipeline.decide.recomputation import situation_of
from pipeline.replay.differences import ABSENT, FieldDifference
from pipeline.replay.explain import keys_of
from pipeline.replay.log import (
    LogContents,
    LogEntry,
    LogReader,
    UnreadableLog,
    read_record,
)
from pipeline.replay.verify import (
    PROGRESS_EVERY,
    Check,
    LogDifference,
    VerificationReport,
    body_alteration,
    column_differences,
    issued_differences,
    job_wire,
    recomputed_difference,
    unreadable,
)
from pipeline.state.device import to_us
from pipeline.state.fleet import Fleet
from schemas.decisions import DecisionRecord, Verdict
from schemas.envelope import Event, InvalidEvent, JobIssuedEvent, decode, is_device_event
from schemas.ids import SERIAL_SUBJECT_PREFIX
from schemas.jobs import Job

_FIRST_DAY: Final = timedelta(days=1)
_LAST_MINUTES: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class TopicsScope:
    """The decisions to check: with `since` <= time < `until`, of one Mac, of one site."""

    since: datetime | None = None
    until: datetime | None = None
    udid: str | None = None
    site: str | None = None

    def has(self, at: datetime, udid: str, site: str | None) -> bool:
        """Return True for a decision, or a job, of this time, Mac and site."""
        return (
            (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
            and self.udid in (None, udid)
            and self.site in (None, site)
        )


def verify_topics(
    log: LogReader,
    scope: TopicsScope,
    *,
    grace: timedelta = _FIRST_DAY,
    end_grace: timedelta = _LAST_MINUTES,
    progress: Callable[[int], None] = lambda _: None,
    fast_paths: bool = True,
) -> VerificationReport:
    """Return the numbers of entries checked up to the first difference, and that difference.

    `log` has the records of the topics, as `pipeline.query.view` stores them. Only what is later
    than the first entry after its start by `grace` must have all of its causes in the log, and only
    what is earlier than its last time by `end_grace` all of its effects. `progress` is called with
    the `seq` reached.
    """
    run = _Verification(log, scope, grace, end_grace, fast_paths=fast_paths)
    difference = next(run.differences(progress), None)
    return VerificationReport(run.events, run.decisions, run.jobs, difference)


@dataclass
class _Verification:
    log: LogReader
    scope: TopicsScope
    grace: timedelta
    end_grace: timedelta
    fast_paths: bool
    events: int = 0
    decisions: int = 0
    jobs: int = 0
    # By job id: ordered jobs that were not issued yet, and the reverse.
    ordered: dict[str, tuple[LogEntry, Job]] = field(default_factory=dict)
    issued: dict[str, tuple[LogEntry, JobIssuedEvent]] = field(default_factory=dict)
    # A decision or an order can be repeated after a crash.
    matched: dict[str, Job] = field(default_factory=dict)
    decided: dict[str, None] = field(default_factory=dict)
    last_at: datetime | None = None

    def __post_init__(self) -> None:
        self.contents = LogContents(self.log)
        self.start_seq = self.log.start_seq()
        first = next(iter(self.log.entries(after=self.start_seq)), None)
        self.complete_from = None if first is None else first.at + self.grace

    def differences(self, progress: Callable[[int], None]) -> Iterator[LogDifference]:
        """Yield the differences: of single entries, then of jobs, then of each Mac."""
        for entry in self.log.entries():
            self.last_at = entry.at if self.last_at is None else max(self.last_at, entry.at)
            yield from self._event(entry) if entry.kind == "event" else self._decision(entry)
            if entry.seq % PROGRESS_EVERY == 0:
                progress(entry.seq)
        for entry, job in self.ordered.values():
            if self._is_settled(entry):
                found = FieldDifference("job", ABSENT, job_wire(job))
                yield _difference(entry, Check.ORDERED, found, job)
        for entry, event in self.issued.values():
            job = event.data.job
            is_checked = self._is_recorded(entry) and self._is_settled(entry)
            if is_checked and self.scope.has(entry.at, job.udid, job.site):
                found = FieldDifference("job", job_wire(job), ABSENT)
                yield _difference(entry, Check.ORDERED, found, job)
        for udid in self.decided:
            yield from self._mac(udid)

    def _is_kept(self, entry: LogEntry) -> bool:
        """Return True for an entry from before the log's start, without those around it."""
        return entry.seq <= self.start_seq

    def _is_recorded(self, entry: LogEntry) -> bool:
        """Return True if the log has everything that led to an entry."""
        if self._is_kept(entry) or self.complete_from is None:
            return False
        return entry.at >= self.complete_from

    def _is_settled(self, entry: LogEntry) -> bool:
        """Return True if everything that follows from an entry at once had time to be stored."""
        return self.last_at is not None and entry.at <= self.last_at - self.end_grace

    # --- single entries ---

    def _event(self, entry: LogEntry) -> Iterator[LogDifference]:
        try:
            event = decode(entry.body)
        except InvalidEvent as error:
            yield unreadable(entry, str(error))
            return
        self.events += 1
        for found in column_differences(entry, event):
            yield _difference(entry, Check.COMPLETE, found)
        if isinstance(event, JobIssuedEvent):
            job_id = event.data.job.job_id
            if job_id in self.matched:
                for found in issued_differences(event, self.matched[job_id]):
                    yield _difference(entry, Check.ORDERED, found, event.data.job)
                return
            self.issued[job_id] = entry, event
            yield from self._match(job_id)

    def _decision(self, entry: LogEntry) -> Iterator[LogDifference]:
        try:
            record = read_record(entry)
        except UnreadableLog as error:
            yield unreadable(entry, str(error))
            return
        decision = record.decision
        is_sent = decision.decision is Verdict.SEND and decision.job_id is not None
        if not self.scope.has(entry.at, decision.udid, decision.site):
            if is_sent:  # its job was ordered, outside of the scope
                self.issued.pop(str(decision.job_id), None)
            return
        self.decisions += 1
        self.decided[entry.key] = None
        found = body_alteration(entry, record)
        if found is not None:
            yield _difference(entry, Check.COMPLETE, found, decision)
        found = recomputed_difference(record, self.contents, fast_paths=self.fast_paths)
        if found is not None:
            yield _difference(entry, Check.FROM_RECORD, found, decision)
        elif is_sent and not self._is_kept(entry) and decision.job_id not in self.matched:
            job = self._job(record)
            self.ordered[job.job_id] = entry, job
            yield from self._match(job.job_id)

    def _job(self, record: DecisionRecord) -> Job:
        """Return the job that a decision orders; its inputs were read before."""
        policy = self.contents.policy(record.inputs.policy_digest)
        catalogue = self.contents.catalogue(record.inputs.catalog_digest)
        situation = situation_of(record, policy, catalogue)
        return build_job(situation, record.decision, fast_paths=self.fast_paths)

    def _match(self, job_id: str) -> Iterator[LogDifference]:
        """Compare an ordered job with the issued one, once both are there."""
        if job_id in self.ordered and job_id in self.issued:
            _, job = self.ordered.pop(job_id)
            entry, event = self.issued.pop(job_id)
            self.jobs += 1
            self.matched[job_id] = job
            for found in issued_differences(event, job):
                yield _difference(entry, Check.ORDERED, found, job)

    # --- one Mac ---

    def _mac(self, udid: str) -> Iterator[LogDifference]:
        """Yield the differences of the inputs of a Mac's decisions from its reports and jobs."""
        records, reports, jobs = [], list[Event](), set[str]()
        for entry in self.log.entries(key=udid):
            if entry.kind == "decision":
                records.append((entry, read_record(entry)))
            else:
                reports.append(decode(entry.body))
        names = {name for _, record in records for name in keys_of(udid, record)}
        names |= {
            SERIAL_SUBJECT_PREFIX + serial
            for event in reports
            if (serial := getattr(event.data, "serial", None))
        }
        for name in sorted(names - {udid}):
            reports += [decode(one.body) for one in self.log.entries(key=name, kind="event")]
        jobs = {one.data.job.job_id for one in reports if isinstance(one, JobIssuedEvent)}
        known = set(_facts(reports))
        for entry, record in records:
            decision = record.decision
            is_kept = self._is_kept(entry)
            if not is_kept and self.scope.has(entry.at, decision.udid, decision.site):
                for found in self._unknown_inputs(record, known, jobs):
                    yield _difference(entry, Check.FROM_LOG, found, decision)

    def _unknown_inputs(
        self, record: DecisionRecord, known: set[tuple[str, int, str]], jobs: set[str]
    ) -> Iterator[FieldDifference]:
        """Yield each recorded field that no report has, and each job that was not issued."""
        if self.complete_from is None:
            return
        from_us, inputs = to_us(self.complete_from), record.inputs
        for name, (us, value) in inputs.device.get("facts", {}).items():
            if us >= from_us and (name, us, json.dumps(value)) not in known:
                path = f"inputs.device.facts.{name}"
                yield FieldDifference(path, [us, value], "a field of a report")
        for number, job in enumerate(inputs.job_history or ()):
            if job["issued_us"] >= from_us and job["job_id"] not in jobs:
                path = f"inputs.job_history[{number}].job_id"
                yield FieldDifference(path, job["job_id"], "an issued job")


def _facts(reports: Iterable[Event]) -> Iterator[tuple[str, int, str]]:
    """Yield name, time and value (JSON) of each field that these reports give.

    Each report is folded alone, and after the others: a version can follow from a build before it.
    """
    together = Fleet()
    for event in reports:
        if not is_device_event(event):
            continue
        alone = Fleet()
        for fleet in (alone, together):
            for key in fleet.apply(event).udids:
                for name, (us, value) in fleet.merged_device(key).to_wire()["facts"].items():
                    yield name, us, json.dumps(value)


def _difference(
    entry: LogEntry, check: Check, found: FieldDifference, mac: Any = None
) -> LogDifference:
    """Return the difference of an entry; `mac` is a decision or a job with its UDID and serial."""
    udid, serial = (None, None) if mac is None else (mac.udid, mac.serial)
    values = found.path, found.left, found.right
    return LogDifference(entry.seq, entry.at, check, *values, udid, serial)
