"""The attempts of one partition, folded from the records of its changelog. Pure.

The newest record of a job decides. If it is unreadable, the history of that job is unknown: the
newest readable one is kept, but an order may have been given since.
"""

import json
from collections import deque
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter, ValidationError

from agents.journal_entry import JournalEntry, Phase
from schemas.attempts import PRE_RELEASE_KEYS, AttemptRecord
from schemas.dead_letters import DeadLetterCode
from schemas.model import has_any_key

_ENTRY: Final = TypeAdapter(JournalEntry)
# Most changelogs are long, so only the last records of each job are kept and parsed.
_KEPT_VERSIONS: Final = 4


@dataclass(frozen=True, slots=True)
class UnreadableAttempt:
    """A record of the changelog that is no attempt, with the reason as for a dead letter.

    It is the newest record of its key. `job_id` is its key, None if that is no text.
    """

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    detail: str
    where: str = "$"
    code: DeadLetterCode = DeadLetterCode.UNREADABLE

    @property
    def job_id(self) -> str | None:
        """The job of the record."""
        return _text(self.key)


@dataclass(frozen=True, slots=True)
class Attempts:
    """The newest readable record of each job, by job id, and the unreadable newest records.

    `is_whole` is False if records were deleted from the changelog. `newest_ms` is the broker's time
    of the newest record, in milliseconds since 1970, -1 without one.
    """

    records: dict[str, AttemptRecord]
    unreadable: tuple[UnreadableAttempt, ...] = ()
    is_whole: bool = True
    newest_ms: int = -1

    @property
    def doubted(self) -> frozenset[str]:
        """Ids of the jobs whose newest record is unreadable."""
        return frozenset(each.job_id for each in self.unreadable if each.job_id is not None)


class PreReleaseError(Exception):
    """The changelog was written before release 0.1.0, whose records are not read."""


class AttemptFold:
    """Fold of the records of one partition, in the order of their offsets."""

    def __init__(self, topic: str, partition: int) -> None:
        self._topic = topic
        self._partition = partition
        self._newest_ms = -1
        self._found: dict[bytes, deque[tuple[int, bytes]]] = {}

    def add(self, offset: int, key: bytes | None, value: bytes | None, broker_ms: int) -> None:
        """Fold one record. The value None deletes the job."""
        self._newest_ms = max(self._newest_ms, broker_ms)
        # Removed first: jobs are in the order of their newest records.
        versions = self._found.pop(key or b"", None) or deque(maxlen=_KEPT_VERSIONS)
        if value is not None:
            versions.append((offset, value))
            self._found[key or b""] = versions

    def attempts(self, *, is_whole: bool) -> Attempts:
        """Return the attempts after the records so far.

        Raises PreReleaseError if no record is readable and one is from before release 0.1.0.
        """
        records: dict[str, AttemptRecord] = {}
        unreadable = []
        for key, versions in self._found.items():
            for age, (offset, value) in enumerate(reversed(versions)):
                try:
                    record = parse_attempt(key, value)
                except ValueError as error:
                    if age == 0:
                        unreadable.append(self._unreadable(offset, key, value, error))
                else:
                    records[record.job_id] = record
                    break
        if not records and any(has_any_key(one.value, PRE_RELEASE_KEYS) for one in unreadable):
            raise PreReleaseError
        return Attempts(records, tuple(unreadable), is_whole, self._newest_ms)

    def _unreadable(
        self, offset: int, key: bytes, value: bytes, error: ValueError
    ) -> UnreadableAttempt:
        detail = _reason(error)
        return UnreadableAttempt(self._topic, self._partition, offset, key, value, detail)


def parse_attempt(key: bytes, value: bytes) -> AttemptRecord:
    """Return the attempt in a record of the changelog.

    Raises ValueError if the value is no attempt of the job `key`, if a live attempt has no entry of
    that job, or if it is from before release 0.1.0.
    """
    if has_any_key(value, PRE_RELEASE_KEYS):
        raise ValueError("from before release 0.1.0")
    record = AttemptRecord.model_validate_json(value)
    jobs = {_text(key), *(each.result.job_id for each in record.results)}
    if record.entry is not None and record.live:
        entry = _ENTRY.validate_json(json.dumps(record.entry))
        jobs.add(entry.job.job_id)
        if entry.phase is Phase.DONE or entry.job.udid != record.udid:
            raise ValueError("the entry is not of this live attempt")
    elif record.live:
        raise ValueError("a live attempt without an entry")
    if jobs != {record.job_id}:
        raise ValueError("the record has parts of another job")
    return record


def _text(key: bytes) -> str | None:
    try:
        return key.decode() or None
    except UnicodeDecodeError:
        return None


def _reason(error: ValueError) -> str:
    """Return the error without the input, which can be long."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return f"{first['msg']} at {'.'.join(map(str, first['loc'])) or '$'}"
