"""Judges a run by what is left of it: nothing lost, nothing done twice, nothing claimed in vain.

Independent of what it judges: it knows the wire schemas and the topics, and nothing of how
Drydock folds, decides or carries out.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from schemas.jobs import Action, Job
from schemas.macos import OSVersion, parse_os_version
from schemas.results import FINAL_OUTCOMES, JobResult, Outcome
from schemas.topics import ADVISORIES, CHECKINS, CONTROL, DISPATCH, INVENTORY, JOBS, ORDERS, RESULTS
from tests.chaos.evidence import Evidence, Input, PartitionId
from tests.chaos.reading import Testimony, read
from tests.chaos.witness import holds, known_by_mac, microseconds, reported_fields, unlike

_FACT_TOPICS: Final = (ADVISORIES.name, CONTROL.name)
_WORKED_THROUGH: Final = tuple(
    topic.name for topic in (INVENTORY, CHECKINS, ORDERS, RESULTS, DISPATCH)
)
_JOBS: Final = JOBS.name.partition("{site}")[0]
# How far along each outcome is; an end read off the Mac's own report outranks all others.
_RANK: Final = {
    Outcome.ACCEPTED: 0,
    Outcome.STARTED: 1,
    Outcome.PROGRESSED: 2,
    Outcome.ACTED: 3,
    Outcome.SUPERSEDED: 4,
    Outcome.EXPIRED: 5,
    Outcome.REFUSED: 6,
    Outcome.FAILED: 7,
    Outcome.SUCCEEDED: 8,
}
_UNDONE: Final = frozenset({Outcome.SUPERSEDED, Outcome.EXPIRED, Outcome.REFUSED, Outcome.FAILED})
_BEGUN: Final = frozenset({Outcome.STARTED, Outcome.PROGRESSED, Outcome.ACTED, Outcome.FAILED})
_HOLDS_A_SLOT: Final = frozenset({"waiting", "dispatched", "started"})
_UPDATES: Final = frozenset({Action.UPDATE, Action.UPGRADE})
_WEBHOOK_EVENT: Final = {
    "mdm.Authenticate": "drydock.mdm.authenticated.v1",
    "mdm.TokenUpdate": "drydock.mdm.token_updated.v1",
    "mdm.CheckOut": "drydock.mdm.checked_out.v1",
    "mdm.SetBootstrapToken": "drydock.mdm.bootstrap_token_set.v1",
    "mdm.Connect": "drydock.mdm.command_reported.v1",
}


class Kind(StrEnum):
    """What is wrong: something is missing, was done twice, or is not true."""

    MISSING = "missing"
    DOUBLED = "doubled"
    UNTRUE = "untrue"


class Fault(NamedTuple):
    """One thing that must not be."""

    kind: Kind
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The judgement. `events_in` are distinct inputs, `intents` distinct (Mac, action, target),
    `jobs` their orders: carried out exactly `once`, ended without the Mac being touched
    (`untouched`: by the last that was told of each), `closed` by the Mac's own report."""

    events_in: int
    folded: int
    dead_lettered: int
    intents: int
    jobs: int
    once: int
    untouched: dict[str, int]
    closed: int
    faults: tuple[Fault, ...]

    def count(self, kind: Kind) -> int:
        """How many faults of a kind there are."""
        return sum(fault.kind is kind for fault in self.faults)


def judge(evidence: Evidence) -> Findings:
    """Look at all of it."""
    testimony = read(evidence)
    acts = Counter(act.job_id for act in evidence.acted)
    folded, letters, lost = _inputs(evidence, testimony)
    faults = (
        *(Fault(Kind.MISSING, f"{one.kind} {one.name}: taken, and nowhere since") for one in lost),
        *_unread(evidence),
        *_missing_dead_letters(testimony),
        *_kept(testimony),
        *_answered(evidence, testimony),
        *_ordered(testimony),
        *_carried_out(evidence, testimony),
        *_each_once(testimony, acts),
        *_unreported(testimony, acts),
        *_closed(testimony),
        *_current(evidence),
    )
    return Findings(
        events_in=len(evidence.inputs),
        folded=folded,
        dead_lettered=letters,
        intents=len({(job.udid, job.action, job.intent) for job in testimony.orders.values()}),
        jobs=len(testimony.orders),
        once=sum(acts[job_id] == 1 for job_id in testimony.orders),
        untouched=Counter(
            _end(job_id, testimony) for job_id in testimony.orders if not acts[job_id]
        ),
        closed=sum(_outcome(entry) is Outcome.SUCCEEDED for _, entry in _entries(testimony)),
        faults=faults,
    )


def _inputs(evidence: Evidence, testimony: Testimony) -> tuple[int, int, list[Input]]:
    """How many inputs are in a Mac's kept state (or are facts for all), how many were set aside,
    and those that are neither."""
    kept = set(testimony.facts)
    for event in testimony.device_events:
        row = testimony.rows.get(event.subject)
        if row is not None and row["device"] is not None and holds(row["device"], event):
            kept.add(event.id)
            kept.add(f"{event.subject} {event.type} {microseconds(event.time)}")
    folded, letters, lost = 0, 0, []
    for one in evidence.inputs:
        if one.kind == "event":
            found = one.name in kept
        elif one.kind == "webhook":
            found = _event_of(one) in kept
        else:
            found = one.name in testimony.letter_digests | testimony.letter_origins
            letters += found
            folded -= found
        folded += found
        if not found:
            lost.append(one)
    return folded, letters, lost


def _event_of(webhook: Input) -> str:
    udid, topic, created_at = webhook.name.split(" ")
    moment = datetime.fromisoformat(created_at)
    return f"{udid} {_WEBHOOK_EVENT[topic]} {microseconds(moment)}"


def _unread(evidence: Evidence) -> Iterator[Fault]:
    """Whoever works a topic through has come to its last record."""
    for place, end in _ends(evidence).items():
        left = end - evidence.committed.get(place, 0)
        if left > 0 and (place.topic in _WORKED_THROUGH or place.topic.startswith(_JOBS)):
            what = f"{place.topic}/{place.partition}: {left} records not worked through"
            yield Fault(Kind.MISSING, what)


def _ends(evidence: Evidence) -> dict[PartitionId, int]:
    """The offset after the last record of each partition."""
    return {
        PartitionId(record.topic, record.partition): record.offset + 1
        for records in evidence.records.values()
        for record in records
    }


def _missing_dead_letters(testimony: Testimony) -> Iterator[Fault]:
    """What could not be used is a dead letter that says where it was."""
    for record in testimony.unusable:
        if record.location not in testimony.letter_origins:
            yield Fault(Kind.MISSING, f"{record.location} cannot be used and was not set aside")


def _kept(testimony: Testimony) -> Iterator[Fault]:
    """Of every fact about every Mac the newest word is kept."""
    for udid, known in known_by_mac(testimony.device_events).items():
        device = testimony.rows.get(udid, {}).get("device")
        if device is None:
            yield Fault(Kind.MISSING, f"{udid}: nothing is kept of it")
            continue
        for wrong in unlike(known, device):
            yield Fault(Kind.MISSING, f"{udid}: {wrong}")


def _answered(evidence: Evidence, testimony: Testimony) -> Iterator[Fault]:
    """Every partition of Macs has answered every advisory and every word of the people."""
    ends = _ends(evidence)
    for partition, row in testimony.epoch_rows.items():
        for topic in _FACT_TOPICS:
            end, reached = ends.get(PartitionId(topic, 0), 0), row["broadcast"].get(topic, 0)
            if reached < end:
                what = f"partition {partition} answered {topic} up to {reached} of {end}"
                yield Fault(Kind.MISSING, what)


def _ordered(testimony: Testimony) -> Iterator[Fault]:
    """What was decided was ordered, what was ordered is in the Mac's ledger, one job at a time."""
    for job_id in testimony.sends - testimony.orders.keys():
        yield Fault(Kind.MISSING, f"{job_id}: decided and never ordered")
    ledgers: dict[str, set[str]] = defaultdict(set)
    open_jobs: Counter[str] = Counter()
    for udid, entry in _entries(testimony):
        ledgers[udid].add(entry["job_id"])
        open_jobs[udid] += _outcome(entry) not in FINAL_OUTCOMES
        ticket = testimony.queued_jobs.get(entry["job_id"])
        if ticket and ticket["stage"] in _HOLDS_A_SLOT and _outcome(entry) in FINAL_OUTCOMES:
            yield Fault(Kind.UNTRUE, f"{entry['job_id']}: over, and its slot is not free")
    for job_id, job in testimony.orders.items():
        if job_id not in ledgers[job.udid]:
            yield Fault(Kind.MISSING, f"{job_id}: ordered, and not in the ledger of {job.udid}")
    for udid, count in open_jobs.items():
        if count > 1:
            yield Fault(Kind.DOUBLED, f"{udid}: {count} jobs are open")


def _carried_out(evidence: Evidence, testimony: Testimony) -> Iterator[Fault]:
    """What was done to Macs was ordered and journalled, and no intent was carried out twice."""
    intents: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for act in evidence.acted:
        job = testimony.orders.get(act.job_id)
        if job is None:
            yield Fault(Kind.UNTRUE, f"{act.udid}: acted on for {act.job_id}, never ordered")
        else:
            intents[job.udid, job.action, job.intent].append(act.job_id)
        if act.job_id not in testimony.attempts:
            yield Fault(Kind.MISSING, f"{act.job_id}: carried out, and not in the journal")
        if evidence.journals is not None and not evidence.journals.get(act.job_id):
            yield Fault(Kind.MISSING, f"{act.job_id}: carried out, and in no executor's file")
    for (udid, action, intent), jobs in intents.items():
        most = 1 + evidence.may_repeat.get(udid, 0)
        if len(set(jobs)) > most:
            what = f"{udid}: acted on for {action} {intent} by {len(set(jobs))} jobs"
            yield Fault(Kind.DOUBLED, what)


def _each_once(testimony: Testimony, acts: Mapping[str, int]) -> Iterator[Fault]:
    """Every job was carried out once, or ended untouched and somebody said why."""
    for job_id, count in acts.items():
        if count > 1:
            yield Fault(Kind.DOUBLED, f"{job_id}: carried out {count} times")
    for job_id, job in testimony.orders.items():
        if acts[job_id] == 0 and not _ended_untouched(job_id, job, testimony):
            yield Fault(Kind.MISSING, f"{job_id}: neither carried out nor ended ({job.udid})")


def _ended_untouched(job_id: str, job: Job, testimony: Testimony) -> bool:
    """Whether somebody said why the Mac was not touched: withdrawn, refused, given up, the
    executor saw that it has the target already, or its own report said so before one began."""
    if job_id in testimony.withdrawn:
        return True
    return any(
        result.outcome in _UNDONE
        or (result.outcome is Outcome.SUCCEEDED and job_id not in testimony.attempts)
        or (
            result.outcome is Outcome.ACTED
            and job.target is not None
            and result.observed_version is not None
            and result.observed_version >= job.target.version
        )
        for result in testimony.results.get(job_id, ())
    )


def _end(job_id: str, testimony: Testimony) -> str:
    """The strongest that was told of a job."""
    outcomes = [result.outcome for result in testimony.results.get(job_id, ())]
    if job_id in testimony.withdrawn:
        outcomes.append(Outcome.SUPERSEDED)
    return max(outcomes, key=lambda outcome: _RANK[outcome]).value if outcomes else "nothing"


def _unreported(fields: Testimony, acts: Mapping[str, int]) -> Iterator[Fault]:
    """What executors did they told, and what they told is in the ledger."""
    for job_id in acts:
        if not any(one.outcome in _BEGUN for one in fields.results.get(job_id, ())):
            yield Fault(Kind.MISSING, f"{job_id}: carried out, and no result says that it began")
    for attempt in fields.attempts.values():
        results = {one.outcome for one in fields.results.get(attempt.job_id, ())}
        for item in attempt.results:
            if not item.published or item.result.outcome not in results:
                what = f"{attempt.job_id}: its result {item.result.outcome} was not published"
                yield Fault(Kind.MISSING, what)
    for udid, entry in _entries(fields):
        outcome = _outcome(entry)
        known = -1 if outcome is None else _RANK[outcome]
        for result in fields.results.get(entry["job_id"], ()):
            if _RANK[_counted(result)] > known and not entry["presumed"]:
                what = f"{udid}: {entry['job_id']} is {outcome} for all that {result.outcome} says"
                yield Fault(Kind.MISSING, what)


def _counted(result: JobResult) -> Outcome:
    """An executor's word is no success: only what was read off the Mac is."""
    is_from_executor = result.outcome is Outcome.SUCCEEDED and result.attempt > 0
    return Outcome.ACTED if is_from_executor else result.outcome


def _closed(testimony: Testimony) -> Iterator[Fault]:
    """A job succeeded if, and only if, a later report of the Mac showed the target."""
    shown: dict[str, list[tuple[int, OSVersion]]] = defaultdict(list)
    for event in testimony.device_events:
        version = reported_fields(event).get("os_version")
        if version is not None:
            shown[event.subject].append((microseconds(event.time), parse_os_version(version)))
    for udid, entry in _entries(testimony):
        if Action(entry["action"]) not in _UPDATES:
            continue
        target = parse_os_version(entry["version"])
        done = any(us > entry["issued_us"] and version >= target for us, version in shown[udid])
        outcome = _outcome(entry)
        if outcome is Outcome.SUCCEEDED and not done:
            yield Fault(Kind.UNTRUE, f"{udid}: {entry['job_id']} succeeded without a report")
        if outcome not in FINAL_OUTCOMES and done:
            what = f"{udid}: {entry['job_id']} is {outcome}, and the Mac showed it done"
            yield Fault(Kind.MISSING, what)


def _current(evidence: Evidence) -> Iterator[Fault]:
    """Every enrolled Mac runs the newest release of its line."""
    for mac in evidence.macs:
        version = parse_os_version(mac.os_version)
        newest = evidence.newest.get(version.line)
        if mac.enrolled and newest is not None and version < parse_os_version(newest):
            yield Fault(Kind.MISSING, f"{mac.udid}: still on {version}")


def _entries(testimony: Testimony) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every job of every ledger, with its Mac."""
    for udid, row in testimony.rows.items():
        for entry in row["jobs"]:
            yield udid, entry


def _outcome(entry: Mapping[str, Any]) -> Outcome | None:
    return None if entry["outcome"] is None else Outcome(entry["outcome"])
