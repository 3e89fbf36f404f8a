"""The recorded history of one Mac: its last decision, jobs and last events, and what remains."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pipeline.decide.confirmed_version import with_confirmed_version
from pipeline.decide.exposure import exposure
from pipeline.decide.methods import MethodRow, method_rows
from pipeline.decide.needs.order import needs
from pipeline.decide.recomputation import situation_of
from pipeline.replay.device_lookup import find_device_key
from pipeline.replay.field_sources import sources_of
from pipeline.replay.log import (
    LogContents,
    LogEntry,
    LogReader,
    UnreadableLog,
    read_event,
    read_record,
)
from pipeline.replay.policy_rules import PolicyRule, rules_of
from pipeline.state.device import to_us
from pipeline.state.jobs import JobHistory, add_job, add_result, supersede_job
from schemas import sentences
from schemas.decisions import Decision, DecisionRecord, Gate, Verdict
from schemas.envelope import (
    AttemptsResetEvent,
    Event,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
)
from schemas.events.control import AttemptsReset, ResetScope
from schemas.findings import FindingCode
from schemas.ids import SERIAL_SUBJECT_PREFIX
from schemas.jobs import Job
from schemas.results import JobResult

KEPT_EVENTS: Final = 10


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """A decision in the Mac's history."""

    seq: int
    at: datetime
    decision: Decision


@dataclass(frozen=True, slots=True)
class JobStep:
    """One recorded step of a job: a result, or its withdrawal.

    `at` is the time at which it was recorded. For a superseded job, `outcome` is `superseded` and
    `detail` names the other job or the reason.
    """

    seq: int
    at: datetime
    outcome: str
    error_code: str | None = None
    attempt: int | None = None
    percent: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class JobStory:
    """A job with its steps in the order of the log.

    `outcome` is the end of the job in the Mac's job history; `open` if the job has not ended.
    """

    job: Job
    seq: int
    issued_at: datetime
    steps: tuple[JobStep, ...]
    outcome: str


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """An event about the Mac in the log."""

    seq: int
    at: datetime
    event: Event


@dataclass(frozen=True, slots=True)
class LoggedReset:
    """An operator's reset of attempts that covers the Mac."""

    seq: int
    at: datetime
    reset: AttemptsReset


@dataclass(frozen=True, slots=True)
class Remaining:
    """Something that must still happen before the Mac is done.

    `what` is `job` for the open job, the name of a closed gate, `finding` for an observation that
    needs a person, or the reason why no job follows although the Mac is exposed. `until` is the
    time at which it ends by itself; None if only an event ends it.
    """

    what: str
    detail: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The log's content about one Mac up to a time.

    `keys` are the keys of the Mac's entries. `seq` and `record` are those of its last decision;
    None if it has none. `events` are the last KEPT_EVENTS of `events_total` events that are not
    about jobs. `resets` are the resets of attempts that cover the Mac.

    `sources` has the source of each field of the Mac that the log still shows. `methods` are those
    of the policy for the decision's action, `rules` the settings that its gates compared with; both
    are empty if the log has lost the policy or the catalogue of the decision.
    """

    udid: str
    keys: tuple[str, ...]
    seq: int | None
    record: DecisionRecord | None
    decisions: tuple[LoggedDecision, ...]
    jobs: tuple[JobStory, ...]
    events: tuple[LoggedEvent, ...]
    events_total: int
    resets: tuple[LoggedReset, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    methods: tuple[MethodRow, ...] = ()
    rules: Mapping[str, PolicyRule] = field(default_factory=dict)

    @property
    def remaining(self) -> tuple[Remaining, ...]:
        """The open job, closed gates and findings of the last decision; empty if none remains."""
        if self.record is None:
            return ()
        decision = self.record.decision
        closed = [gate for gate in decision.gates if not gate.passed]
        found = [Remaining(gate.gate, gate.detail, gate.until) for gate in closed]
        story = next((one for one in reversed(self.jobs) if one.outcome == "open"), None)
        if story is not None:
            until = next((gate.until for gate in closed if gate.gate == "job_open"), None)
            found = [one for one in found if one.what != "job_open"]
            found.insert(0, Remaining("job", _progress_of(story), until or story.job.expires_at))
        if decision.decision is Verdict.NOTHING and decision.cves:
            found.append(Remaining(decision.reason.value, f"exposed to {len(decision.cves)} CVEs"))
        for code, text in finding_details(decision).items():
            found.append(Remaining("finding", f"{code}: {text}"))
        return tuple(found)

    @property
    def blocked_by(self) -> Gate | None:
        """The first closed gate of the last decision, if that is a hold; None otherwise."""
        if self.record is None or self.record.decision.decision is not Verdict.HOLD:
            return None
        return next((gate for gate in self.record.decision.gates if not gate.passed), None)


def finding_details(decision: Decision) -> dict[str, str]:
    """Return the observation of each finding; the code's sentence if it has none."""
    observed = dict(text.partition(": ")[::2] for text in decision.finding_details)
    return {
        code: observed.get(code) or sentences.FINDINGS[FindingCode(code)]
        for code in decision.findings
    }


def explain(log: LogReader, name: str, *, at: datetime | None = None) -> Explanation | None:
    """Return the log's content about one Mac up to and including `at`; None for an unknown Mac.

    `name` is a UDID, a serial number or an enrollment id; without `at` the whole log counts. The
    name is looked up in the whole log, also after `at`. Raises UnreadableLog if an entry that the
    result holds cannot be read.
    """
    udid = find_device_key(log, name)
    if udid is None:
        return None
    entries = [entry for entry in log.entries(key=udid) if at is None or entry.at <= at]
    decided = [entry for entry in entries if entry.kind == "decision"]
    newest = read_record(decided[-1]) if decided else None
    keys = _keys(udid, newest)
    for alias in keys[1:]:
        entries += [entry for entry in log.entries(key=alias) if at is None or entry.at <= at]
    events = sorted((entry for entry in entries if entry.kind == "event"), key=lambda one: one.seq)
    # Only these are decoded: a Mac sends some thousand reports in a year.
    about_jobs = [_logged(entry) for entry in events if entry.type in _JOB_EVENTS]
    others = [entry for entry in events if entry.type not in _JOB_EVENTS]
    seen = (entry for entry in reversed(events) if entry.type not in _JOB_EVENTS)
    methods, rules = _background(log, newest)
    decisions = (
        LoggedDecision(entry.seq, entry.at, read_record(entry).decision) for entry in decided
    )
    return Explanation(
        udid,
        keys,
        decided[-1].seq if decided else None,
        newest,
        tuple(decisions),
        tuple(_stories(about_jobs)),
        tuple(_logged(entry) for entry in others[-KEPT_EVENTS:]),
        len(others),
        tuple(_resets(log, keys, {job.data.job.site for job in _issued(about_jobs)}, at)),
        {} if newest is None else sources_of(newest.inputs.device["facts"], seen),
        methods,
        rules,
    )


def _background(
    log: LogReader, record: DecisionRecord | None
) -> tuple[tuple[MethodRow, ...], Mapping[str, PolicyRule]]:
    """Return the methods and the rules of a decision, computed again from its record.

    Both are empty without a record, and if the log no longer has its policy or catalogue.
    """
    if record is None:
        return (), {}
    contents, inputs, decision = LogContents(log), record.inputs, record.decision
    try:
        document = contents.policy_document(inputs.policy_digest or "")
        catalogue = contents.catalogue(inputs.catalog_digest)
    except UnreadableLog:
        return (), {}
    s = with_confirmed_version(situation_of(record, document.policy, catalogue))
    wanted = (decision.action, decision.intent)
    need = next((one for one in needs(s, exposure(s)) if (one.action, one.intent) == wanted), None)
    rows = () if need is None else method_rows(s, need)
    return rows, rules_of(s, decision, need, document)


_JOB_EVENTS: Final = frozenset(
    model.model_fields["type"].default
    for model in (JobIssuedEvent, JobResultedEvent, JobSupersededEvent)
)
_RESET: Final = AttemptsResetEvent.model_fields["type"].default


def _resets(
    log: LogReader, keys: Iterable[str], sites: Iterable[str], at: datetime | None
) -> Iterator[LoggedReset]:
    """Yield the resets up to `at` of everything, of one of these sites, or of the Mac's keys."""
    scopes = [
        ResetScope(everything=True),
        *(ResetScope(site=site) for site in sorted(sites)),
        *(ResetScope(device=key.removeprefix(SERIAL_SUBJECT_PREFIX)) for key in keys),
    ]
    found = [entry for scope in scopes for entry in log.entries(kind="event", key=scope.key)]
    for entry in sorted(found, key=lambda one: one.seq):
        if entry.type == _RESET and (at is None or entry.at <= at):
            event = read_event(entry)
            assert isinstance(event, AttemptsResetEvent)
            yield LoggedReset(entry.seq, entry.at, event.data)


def _issued(logged: Iterable[LoggedEvent]) -> Iterator[JobIssuedEvent]:
    return (one.event for one in logged if isinstance(one.event, JobIssuedEvent))


def _progress_of(story: JobStory) -> str:
    """Return the action, method and last step of a job as text."""
    step = story.steps[-1].outcome if story.steps else "issued"
    return f"{story.job.action.value} by {story.job.method.value}: {step}"


def _logged(entry: LogEntry) -> LoggedEvent:
    return LoggedEvent(entry.seq, entry.at, read_event(entry))


def _keys(udid: str, record: DecisionRecord | None) -> tuple[str, ...]:
    """Return the Mac's key, then the other keys under which its reports may be logged.

    The others are those of the decision record; there are none without a record.
    """
    if record is None:
        return (udid,)
    facts = record.inputs.device.get("facts", {})
    serial = facts.get("serial", (0, None))[1]
    enrollment = facts.get("enrollment_id", (0, None))[1]
    aliases = (serial and SERIAL_SUBJECT_PREFIX + serial, enrollment)
    return tuple(dict.fromkeys((udid, *(alias for alias in aliases if alias))))


def _stories(logged: Iterable[LoggedEvent]) -> Iterator[JobStory]:
    """Yield each issued job with its steps, in the order of their issue."""
    issued: dict[str, tuple[LoggedEvent, Job]] = {}
    steps: dict[str, list[JobStep]] = {}
    histories: dict[str, JobHistory] = {}
    for one in logged:
        event, us = one.event, to_us(one.event.time)
        if isinstance(event, JobIssuedEvent):
            job = event.data.job
            issued.setdefault(job.job_id, (one, job))
            histories.setdefault(job.job_id, add_job((), job))
        elif isinstance(event, JobSupersededEvent) and event.data.job_id in issued:
            job_id = event.data.job_id
            histories[job_id] = supersede_job(histories[job_id], job_id, us)
            step = JobStep(one.seq, one.at, "superseded", detail=f"by {event.data.by}")
            steps.setdefault(job_id, []).append(step)
        elif isinstance(event, JobResultedEvent) and event.data.job_id in issued:
            job_id = event.data.job_id
            histories[job_id] = add_result(histories[job_id], event.data, us)
            steps.setdefault(job_id, []).append(_step(one, event.data))
    for job_id, (one, job) in issued.items():
        (entry,) = histories[job_id]
        ended = "open" if entry.is_open or entry.outcome is None else entry.outcome.value
        yield JobStory(job, one.seq, one.at, tuple(steps.get(job_id, ())), ended)


def _step(one: LoggedEvent, result: JobResult) -> JobStep:
    code = None if result.error_code is None else result.error_code.value
    return JobStep(
        one.seq,
        one.at,
        result.outcome.value,
        code,
        result.attempt,
        result.percent,
        result.detail,
    )
