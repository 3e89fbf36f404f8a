"""Rows of a list that a request selects: by values of columns, by site, by Macs, since a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Final

from pipeline.embedded import lists
from pipeline.embedded.lists import Row
from pipeline.embedded.mac_names import UnknownMacError, suggestion, udid_of
from pipeline.reconcile.reconciler import Reconciler


class ListName(StrEnum):
    """The name of a list."""

    DEVICES = "devices"
    JOBS = "jobs"
    APPROVALS = "approvals"
    HALTS = "halts"
    FINDINGS = "findings"


class SelectionError(ValueError):
    """A selection names a site, Mac or column that does not exist; the message is for people."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows to select; all without limits by default.

    `values` are wanted values by column; one that is None selects nothing. `macs` are UDIDs, serial
    numbers or host names. `since`, in UTC, is compared with the column `issued_at`.
    """

    values: Mapping[str, str | None] = field(default_factory=dict)
    site: str | None = None
    macs: Sequence[str] = ()
    since: datetime | None = None
    limit: int | None = None


COLUMNS: Final[Mapping[ListName, tuple[str, ...]]] = {
    ListName.DEVICES: lists.DEVICE_COLUMNS,
    ListName.JOBS: lists.JOB_COLUMNS,
    ListName.APPROVALS: lists.APPROVAL_COLUMNS,
    ListName.HALTS: lists.HALT_COLUMNS,
    ListName.FINDINGS: lists.FINDING_COLUMNS,
}
_ROWS: Final[Mapping[ListName, Callable[[Reconciler, datetime], Iterator[Row]]]] = {
    ListName.DEVICES: lambda reconciler, _: lists.device_rows(reconciler),
    ListName.JOBS: lambda reconciler, _: lists.job_rows(reconciler),
    ListName.APPROVALS: lists.approval_rows,
    ListName.HALTS: lambda reconciler, now: lists.halt_rows(reconciler.fleet, now),
    ListName.FINDINGS: lambda reconciler, _: lists.finding_rows(reconciler),
}


def selected_rows(
    name: ListName, reconciler: Reconciler, now: datetime, selection: Selection
) -> Iterator[Row]:
    """Return the selected rows of a list, in its order.

    Raises SelectionError for a column, a site of no policy, or the name of no Mac or of several.
    """
    wanted = {column: value for column, value in selection.values.items() if value is not None}
    if selection.site is not None:
        wanted["site"] = _known_site(reconciler, selection.site)
    since = selection.since
    needed = (*wanted, *(() if since is None else ("issued_at",)))
    for column in (*needed, *(("udid",) if selection.macs else ())):
        if column not in COLUMNS[name]:
            raise SelectionError(f"the list of {name} has no column {column!r}")
    try:
        udids = {udid_of(reconciler.fleet, mac) for mac in selection.macs}
    except UnknownMacError as error:
        raise SelectionError(str(error)) from None
    rows = (
        row
        for row in _ROWS[name](reconciler, now)
        if (not udids or row["udid"] in udids)
        and all(row[column] == value for column, value in wanted.items())
        and (since is None or str(row["issued_at"]) >= since.isoformat())
    )
    return islice(rows, selection.limit)


def _known_site(reconciler: Reconciler, site: str) -> str:
    policy = reconciler.policy
    known = [] if policy is None else [str(one) for one in policy.sites]
    if site not in known:
        hint = suggestion(site, known) or f"; one of: {', '.join(known)}"
        raise SelectionError(f"--site: no {site!r}{hint}")
    return site
