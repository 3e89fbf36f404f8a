"""The recorded history of one Mac: its last decision, jobs and last events, and what remains."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import PlainSerializer, PlainValidator

from pipeline.decide.earlier_system import with_present_system
from pipeline.decide.exposure import exposure
from pipeline.decide.methods import MethodRow, method_rows
from pipeline.decide.needs.order import needs
from pipeline.decide.needs.reinstall import other_method_rows
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
from pipeline.replay.operator_steps import OperatorStep, PutInForce, operator_steps, policy_of
from pipeline.replay.policy_rules import PolicyRule, rules_of
from pipeline.state.device import to_us
from pipeline.state.jobs import JobHistory, add_job, add_result, supersede_job
from pipeline.state.strikes import StrikeState
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


def _read_strike(wire: Any) -> StrikeState:
    try:
        return wire if isinstance(wire, StrikeState) else StrikeState.from_json(wire)
    except (LookupError, TypeError) as error:
        raise ValueError(str(error)) from error


# pydantic, which encodes an Explanation for the HTTP API, knows no Struct of msgspec.
WireStrike = Annotated[
    StrikeState, PlainValidator(_read_strike), PlainSerializer(StrikeState.as_json)
]


@dataclass(frozen=True, slots=True)
class LoggedDecision:
    """A decision in the Mac's history; `policy_digest` is that of its policy, None without one."""

    seq: int
    at: datetime
    decision: Decision
    policy_digest: str | None = None


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
    are empty if the log has lost the policy or the catalogue of the decision. `policy` is that
    policy with its author; None too if the log has lost its event. `operator_steps` are the halts,
    resumes, approvals and denials that cover the Mac. `strikes` are the struck statements of that
    catalogue that have an effect.
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
    policy: PutInForce | None = None
    operator_steps: tuple[OperatorStep, ...] = ()
    strikes: tuple[WireStrike, ...] = ()

    @property
    def sent(self) -> LoggedDecision | None:
        """The decision that sent the open job, if the last decision holds because of that job."""
        blocked = self.blocked_by
        if blocked is None or blocked.gate != "job_open":
            return None
        sends = [one for one in self.decisions if one.decision.decision is Verdict.SEND]
        return sends[-1] if sends else None

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


def explain(
    log: LogReader, name: str, *, at: datetime | None = None, last_seq: int | None = None
) -> Explanation | None:
    """Return the log's content about one Mac up to and including `at`; None for an unknown Mac.

    `name` is a UDID, a serial number or an enrollment id; without `at` the whole log counts. With
    `last_seq` it ends with the entry of this number: several decisions can have one time. The name
    is looked up in the whole log, also after the end. Raises UnreadableLog if an entry that the
    result holds cannot be read.
    """

    def counts(entry: LogEntry) -> bool:
        return (at is None or entry.at <= at) and (last_seq is None or entry.seq <= last_seq)

    udid = find_device_key(log, name)
    if udid is None:
        return None
    entries = list(filter(counts, log.entries(key=udid)))
    decided = [entry for entry in entries if entry.kind == "decision"]
    newest = read_record(decided[-1]) if decided else None
    keys = keys_of(udid, newest)
    for alias in keys[1:]:
        entries += filter(counts, log.entries(key=alias))
    events = sorted((entry for entry in entries if entry.kind == "event"), key=lambda one: one.seq)
    # Only these are decoded: a Mac sends some thousand reports in a year.
    about_jobs = [_logged(entry) for entry in events if entry.type in _JOB_EVENTS]
    others = [entry for entry in events if entry.type not in _JOB_EVENTS]
    seen = (entry for entry in reversed(events) if entry.type not in _JOB_EVENTS)
    methods, rules, strikes = _background(log, newest)
    sites = {job.data.job.site for job in _issued(about_jobs)}
    actions = {job.data.job.action for job in _issued(about_jobs)}
    advisories = () if newest is None else newest.decision.advisory_ids
    if newest is not None and newest.decision.site is not None:
        sites.add(newest.decision.site)
    if newest is not None and newest.decision.action is not None:
        actions.add(newest.decision.action)
    return Explanation(
        udid,
        keys,
        decided[-1].seq if decided else None,
        newest,
        tuple(map(_decision, decided)),
        tuple(_stories(about_jobs)),
        tuple(_logged(entry) for entry in others[-KEPT_EVENTS:]),
        len(others),
        tuple(_resets(log, keys, sites, counts)),
        {} if newest is None else sources_of(newest.inputs.device["facts"], seen),
        methods,
        rules,
        None if newest is None else policy_of(log, newest.inputs.policy_digest, decided[-1].seq),
        tuple(operator_steps(log, events, sites, actions, advisories, counts)),
        strikes,
    )


def _decision(entry: LogEntry) -> LoggedDecision:
    record = read_record(entry)
    return LoggedDecision(entry.seq, entry.at, record.decision, record.inputs.policy_digest)


def _background(
    log: LogReader, record: DecisionRecord | None
) -> tuple[tuple[MethodRow, ...], Mapping[str, PolicyRule], tuple[StrikeState, ...]]:
    """Return the methods, the rules and the strikes of a decision, computed from its record.

    All are empty without a record, and if the log no longer has its policy or catalogue.
    """
    if record is None:
        return (), {}, ()
    contents, inputs, decision = LogContents(log), record.inputs, record.decision
    try:
        document = contents.policy_document(inputs.policy_digest or "")
        catalogue = contents.catalogue(inputs.catalog_digest)
    except UnreadableLog:
        return (), {}, ()
    s = with_present_system(situation_of(record, document.policy, catalogue))
    wanted = (decision.action, decision.intent)
    need = next((one for one in needs(s, exposure(s)) if (one.action, one.intent) == wanted), None)
    rows = () if need is None else (*method_rows(s, need), *other_method_rows(s, need))
    strikes = tuple(act for act, has_effect in catalogue.strikes() if has_effect)
    return rows, rules_of(s, decision, need, document), strikes


_JOB_EVENTS: Final = frozenset(
    model.model_fields["type"].default
    for model in (JobIssuedEvent, JobResultedEvent, JobSupersededEvent)
)
_RESET: Final = AttemptsResetEvent.model_fields["type"].default


def _resets(
    log: LogReader,
    keys: Iterable[str],
    sites: Iterable[str],
    counts: Callable[[LogEntry], bool],
) -> Iterator[LoggedReset]:
    """Yield the counted resets of everything, of one of these sites, or of the Mac's keys."""
    scopes = [
        ResetScope(everything=True),
        *(ResetScope(site=site) for site in sorted(sites)),
        *(ResetScope(device=key.removeprefix(SERIAL_SUBJECT_PREFIX)) for key in keys),
    ]
    found = [entry for scope in scopes for entry in log.entries(kind="event", key=scope.key)]
    for entry in sorted(found, key=lambda one: one.seq):
        if entry.type == _RESET and counts(entry):
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


def keys_of(udid: str, record: DecisionRecord | None) -> tuple[str, ...]:
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
