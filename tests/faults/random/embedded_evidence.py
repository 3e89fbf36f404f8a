"""The evidence of one data directory, in the form in which the checker of chaos reads topics."""

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from pipeline.embedded.log import FILE, Log
from schemas.attempts import AttemptRecord, RecordedResult
from schemas.dead_letters import DeadLetter
from schemas.envelope import JobIssuedEvent, JobSupersededEvent, decode
from schemas.jobs import Job
from schemas.results import JobResult
from schemas.topics import DEAD_LETTERS, DECISIONS, ORDERS, STATE, attempts_topic
from tests.chaos.evidence import Input, PartitionId, Record
from tests.factories import topic_of

Records = dict[str, list[Record]]


def read_records(data_dir: Path) -> Records:
    """Return the log, the state and the journals as records by topic. No service may run."""
    records: Records = defaultdict(list)

    def add(topic: str, key: str, value: bytes) -> None:
        some = records[topic]
        some.append(Record(topic, 0, len(some), key.encode(), value))

    with Log.open(data_dir) as log:
        for row in log.entries():
            add(DECISIONS.name if row.kind == "decision" else _topic(row.body), row.key, row.body)
        for letter in log.dead_letters():
            add(DEAD_LETTERS.name, letter.origin, letter.body)
        jobs = {udid: json.loads(body) for udid, body in log.job_histories()}
        for udid, body in log.devices():
            row_of = {"e": 1, "device": json.loads(body), "jobs": jobs.pop(udid, [])}
            add(STATE.name, udid, json.dumps(row_of).encode())
        for udid, history in jobs.items():
            left = {"e": 1, "device": None, "jobs": history}
            add(STATE.name, udid, json.dumps(left).encode())
    for path in journal_files(data_dir):
        topic = attempts_topic(path.stem)
        for attempt in _attempts(path):
            add(topic, attempt.job_id, attempt.model_dump_json(exclude_none=True).encode())
    return records


def is_empty(data_dir: Path) -> bool:
    """Return True if the database has no table: all of it was in a WAL file that is gone."""
    with closing(sqlite3.connect(f"{(data_dir / FILE).as_uri()}?mode=ro", uri=True)) as db:
        (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    return not tables


def journal_files(data_dir: Path) -> list[Path]:
    """Return the files of the executors' journals."""
    return sorted((data_dir / "journals").glob("*.sqlite"))


def ends_of(records: Records) -> dict[PartitionId, int]:
    """Return the end of each topic: one process has no offsets that it could fall behind with."""
    return {PartitionId(topic, 0): len(some) for topic, some in records.items()}


def issued_jobs(records: Records) -> dict[str, Job]:
    """Return the issued jobs by id."""
    events = (decode(record.value or b"") for record in records.get(ORDERS.name, ()))
    return {
        event.data.job.job_id: event.data.job
        for event in events
        if isinstance(event, JobIssuedEvent)
    }


def _topic(body: bytes) -> str:
    event = decode(body)
    if isinstance(event, JobIssuedEvent | JobSupersededEvent):
        return ORDERS.name
    return topic_of(event)


def _attempts(path: Path) -> Iterator[AttemptRecord]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
        results: dict[str, list[RecordedResult]] = defaultdict(list)
        for job_id, at, text, published in db.execute(
            "SELECT job_id, datetime(at_us / 1000000, 'unixepoch'), result, published FROM outbox"
        ):
            result = JobResult.model_validate_json(text)
            results[job_id].append(
                RecordedResult.model_validate(
                    {"at": f"{at}Z", "published": bool(published), "result": result}
                )
            )
        for job_id, udid, expires_at, live in db.execute(
            "SELECT job_id, udid, datetime(expires_us / 1000000, 'unixepoch'), live FROM jobs"
        ):
            yield AttemptRecord.model_validate(
                {
                    "job_id": job_id,
                    "udid": udid,
                    "expires_at": f"{expires_at}Z",
                    "live": bool(live),
                    "results": tuple(results[job_id]),
                }
            )


def logged_inputs(data_dir: Path) -> set[Input]:
    """Return the events and the unusable bodies that a data directory has."""
    if is_empty(data_dir):
        return set()
    with Log.open(data_dir) as log:
        events = {Input("event", row.id) for row in log.entries(kind="event")}
        letters = [DeadLetter.model_validate_json(letter.body) for letter in log.dead_letters()]
    return events | {Input("poison", letter.raw_sha256) for letter in letters}
