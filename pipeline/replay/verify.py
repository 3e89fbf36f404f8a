"""Verification of a log: every decision computed again, every event folded again.

| check | passes if |
| --- | --- |
| `complete` | entries count without gaps, can be read, and agree with their columns |
| `from_record` | the recorded inputs of a decision give that decision again |
| `from_log` | the events before a decision give its recorded inputs |
| `ordered` | each issued job is the one that its decision ordered |
| `snapshot` | the events up to a snapshot give its state |
| `state` | all events together give the stored state |

A log that was shortened begins with a snapshot: its state is loaded, and the entries after it are
verified.

An altered, lost or moved row is found if a decision, a job or the stored state depends on it.
"""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pipeline.decide.decision import decide
from pipeline.decide.job import build_job
from pipeline.decide.recomputation import recompute
from pipeline.decide.situation import Situation
from pipeline.policy.file import PolicyError, policy_digest
from pipeline.reconcile.reconciler import Reconciler
from pipeline.replay.differences import ABSENT, FieldDifference, first_alteration, first_difference
from pipeline.replay.log import (
    UNREADABLE,
    LogContents,
    LogEntry,
    LogReader,
    StateReader,
    UnreadableLog,
    read_record,
    read_start,
)
from pipeline.replay.stored_state import stored_state_difference
from pipeline.state.fleet_snapshot import encode_fleet, snapshot_digest
from schemas.decisions import Decision, DecisionInputs, DecisionRecord, Verdict, encode_record
from schemas.envelope import (
    Event,
    InvalidEvent,
    JobIssuedEvent,
    PolicyChangedEvent,
    decode,
)
from schemas.ids import logged_source
from schemas.jobs import Job

PROGRESS_EVERY: Final = 1000


class Check(StrEnum):
    """The check that failed."""

    COMPLETE = "complete"  # every entry is present and can be read
    FROM_RECORD = "from_record"  # a record's inputs give its decision
    FROM_LOG = "from_log"  # the events before a record give its inputs
    ORDERED = "ordered"  # the issued job is the one that the decision ordered
    SNAPSHOT = "snapshot"  # the events up to a snapshot give its state
    STATE = "state"  # all events together give the stored state


@dataclass(frozen=True, slots=True)
class LogDifference:
    """The first difference between the log and its recomputation.

    `seq` and `at` are those of the entry that differs; for `state`, `seq` is the Mac's last event
    (0 for none) and `at` the end of the log. `recorded` is the log's value of `field`, `expected`
    the computed one. `after_seq` is the last event of that Mac before the entry: the likely place
    of an altered row. `udid`, `serial` and `after_seq` are None where they are not known.
    """

    seq: int
    at: datetime
    check: Check
    field: str
    recorded: Any
    expected: Any
    udid: str | None = None
    serial: str | None = None
    after_seq: int | None = None


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """The numbers of events folded and of decisions and jobs checked, and the first difference."""

    events: int
    decisions: int
    jobs: int
    difference: LogDifference | None


def verify(
    log: LogReader,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    udid: str | None = None,
    state: StateReader | None = None,
    progress: Callable[[int], None] = lambda _: None,
    fast_paths: bool = True,
) -> VerificationReport:
    """Return the numbers of entries checked up to the first difference, and that difference.

    The difference is None if all that was checked agrees. Decisions of one Mac or of all, with
    `since` <= time < `until`, are checked; the fold begins at the start of the log, with the state
    of the snapshot there if the log was shortened. `state`, the stored state at the log's end, is
    compared only without `until`. `progress` is called with the `seq` reached. Raises PolicyError
    for an event with a policy that is not valid, and UnreadableLog if the snapshot at the log's
    start cannot be used.
    """
    run = _Verification(log, since, until, udid, fast_paths=fast_paths)
    report = run.verify_through(log.last_seq(until), progress)
    if report.difference is not None or state is None or until is not None:
        return report
    return replace(report, difference=run.state_difference(state))


@dataclass(slots=True)
class _Counts:
    events: int = 0
    decisions: int = 0
    jobs: int = 0


@dataclass
class _Verification:
    log: LogReader
    since: datetime | None
    until: datetime | None
    udid: str | None
    fast_paths: bool
    counts: _Counts = field(default_factory=_Counts)
    # By UDID, the jobs of `send` decisions that have no JobIssued event yet.
    sent_jobs: dict[str, tuple[LogEntry, Job]] = field(default_factory=dict)
    last_event: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.contents = LogContents(self.log)
        self.reconciler = Reconciler(read_start(self.log), fast_paths=self.fast_paths)
        self.reconciler.recount_jobs()

    def verify_through(self, last_seq: int, progress: Callable[[int], None]) -> VerificationReport:
        """Return the report of all entries up to `last_seq`; it ends at the first difference."""
        difference = next(self._differences(last_seq, progress), None)
        counts = self.counts
        return VerificationReport(counts.events, counts.decisions, counts.jobs, difference)

    def _differences(
        self, last_seq: int, progress: Callable[[int], None]
    ) -> Iterator[LogDifference]:
        """Yield the differences of the entries up to `last_seq`, in the order of the log.

        The stored state is not compared. Jobs that no event issued come last.
        """
        start = self.log.start_seq()
        snapshots = {one.seq: one for one in self.log.snapshots()}
        wanted = start + 1
        for entry in self.log.entries(after=start):
            if entry.seq > last_seq:
                break
            if entry.seq != wanted:
                yield LogDifference(entry.seq, entry.at, Check.COMPLETE, "seq", entry.seq, wanted)
            wanted = entry.seq + 1
            if entry.kind == "event":
                yield from self._event(entry)
            else:
                yield from self._decision(entry)
            if entry.seq in snapshots:
                yield from self._snapshot(entry, snapshots[entry.seq].digest)
            if entry.seq % PROGRESS_EVERY == 0:
                progress(entry.seq)
        for entry, job in self.sent_jobs.values():
            yield _not_issued(entry, job)
        progress(last_seq)

    def _snapshot(self, entry: LogEntry, recorded: str) -> Iterator[LogDifference]:
        """Yield the difference of the folded state's digest from that of the snapshot here."""
        folded = snapshot_digest(encode_fleet(self.reconciler.fleet))
        if folded != recorded:
            yield LogDifference(entry.seq, entry.at, Check.SNAPSHOT, "digest", recorded, folded)

    def state_difference(self, state: StateReader) -> LogDifference | None:
        """Return the first difference of the stored state from the folded events.

        None if there is none, or if the log is empty.
        """
        found = stored_state_difference(state, self.reconciler.fleet)
        at = self.log.last_at()
        if found is None or at is None:
            return None
        udid, difference = found
        seq = self.last_event.get(udid, 0)
        serial = self.reconciler.fleet.merged_device(udid).serial
        return LogDifference(
            seq,
            at,
            Check.STATE,
            difference.path,
            difference.left,
            difference.right,
            udid,
            serial,
            seq or None,
        )

    def _checked(self, entry: LogEntry) -> bool:
        """Return True if the entry's time is in the period to check."""
        return (self.since is None or entry.at >= self.since) and (
            self.until is None or entry.at < self.until
        )

    # --- events ---

    def _event(self, entry: LogEntry) -> Iterator[LogDifference]:
        """Yield the differences of an event's entry, and fold the event if it can be read.

        Raises PolicyError for the event of a policy that is not valid.
        """
        try:
            event = decode(entry.body)
        except InvalidEvent as error:
            yield unreadable(entry, str(error))
            return
        for found in column_differences(entry, event):
            yield LogDifference(
                entry.seq, entry.at, Check.COMPLETE, found.path, found.left, found.right
            )
        if isinstance(event, JobIssuedEvent):
            yield from self._issued(entry, event)
        self.reconciler.fold(event)
        self.counts.events += 1
        self.last_event[entry.key] = entry.seq

    def _issued(self, entry: LogEntry, event: JobIssuedEvent) -> Iterator[LogDifference]:
        """Yield the differences of an issued job from the job that its decision ordered.

        A job without such a decision is a difference only if all Macs are checked and the entry's
        time is in the period.
        """
        job = event.data.job
        sent = self.sent_jobs.pop(job.udid, None)
        if sent is None:
            if self.udid is None and self._checked(entry):
                yield self._job_difference(
                    entry, job, FieldDifference("job", job_wire(job), ABSENT)
                )
            return
        self.counts.jobs += 1
        for found in issued_differences(event, sent[1]):
            yield self._job_difference(entry, job, found)

    def _job_difference(self, entry: LogEntry, job: Job, found: FieldDifference) -> LogDifference:
        return LogDifference(
            entry.seq,
            entry.at,
            Check.ORDERED,
            found.path,
            found.left,
            found.right,
            job.udid,
            job.serial,
            self.last_event.get(job.udid),
        )

    # --- decisions ---

    def _decision(self, entry: LogEntry) -> Iterator[LogDifference]:
        """Yield the differences of a decision's entry; nothing if it is not to be checked."""
        if not self._checked(entry) or self.udid not in (None, entry.key):
            return
        if self.fast_paths:
            repeated = self._repeat(entry)
            if repeated is not None:
                yield from self._keep_sent_job(entry, *repeated)
                return
        try:
            record = read_record(entry)
        except UnreadableLog as error:
            yield unreadable(entry, str(error))
            return
        yield from self._count(record.decision)
        for check, found in self._field_differences(entry, record):
            yield self._difference(entry, record, check, found)

    def _count(self, decision: Decision) -> Iterator[LogDifference]:
        """Count a decision; yield the difference if an earlier one's job was not issued."""
        self.counts.decisions += 1
        earlier = self.sent_jobs.pop(decision.udid, None)
        if earlier is not None:
            yield _not_issued(*earlier)

    def _repeat(self, entry: LogEntry) -> tuple[Decision, Situation] | None:
        """Return the decision at this point of the log if the entry has exactly its record's bytes.

        Equal bytes are equal inputs and an equal decision, so every check passes. None if a byte
        differs, or if policy or catalogue are not in the log's store; the checks report it.
        """
        reconciler = self.reconciler
        try:
            if reconciler.policy is None:
                return None
            situation = reconciler.situation(entry.key, entry.at)
            decision = decide(situation, fast_paths=True)
            record = reconciler.record_of(decision, situation)
            if encode_record(record, fast_paths=True) != entry.body:
                return None
            self.contents.policy(record.inputs.policy_digest)
            self.contents.catalogue(record.inputs.catalog_digest)
        except UNREADABLE:
            return None
        return decision, situation

    def _keep_sent_job(
        self, entry: LogEntry, decision: Decision, situation: Situation
    ) -> Iterator[LogDifference]:
        """Count a decision that passed its checks, and keep the job that it sends."""
        yield from self._count(decision)
        if decision.decision is Verdict.SEND:
            job = build_job(situation, decision, fast_paths=self.fast_paths)
            self.sent_jobs[decision.udid] = (entry, job)

    def _field_differences(
        self, entry: LogEntry, record: DecisionRecord
    ) -> Iterator[tuple[Check, FieldDifference]]:
        """Yield each difference of a record, with the check that failed.

        A decision to send without a difference from the log is kept in `sent_jobs` with its job.
        """
        found = body_alteration(entry, record)
        if found is not None:
            yield Check.COMPLETE, found
        if entry.key != record.decision.udid:
            yield Check.COMPLETE, FieldDifference("key", entry.key, record.decision.udid)
        if record.inputs.now != entry.at:
            yield Check.COMPLETE, FieldDifference("inputs.now", record.inputs.now, entry.at)
        found = recomputed_difference(record, self.contents, fast_paths=self.fast_paths)
        if found is not None:
            yield Check.FROM_RECORD, found
        try:
            policy = self.reconciler.policy
        except PolicyError as error:
            yield (
                Check.FROM_LOG,
                FieldDifference("inputs.policy_digest", record.inputs.policy_digest, error),
            )
            return
        if policy is None:
            yield (
                Check.FROM_LOG,
                FieldDifference("inputs.policy_digest", record.inputs.policy_digest, None),
            )
            return
        situation = self.reconciler.situation(record.decision.udid, record.inputs.now)
        found = self._from_log(record, situation)
        if found is not None:
            yield Check.FROM_LOG, found
        elif record.decision.decision is Verdict.SEND:
            job = build_job(situation, record.decision, fast_paths=self.fast_paths)
            self.sent_jobs[record.decision.udid] = (entry, job)

    def _from_log(self, record: DecisionRecord, situation: Situation) -> FieldDifference | None:
        """Return the first difference of the inputs from those of the folded events, or None.

        Raises UnreadableLog if the recorded catalogue is another one and cannot be read.
        """
        recorded = record.inputs
        folded = self.reconciler.record_of(record.decision, situation).inputs
        if recorded.catalog_digest != folded.catalog_digest:
            # A catalogue's digest changes when a version of Drydock adds a field to advisories.
            known = self.contents.catalogue(recorded.catalog_digest).digest
            if known == folded.catalog_digest:
                folded = folded.model_copy(update={"catalog_digest": recorded.catalog_digest})
        if recorded.model_dump_json() == folded.model_dump_json():
            return None
        return first_difference(_inputs(recorded), _inputs(folded), "inputs")

    def _difference(
        self, entry: LogEntry, record: DecisionRecord, check: Check, found: FieldDifference
    ) -> LogDifference:
        decision = record.decision
        return LogDifference(
            entry.seq,
            entry.at,
            check,
            found.path,
            found.left,
            found.right,
            decision.udid,
            decision.serial,
            self.last_event.get(decision.udid),
        )


def column_differences(entry: LogEntry, event: Event) -> Iterator[FieldDifference]:
    """Yield the differences of an event from its entry's columns, and of a policy's digest."""
    source = logged_source(event.sender, event.source)
    for column, actual in (("type", event.type), ("source", source), ("id", event.id)):
        recorded = getattr(entry, column)
        if recorded != actual:
            yield FieldDifference(column, recorded, actual)
    if isinstance(event, PolicyChangedEvent):
        digest = policy_digest(event.data.text)
        if digest != event.data.digest:
            yield FieldDifference("data.digest", event.data.digest, digest)


def issued_differences(event: JobIssuedEvent, wanted: Job) -> Iterator[FieldDifference]:
    """Yield the differences of an issued job, and of its signed payload, from the wanted job."""
    try:
        signed = json.loads(base64.b64decode(event.data.signed.payload, validate=True))
    except ValueError:
        signed = "(not JSON)"
    for path, recorded in (("job", job_wire(event.data.job)), ("signed.payload", signed)):
        found = first_difference(recorded, job_wire(wanted), path)
        if found is not None:
            yield found


def body_alteration(entry: LogEntry, record: DecisionRecord) -> FieldDifference | None:
    """Return the first part of an entry's body that its record has lost; None if there is none."""
    text = record.model_dump_json()
    if text.encode() == entry.body:
        return None
    return first_alteration(json.loads(entry.body), json.loads(text))


def recomputed_difference(
    record: DecisionRecord, contents: LogContents, *, fast_paths: bool
) -> FieldDifference | None:
    """Return the first difference of the decision from the one that its inputs give, or None.

    Inputs, policy or catalogue that cannot be read are a difference.
    """
    inputs = record.inputs
    try:
        policy = contents.policy(inputs.policy_digest)
        catalogue = contents.catalogue(inputs.catalog_digest)
        decision = recompute(record, policy, catalogue, fast_paths=fast_paths)
    except UnreadableLog as error:
        return FieldDifference("inputs", str(error), "a policy and a catalogue that can be read")
    except UNREADABLE as error:
        return FieldDifference(
            "inputs", f"cannot be read: {error!r}", "inputs that a version of Drydock wrote"
        )
    recorded, again = record.decision.model_dump_json(), decision.model_dump_json()
    if recorded == again:
        return None
    return first_difference(json.loads(recorded), json.loads(again), "decision")


def _inputs(inputs: DecisionInputs) -> Any:
    """Return the inputs as JSON; the halts, which are stored as text, are parsed."""
    wire = json.loads(inputs.model_dump_json())
    wire["halts"] = [json.loads(halt) for halt in wire["halts"]]
    return wire


def job_wire(job: Job) -> Any:
    """Return a job as JSON values."""
    return json.loads(job.model_dump_json(exclude_none=True))


def unreadable(entry: LogEntry, detail: str) -> LogDifference:
    """Return the difference of an entry that cannot be read."""
    return LogDifference(
        entry.seq, entry.at, Check.COMPLETE, "body", detail, "an entry that can be read", entry.key
    )


def _not_issued(entry: LogEntry, job: Job) -> LogDifference:
    return LogDifference(
        entry.seq, entry.at, Check.ORDERED, "job", ABSENT, job_wire(job), job.udid, job.serial
    )
