"""Rows of a list that a request selects: by values of columns, by site, by Macs, since a time."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from heapq import nsmallest
from itertools import islice
from typing import Final

from pipeline.embedded import lists
from pipeline.embedded.lists import Item, Row, RowList
from pipeline.embedded.mac_names import UnknownMacError, suggestion, udid_of
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import to_us


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
    numbers or host names. `since`, in UTC, is compared with the column `issued_at`. `after` begins
    a page of the list of Macs: its rows have a UDID that is sorted after this text.
    """

    values: Mapping[str, str | None] = field(default_factory=dict)
    site: str | None = None
    macs: Sequence[str] = ()
    since: datetime | None = None
    limit: int | None = None
    after: str | None = None


_LISTS: Final[Mapping[ListName, RowList]] = {
    ListName.DEVICES: lists.DEVICES,
    ListName.JOBS: lists.JOBS,
    ListName.APPROVALS: lists.APPROVALS,
    ListName.HALTS: lists.HALTS,
    ListName.FINDINGS: lists.FINDINGS,
}
COLUMNS: Final[Mapping[ListName, tuple[str, ...]]] = {
    name: one.columns for name, one in _LISTS.items()
}


def selected_rows(
    name: ListName, reconciler: Reconciler, now: datetime, selection: Selection
) -> Iterator[Row]:
    """Return the selected rows of a list, in its order.

    Raises SelectionError for a column, a site of no policy, the name of no Mac or of several, or a
    page of a list other than that of the Macs.
    """
    listed = _LISTS[name]
    wanted = {column: value for column, value in selection.values.items() if value is not None}
    if selection.site is not None:
        wanted["site"] = _known_site(reconciler, selection.site)
    if selection.after is not None and name is not ListName.DEVICES:
        raise SelectionError(f"the list of {name} has no pages: give no after")
    needed = (
        *wanted,
        *(() if selection.since is None else ("issued_at",)),
        *(("udid",) if selection.macs else ()),
    )
    for column in needed:
        if column not in listed.columns:
            raise SelectionError(f"the list of {name} has no column {column!r}")
    try:
        udids = frozenset(udid_of(reconciler.fleet, mac) for mac in selection.macs)
    except UnknownMacError as error:
        raise SelectionError(str(error)) from None
    late = {column: value for column, value in wanted.items() if column not in listed.values}
    items: Iterable[Item] = filter(
        _keeps(listed, wanted, selection, udids), listed.items(reconciler, now, udids)
    )
    if listed.order is not None and selection.limit is not None and not late:
        items = nsmallest(selection.limit, items, listed.order)
    elif listed.order is not None:
        items = sorted(items, key=listed.order)
    rows = (listed.row(reconciler, item) for item in items)
    selected = (row for row in rows if all(row[name] == value for name, value in late.items()))
    return islice(selected, selection.limit)


def _keeps(
    listed: RowList, wanted: Mapping[str, str], selection: Selection, udids: Collection[str]
) -> Callable[[Item], bool]:
    """Return a function that is True for an item of the selection, as far as an item shows it."""
    early = [
        (listed.values[name], value) for name, value in wanted.items() if name in listed.values
    ]
    since_us = None if selection.since is None else to_us(selection.since)
    after, begin_us = selection.after, listed.begin_us

    def keeps(item: Item) -> bool:
        udid, about = item
        return (
            (not udids or udid in udids)
            and (after is None or udid > after)
            and (since_us is None or begin_us is None or begin_us(about) >= since_us)
            and all(value_of(about) == value for value_of, value in early)
        )

    return keeps


def _known_site(reconciler: Reconciler, site: str) -> str:
    policy = reconciler.policy
    known = [] if policy is None else [str(one) for one in policy.sites]
    if site not in known:
        hint = suggestion(site, known) or f"; one of: {', '.join(known)}"
        raise SelectionError(f"--site: no {site!r}{hint}")
    return site
