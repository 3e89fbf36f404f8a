"""The evidence decoded with the wire schemas: events, jobs, results, kept rows, dead letters."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from schemas.attempts import AttemptRecord
from schemas.dead_letters import DeadLetter
from schemas.decisions import Verdict as Answer
from schemas.envelope import (
    DeviceEvent,
    Event,
    InvalidEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    decode,
)
from schemas.jobs import Job
from schemas.results import JobResult
from schemas.signed_payloads import verify_job
from schemas.signing import SignatureError
from schemas.topics import (
    ADVISORIES,
    ATTEMPTS,
    CHECKINS,
    CONTROL,
    DEAD_LETTERS,
    DECISIONS,
    DISPATCH,
    DISPATCH_STATE,
    INVENTORY,
    JOBS,
    ORDERS,
    RESULTS,
    STATE,
    Topic,
)
from tests.chaos.evidence import Evidence, Record

_EPOCH_KEY: Final = b" epoch"
_READ: Final = (INVENTORY, CHECKINS, ORDERS, RESULTS, DISPATCH, ADVISORIES, CONTROL, JOBS)
_DEVICE: Final = (INVENTORY.name, CHECKINS.name)


@dataclass(slots=True)
class DecodedEvidence:
    """The decoded evidence.

    `jobs`, `results`, `queued_jobs` and `attempts` are by job id. `rows` are the kept states by
    UDID, `epoch_rows` the owner's rows by partition. `sent_job_ids` are the jobs that decisions
    send. Each record in `unusable` must have a dead letter; the letters are known by the location
    of the record (`letter_origins`) or by the SHA-256 of the bytes (`letter_digests`).
    """

    device_events: list[DeviceEvent] = field(default_factory=list)
    broadcast_ids: set[str] = field(default_factory=set)
    unusable: list[Record] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    superseded: set[str] = field(default_factory=set)
    results: dict[str, list[JobResult]] = field(default_factory=lambda: defaultdict(list))
    sent_job_ids: set[str] = field(default_factory=set)
    letter_origins: set[str] = field(default_factory=set)
    letter_digests: set[str] = field(default_factory=set)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    epoch_rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    queued_jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    attempts: dict[str, AttemptRecord] = field(default_factory=dict)


def decode_evidence(evidence: Evidence) -> DecodedEvidence:
    """Return the decoded evidence."""
    decoded = DecodedEvidence()
    for topic in _READ:
        for record in _of(evidence, topic):
            _collect(decoded, evidence, topic, record)
    for record in _of(evidence, DECISIONS):
        # Only JSON: validation of each decision with its inputs takes too long.
        decision = json.loads(record.value or b"")["decision"]
        if decision["decision"] == Answer.SEND:
            decoded.sent_job_ids.add(decision["job_id"])
    for record in _of(evidence, DEAD_LETTERS):
        letter = DeadLetter.model_validate_json(record.value or b"")
        decoded.letter_origins.add(letter.origin)
        decoded.letter_digests.add(letter.raw_sha256)
    _read_state(decoded, evidence)
    return decoded


def _read_state(decoded: DecodedEvidence, evidence: Evidence) -> None:
    """Read the state of workers, dispatchers and executors into `decoded`."""
    for record in _latest(_of(evidence, STATE)):
        row = json.loads(record.value or b"")
        if record.key == _EPOCH_KEY:
            decoded.epoch_rows[record.partition] = row
        elif row["device"] is not None or row["jobs"]:
            decoded.rows[(record.key or b"").decode()] = row
    for record in _latest(_of(evidence, DISPATCH_STATE)):
        if record.key != _EPOCH_KEY:
            decoded.queued_jobs[(record.key or b"").decode()] = json.loads(record.value or b"")
    for record in _of(evidence, ATTEMPTS):
        if record.value is not None:
            attempt = AttemptRecord.model_validate_json(record.value)
            decoded.attempts[attempt.job_id] = attempt


def _of(evidence: Evidence, topic: Topic) -> Iterable[Record]:
    start, parameter, end = topic.name.partition("{site}")
    for name, records in evidence.records.items():
        if name == topic.name or (parameter and name.startswith(start) and name.endswith(end)):
            yield from records


def _collect(decoded: DecodedEvidence, evidence: Evidence, topic: Topic, record: Record) -> None:
    try:
        event = decode(record.value or b"")
    except InvalidEvent:
        decoded.unusable.append(record)
        return
    if not isinstance(event, topic.models) or not _is_signed(event, evidence):
        decoded.unusable.append(record)
    elif record.topic in _DEVICE:
        assert isinstance(event, DeviceEvent)
        decoded.device_events.append(event)
    elif topic is RESULTS:
        assert isinstance(event, JobResultedEvent)
        decoded.results[event.data.job_id].append(event.data)
    elif topic is ORDERS and isinstance(event, JobIssuedEvent):
        decoded.jobs.setdefault(event.data.job.job_id, event.data.job)
    elif topic is ORDERS and isinstance(event, JobSupersededEvent):
        decoded.superseded.add(event.data.job_id)
    elif topic in (ADVISORIES, CONTROL):
        decoded.broadcast_ids.add(event.id)


def _is_signed(event: Event, evidence: Evidence) -> bool:
    if not isinstance(event, JobIssuedEvent):
        return True
    try:
        return verify_job(event.data.signed, evidence.trusted) == event.data.job
    except SignatureError:
        return False


def _latest(records: Iterable[Record]) -> list[Record]:
    """Return the last valid row of each key in each partition.

    A row with a lower epoch than an earlier row of the partition is void: its writer had lost the
    partition.
    """
    rows: dict[tuple[int, bytes | None], Record] = {}
    epochs: dict[int, int] = {}
    for record in records:
        name = (record.partition, record.key)
        if record.value is None:
            rows.pop(name, None)
            continue
        epoch = json.loads(record.value)["e"]
        if epoch < epochs.get(record.partition, 0) and name in rows:
            continue
        rows[name] = record
        epochs[record.partition] = max(epoch, epochs.get(record.partition, 0))
    return list(rows.values())
