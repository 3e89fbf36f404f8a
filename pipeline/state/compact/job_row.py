"""Read stored job histories fast: rows are decoded into structs, not dictionaries."""

import msgspec

from pipeline.state.jobs import JobEntry
from schemas.jobs import Action, Method
from schemas.macos import parse_build, parse_os_version
from schemas.results import ErrorCode, Outcome


class JobRow(msgspec.Struct, gc=False):
    """The decoded form of `JobEntry.to_wire`."""

    job_id: str
    action: Action
    method: Method
    intent: str
    version: str | None
    build: str | None
    generation: int
    issued_us: int
    expires_us: int
    report_by_us: int
    site: str
    erases: bool
    outcome: Outcome | None
    outcome_us: int
    acted_us: int
    error_code: ErrorCode | None
    presumed: bool = False
    known_until_us: int = 0
    reset: bool = False


def entry_of_row(row: JobRow) -> JobEntry:
    """Return the entry of a decoded row, as `JobEntry.from_wire` does.

    Raises ValueError for an invalid version or build.
    """
    version, build = row.version, row.build
    return JobEntry(
        row.job_id,
        row.action,
        row.method,
        row.intent,
        None if version is None else parse_os_version(version),
        None if build is None else parse_build(build),
        row.generation,
        row.issued_us,
        row.expires_us,
        row.report_by_us,
        row.site,
        row.erases,
        row.outcome,
        row.outcome_us,
        row.acted_us,
        row.error_code,
        row.presumed,
        row.known_until_us,
        row.reset,
    )
