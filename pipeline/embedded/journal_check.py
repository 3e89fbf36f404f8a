"""Check that the journals of the executors belong to this database and have every job. Pure.

A journal that lacks a job of which it reported a result was lost, or is an older copy. A database
file that is a copy is older than the Macs, with any journals. In each case orders may have
been given that no journal has: the executors then examine each Mac before an order
(`agents.first_order`), and erasing jobs need new approvals.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from pipeline.state.device import from_us
from pipeline.state.jobs import JobEntry, JobHistory
from schemas.jobs import Job
from schemas.results import Outcome

SETTING: Final = "journals"
# The sites whose journal the last start could not read, as a JSON list of names.
UNREADABLE_SETTING: Final = "unreadable_journals"


class Cause(StrEnum):
    """The reason why a journal may lack orders."""

    LOST = "lost"  # it lacks a job of which it reported a result
    OLDER = "older"  # it has such a job without its order
    COPIED = "copied"  # the database file is a copy


@dataclass(frozen=True, slots=True)
class Doubt:
    """A journal that may lack orders: since when this is known, and the cause.

    Jobs that were issued before `at` are doubtful.
    """

    site: str
    at: datetime
    cause: Cause


def find_doubts(
    histories: Mapping[str, JobHistory],
    known: Mapping[str, frozenset[str]],
    untouched: Iterable[Job],
    earlier: Iterable[Doubt],
    now: datetime,
) -> Iterator[Doubt]:
    """Yield each site whose journal lacks what it reported, once.

    `known` are the ids of the jobs in each site's journal; `untouched` are the jobs that a journal
    has without an order. Jobs that were issued before an `earlier` doubt of their site are left
    out.
    """
    doubted_until = {doubt.site: doubt.at for doubt in earlier}
    without_order = {job.job_id for job in untouched}
    found: set[str] = set()
    for history in histories.values():
        for entry in history:
            until = doubted_until.get(entry.site)
            if entry.site in found or not _was_reported(entry):
                continue
            if until is not None and from_us(entry.issued_us) < until:
                continue
            if entry.job_id not in known.get(entry.site, frozenset()):
                found.add(entry.site)
                yield Doubt(entry.site, now, Cause.LOST)
            elif entry.may_have_touched and entry.job_id in without_order:
                found.add(entry.site)
                yield Doubt(entry.site, now, Cause.OLDER)


def count_doubtful(histories: Iterable[JobHistory], doubts: Iterable[Doubt]) -> dict[str, int]:
    """Return the number of open jobs by site that were issued before a doubt of their site."""
    until = {doubt.site: doubt.at for doubt in doubts}
    found = dict.fromkeys(sorted(until), 0)
    for history in histories:
        for entry in history:
            at = until.get(entry.site)
            if at is not None and entry.is_open and from_us(entry.issued_us) < at:
                found[entry.site] += 1
    return found


def encode_doubts(doubts: Iterable[Doubt]) -> bytes:
    """Return the doubts as the bytes of the setting."""
    rows = [asdict(doubt) | {"at": doubt.at.isoformat()} for doubt in doubts]
    return json.dumps(rows).encode()


def decode_doubts(raw: bytes | None) -> list[Doubt]:
    """Return the doubts of the setting, at most one for each site; none without a setting."""
    return [
        Doubt(row["site"], datetime.fromisoformat(row["at"]), Cause(row["cause"]))
        for row in json.loads(raw or b"[]")
    ]


def _was_reported(entry: JobEntry) -> bool:
    """Return True if the executor reported a result of the job.

    False if the outcome may be inferred: a presumed end, or a success without an act.
    """
    if entry.outcome is None or entry.presumed:
        return False
    return entry.outcome is not Outcome.SUCCEEDED or bool(entry.acted_us)
