"""Check what a run left behind: nothing lost, nothing done twice, no result without its effect.

The checker is independent of the product: it knows the wire schemas and the topics, and imports
nothing from `pipeline`.
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
from tests.chaos.reading import DecodedEvidence, decode_evidence
from tests.chaos.witness import (
    includes,
    known_by_mac,
    microseconds,
    reported_fields,
    state_differences,
)

_BROADCAST_TOPICS: Final = (ADVISORIES.name, CONTROL.name)
_CONSUMED_TOPICS: Final = tuple(
    topic.name for topic in (INVENTORY, CHECKINS, ORDERS, RESULTS, DISPATCH)
)
_JOBS: Final = JOBS.name.partition("{site}")[0]
# Progress of a job by outcome. SUCCEEDED comes from the Mac's own report, so it ranks highest.
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
_USES_CAPACITY: Final = frozenset({"waiting", "dispatched", "started"})
_UPDATES: Final = frozenset({Action.UPDATE, Action.UPGRADE})
_WEBHOOK_EVENT: Final = {
    "mdm.Authenticate": "drydock.mdm.authenticated.v1",
    "mdm.TokenUpdate": "drydock.mdm.token_updated.v1",
    "mdm.CheckOut": "drydock.mdm.checked_out.v1",
    "mdm.SetBootstrapToken": "drydock.mdm.bootstrap_token_set.v1",
    "mdm.Connect": "drydock.mdm.command_reported.v1",
}


class Kind(StrEnum):
    """Class of a fault: a thing is missing, was done twice, or is not true."""

    MISSING = "missing"
    DOUBLED = "doubled"
    UNTRUE = "untrue"


class Fault(NamedTuple):
    """One violation of a guarantee; `what` names the subject and the violation."""

    kind: Kind
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """Result of the check.

    `events_in` counts distinct inputs, `intents` distinct (Mac, action, target), `jobs` the issued
    jobs. Of these, `once` were carried out exactly once, `untouched` ended without an act on the
    Mac (by their furthest outcome), and `closed` were closed by the Mac's own report.
    """

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
        """Return the number of faults of one kind."""
        return sum(fault.kind is kind for fault in self.faults)


def judge(evidence: Evidence) -> Findings:
    """Return the counts and all faults of a run."""
    decoded = decode_evidence(evidence)
    acts = Counter(act.job_id for act in evidence.acted)
    folded, letters, lost = _split_inputs(evidence, decoded)
    faults = (
        *(Fault(Kind.MISSING, f"{one.kind} {one.name}: accepted and then lost") for one in lost),
        *_unprocessed_partitions(evidence),
        *_missing_dead_letters(decoded),
        *_stale_fields(decoded),
        *_unapplied_broadcasts(evidence, decoded),
        *_issue_faults(decoded),
        *_act_faults(evidence, decoded),
        *_execution_faults(evidence, decoded, acts),
        *_result_faults(evidence, decoded, acts),
        *_success_faults(decoded),
        *_outdated_macs(evidence),
    )
    return Findings(
        events_in=len(evidence.inputs),
        folded=folded,
        dead_lettered=letters,
        intents=len({(job.udid, job.action, job.intent) for job in decoded.jobs.values()}),
        jobs=len(decoded.jobs),
        once=sum(acts[job_id] == 1 for job_id in decoded.jobs),
        untouched=Counter(
            _furthest_outcome(job_id, decoded) for job_id in decoded.jobs if not acts[job_id]
        ),
        closed=sum(_outcome(entry) is Outcome.SUCCEEDED for _, entry in _job_entries(decoded)),
        faults=faults,
    )


def _split_inputs(evidence: Evidence, decoded: DecodedEvidence) -> tuple[int, int, list[Input]]:
    """Return the number of folded inputs, the number of dead letters, and the lost inputs.

    An input is folded if a Mac's kept state includes it, or if it is a broadcast record.
    """
    kept = set(decoded.broadcast_ids)
    for event in decoded.device_events:
        row = decoded.rows.get(event.subject)
        if row is not None and row["device"] is not None and includes(row["device"], event):
            kept.add(event.id)
            kept.add(f"{event.subject} {event.type} {microseconds(event.time)}")
    folded, letters, lost = 0, 0, []
    for one in evidence.inputs:
        if one.kind == "event":
            found = one.name in kept
        elif one.kind == "webhook":
            found = _event_of(one) in kept
        else:
            found = one.name in decoded.letter_digests | decoded.letter_origins
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


def _unprocessed_partitions(evidence: Evidence) -> Iterator[Fault]:
    """Yield a fault for each partition that its consumer group has not processed to the end."""
    for partition, end in _ends(evidence).items():
        left = end - evidence.committed.get(partition, 0)
        if left > 0 and (partition.topic in _CONSUMED_TOPICS or partition.topic.startswith(_JOBS)):
            what = f"{partition.topic}/{partition.partition}: {left} records not processed"
            yield Fault(Kind.MISSING, what)


def _ends(evidence: Evidence) -> dict[PartitionId, int]:
    """Return the offset after the last record of each partition."""
    return {
        PartitionId(record.topic, record.partition): record.offset + 1
        for records in evidence.records.values()
        for record in records
    }


def _missing_dead_letters(decoded: DecodedEvidence) -> Iterator[Fault]:
    """Yield a fault for each unusable record without a dead letter that names its location."""
    for record in decoded.unusable:
        if record.location not in decoded.letter_origins:
            yield Fault(Kind.MISSING, f"{record.location} cannot be used and has no dead letter")


def _stale_fields(decoded: DecodedEvidence) -> Iterator[Fault]:
    """Yield a fault for each field of a Mac whose kept value is not the newest reported one."""
    for udid, known in known_by_mac(decoded.device_events).items():
        device = decoded.rows.get(udid, {}).get("device")
        if device is None:
            yield Fault(Kind.MISSING, f"{udid}: has no kept state")
            continue
        for wrong in state_differences(known, device):
            yield Fault(Kind.MISSING, f"{udid}: {wrong}")


def _unapplied_broadcasts(evidence: Evidence, decoded: DecodedEvidence) -> Iterator[Fault]:
    """Yield a fault for each partition of Macs that has not applied every broadcast record."""
    ends = _ends(evidence)
    for partition, row in decoded.epoch_rows.items():
        for topic in _BROADCAST_TOPICS:
            end, reached = ends.get(PartitionId(topic, 0), 0), row["broadcast"].get(topic, 0)
            if reached < end:
                what = f"partition {partition} applied {topic} up to {reached} of {end}"
                yield Fault(Kind.MISSING, what)


def _issue_faults(decoded: DecodedEvidence) -> Iterator[Fault]:
    """Yield a fault for each job decided and not issued, or issued and not in the job history.

    Also for each Mac with two open jobs, and each ended job that still uses its site's capacity.
    """
    for job_id in decoded.sent_job_ids - decoded.jobs.keys():
        yield Fault(Kind.MISSING, f"{job_id}: decided and never issued")
    ledgers: dict[str, set[str]] = defaultdict(set)
    open_jobs: Counter[str] = Counter()
    for udid, entry in _job_entries(decoded):
        ledgers[udid].add(entry["job_id"])
        open_jobs[udid] += _outcome(entry) not in FINAL_OUTCOMES
        ticket = decoded.queued_jobs.get(entry["job_id"])
        if ticket and ticket["stage"] in _USES_CAPACITY and _outcome(entry) in FINAL_OUTCOMES:
            yield Fault(Kind.UNTRUE, f"{entry['job_id']}: ended, and its slot is not free")
    for job_id, job in decoded.jobs.items():
        if job_id not in ledgers[job.udid]:
            yield Fault(Kind.MISSING, f"{job_id}: issued, and not in the job history of {job.udid}")
    for udid, count in open_jobs.items():
        if count > 1:
            yield Fault(Kind.DOUBLED, f"{udid}: {count} jobs are open")


def _act_faults(evidence: Evidence, decoded: DecodedEvidence) -> Iterator[Fault]:
    """Yield a fault for each act that was not issued or not journaled, and each repeated intent."""
    intents: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for act in evidence.acted:
        job = decoded.jobs.get(act.job_id) or evidence.forgotten.get(act.job_id)
        if job is None:
            yield Fault(Kind.UNTRUE, f"{act.udid}: acted on for {act.job_id}, never issued")
        elif act.job_id not in evidence.ended_early:
            intents[job.udid, job.action, job.intent].append(act.job_id)
        if act.job_id in evidence.forgotten:
            continue
        if act.job_id not in decoded.attempts:
            yield Fault(Kind.MISSING, f"{act.job_id}: carried out, and not in the journal")
        if evidence.journals is not None and not evidence.journals.get(act.job_id):
            yield Fault(Kind.MISSING, f"{act.job_id}: carried out, and in no executor's file")
    for (udid, action, intent), jobs in intents.items():
        most = 1 + evidence.may_repeat.get(udid, 0)
        if len(set(jobs)) > most:
            what = f"{udid}: acted on for {action} {intent} by {len(set(jobs))} jobs"
            yield Fault(Kind.DOUBLED, what)


def _execution_faults(
    evidence: Evidence, decoded: DecodedEvidence, acts: Mapping[str, int]
) -> Iterator[Fault]:
    """Yield a fault for each job carried out twice, and each neither carried out nor ended."""
    for job_id, count in acts.items():
        # A job that failed on its Mac, and was then forgotten, is issued again with its id.
        forgotten = evidence.forgotten.get(job_id)
        most = 1 if forgotten is None else 1 + evidence.may_repeat.get(forgotten.udid, 0)
        if count > most:
            yield Fault(Kind.DOUBLED, f"{job_id}: carried out {count} times")
    for job_id, job in decoded.jobs.items():
        if acts[job_id] == 0 and not _ended_untouched(job_id, job, decoded):
            yield Fault(Kind.MISSING, f"{job_id}: neither carried out nor ended ({job.udid})")


def _ended_untouched(job_id: str, job: Job, decoded: DecodedEvidence) -> bool:
    """Return True if a record explains why the job ended without an act on the Mac.

    The job was superseded, expired, refused or failed; or the executor observed the target on the
    Mac; or the Mac reported the target before an attempt began.
    """
    if job_id in decoded.superseded:
        return True
    return any(
        result.outcome in _UNDONE
        or (result.outcome is Outcome.SUCCEEDED and job_id not in decoded.attempts)
        or (
            result.outcome is Outcome.ACTED
            and job.target is not None
            and result.observed_version is not None
            and result.observed_version >= job.target.version
        )
        for result in decoded.results.get(job_id, ())
    )


def _furthest_outcome(job_id: str, decoded: DecodedEvidence) -> str:
    """Return the furthest outcome that was published for a job, or "nothing"."""
    outcomes = [result.outcome for result in decoded.results.get(job_id, ())]
    if job_id in decoded.superseded:
        outcomes.append(Outcome.SUPERSEDED)
    return max(outcomes, key=lambda outcome: _RANK[outcome]).value if outcomes else "nothing"


def _result_faults(
    evidence: Evidence, decoded: DecodedEvidence, acts: Mapping[str, int]
) -> Iterator[Fault]:
    """Yield a fault for each act without a result, and each result not in the job history."""
    for job_id in acts.keys() - evidence.forgotten.keys():
        if not any(one.outcome in _BEGUN for one in decoded.results.get(job_id, ())):
            yield Fault(Kind.MISSING, f"{job_id}: carried out, and no result shows that it began")
    for attempt in decoded.attempts.values():
        if attempt.job_id in evidence.forgotten:
            continue
        results = {one.outcome for one in decoded.results.get(attempt.job_id, ())}
        for item in attempt.results:
            if not item.published or item.result.outcome not in results:
                what = f"{attempt.job_id}: its result {item.result.outcome} was not published"
                yield Fault(Kind.MISSING, what)
    for udid, entry in _job_entries(decoded):
        outcome = _outcome(entry)
        known = -1 if outcome is None else _RANK[outcome]
        for result in decoded.results.get(entry["job_id"], ()):
            if _RANK[_proven_outcome(result)] > known and not entry["presumed"]:
                what = f"{udid}: {entry['job_id']} is {outcome} in spite of {result.outcome}"
                yield Fault(Kind.MISSING, what)


def _proven_outcome(result: JobResult) -> Outcome:
    """Return the outcome that a result proves: an executor's SUCCEEDED proves only ACTED.

    Only the Mac's own report (attempt 0) proves success.
    """
    is_from_executor = result.outcome is Outcome.SUCCEEDED and result.attempt > 0
    return Outcome.ACTED if is_from_executor else result.outcome


def _success_faults(decoded: DecodedEvidence) -> Iterator[Fault]:
    """Yield a fault unless a job succeeded if and only if a later report showed the target."""
    shown: dict[str, list[tuple[int, OSVersion]]] = defaultdict(list)
    for event in decoded.device_events:
        version = reported_fields(event).get("os_version")
        if version is not None:
            shown[event.subject].append((microseconds(event.time), parse_os_version(version)))
    for udid, entry in _job_entries(decoded):
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


def _outdated_macs(evidence: Evidence) -> Iterator[Fault]:
    """Yield a fault for each enrolled Mac that does not run the newest release of its line."""
    for mac in evidence.macs:
        version = parse_os_version(mac.os_version)
        newest = evidence.newest.get(version.line)
        if mac.enrolled and newest is not None and version < parse_os_version(newest):
            yield Fault(Kind.MISSING, f"{mac.udid}: still on {version}")


def _job_entries(decoded: DecodedEvidence) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the UDID and the row of every job of every job history."""
    for udid, row in decoded.rows.items():
        for entry in row["jobs"]:
            yield udid, entry


def _outcome(entry: Mapping[str, Any]) -> Outcome | None:
    return None if entry["outcome"] is None else Outcome(entry["outcome"])
