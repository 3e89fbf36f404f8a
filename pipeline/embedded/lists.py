"""The lists of Macs, jobs, approvals, halts and findings, from the state of a service.

A list has items in an order, and makes a row of an item. An item is found without the Mac's state;
a row joins that of one Mac. So a selection by the columns of the item visits each item, and joins
the states of the selected Macs only.

A row is a mapping of column names to texts, numbers or None; all rows of a list have its columns,
in this order. Times are ISO 8601 in UTC.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from pipeline.reconcile.last_decision import LastDecision
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import from_us
from pipeline.state.jobs import JobEntry
from schemas.decisions import Reason
from schemas.events.control import ApprovalGranted, HaltSet

Row = dict[str, str | int | None]
Value = str | int | None

OPEN: Final = "open"


class Item(NamedTuple):
    """An entry of a list: what it is about, and the key of its Mac; empty for none."""

    udid: str
    about: Any


@dataclass(frozen=True, slots=True)
class RowList:
    """A list: its columns, its items in their order or with a key of it, and the row of an item.

    `values` are the columns of an item that need no state of its Mac, `begin_us` is the time of its
    begin, in us since 1970, if it has one. `items` gets the UDIDs whose items are needed; none for
    those of all Macs.
    """

    columns: tuple[str, ...]
    items: Callable[[Reconciler, datetime, frozenset[str]], Iterable[Item]]
    row: Callable[[Reconciler, Item], Row]
    values: Mapping[str, Callable[[Any], Value]] = field(default_factory=dict)
    begin_us: Callable[[Any], int] | None = None
    order: Callable[[Item], Any] | None = None


def _device_items(reconciler: Reconciler, _: datetime, udids: frozenset[str]) -> Iterator[Item]:
    """Yield the Macs by UDID, each with its last decision; None before the first."""
    last_decisions = reconciler.last_decisions
    for udid in _sorted_macs(reconciler, udids):
        yield Item(udid, last_decisions.get(udid))


def _sorted_macs(reconciler: Reconciler, udids: frozenset[str]) -> list[str]:
    """Return these Macs, or all; a forgotten one is left out."""
    fleet = reconciler.fleet
    return sorted({one for one in udids if not fleet.is_forgotten(one)} if udids else fleet.macs())


def _device_row(reconciler: Reconciler, item: Item) -> Row:
    last: LastDecision | None = item.about
    device = reconciler.fleet.merged_device(item.udid)
    version, build = device.os_version, device.build
    return {
        **_names(reconciler, item.udid),
        "os_version": None if version is None else str(version),
        "build": None if build is None else str(build),
        "model": device.model,
        "decision": _verdict(last),
        "reason": _reason(last),
        "severity": _severity(last),
        "deadline_at": None if last is None else _time(last.deadline_us),
        "findings": None if last is None else " ".join(last.findings) or None,
    }


def _job_items(reconciler: Reconciler, _: datetime, udids: frozenset[str]) -> Iterator[Item]:
    """Yield the known jobs, in any order."""
    histories = reconciler.fleet.job_histories
    for udid in udids or histories:
        for entry in histories.get(udid, ()):
            yield Item(udid, entry)


def _newest_first(item: Item) -> tuple[int, str]:
    entry: JobEntry = item.about
    return -entry.issued_us, entry.job_id


def _job_row(reconciler: Reconciler, item: Item) -> Row:
    entry: JobEntry = item.about
    return {
        "job_id": entry.job_id,
        **_names(reconciler, item.udid),
        "site": entry.site,
        "action": entry.action.value,
        "method": entry.method.value,
        "target": None if entry.version is None else str(entry.version),
        "issued_at": _time(entry.issued_us),
        "outcome": _outcome(entry),
        "outcome_at": _time(entry.outcome_us),
        "error": _error(entry),
    }


def _approval_items(reconciler: Reconciler, now: datetime, udids: frozenset[str]) -> Iterator[Item]:
    """Yield the Macs that wait for an approval, as None, then the approvals in force."""
    waiting = [
        udid
        for udid, last in reconciler.last_decisions.items()
        if last.reason is Reason.AWAITING_APPROVAL
    ]
    for udid in sorted(waiting):
        yield Item(udid, None)
    for udid in _sorted_macs(reconciler, udids):
        for granted in reconciler.fleet.approvals(udid):
            if granted.approval.expires_at > now:
                yield Item(udid, granted)


def _approval_row(reconciler: Reconciler, item: Item) -> Row:
    names = _names(reconciler, item.udid)
    granted: ApprovalGranted | None = item.about
    if granted is None:
        nothing: Row = dict.fromkeys(("job_id", "by", "why", "expires_at"))
        return {"state": "waiting", **names, **nothing}
    approval = granted.approval
    return {
        "state": "granted",
        **names,
        "job_id": approval.job_id,
        "by": approval.by,
        "why": approval.why,
        "expires_at": approval.expires_at.isoformat(),
    }


def _halt_items(reconciler: Reconciler, now: datetime, _: frozenset[str]) -> Iterator[Item]:
    """Yield the halts in force, by scope."""
    for halt in reconciler.fleet.halts_in_force(now):
        yield Item("", halt)


def _halt_row(_: Reconciler, item: Item) -> Row:
    halt: HaltSet = item.about
    until = None if halt.until is None else halt.until.isoformat()
    return {"scope": halt.scope.key, "by": halt.by, "why": halt.why or None, "until": until}


def _finding_items(reconciler: Reconciler, _: datetime, __: frozenset[str]) -> Iterator[Item]:
    """Yield the findings of the Macs, by code, each with its site."""
    last_decisions = reconciler.last_decisions
    found = [(code, udid) for udid, last in last_decisions.items() for code in last.findings]
    for code, udid in sorted(found):
        yield Item(udid, (code, last_decisions[udid].site))


def _finding_row(reconciler: Reconciler, item: Item) -> Row:
    return {"finding": item.about[0], **_names(reconciler, item.udid)}


def _names(reconciler: Reconciler, udid: str) -> Row:
    device = reconciler.fleet.merged_device(udid)
    last = reconciler.last_decisions.get(udid)
    return {
        "udid": udid,
        "serial": device.serial,
        "hostname": device.hostname,
        "site": _site(last),
    }


def _site(last: LastDecision | None) -> Value:
    return None if last is None else last.site


def _verdict(last: LastDecision | None) -> Value:
    return None if last is None else last.verdict.value


def _reason(last: LastDecision | None) -> Value:
    return None if last is None else last.reason.value


def _severity(last: LastDecision | None) -> Value:
    return None if last is None or last.severity is None else last.severity.value


def _outcome(entry: JobEntry) -> Value:
    """Return the outcome; OPEN without one. An open job whose executor reported has that one."""
    return OPEN if entry.outcome is None else entry.outcome.value


def _error(entry: JobEntry) -> Value:
    return None if entry.error_code is None else entry.error_code.value


def _time(us: int) -> str | None:
    return from_us(us).isoformat() if us else None


DEVICES: Final = RowList(
    (
        *("udid", "serial", "hostname", "site", "os_version", "build", "model"),
        *("decision", "reason", "severity", "deadline_at", "findings"),
    ),
    _device_items,
    _device_row,
    {"site": _site, "decision": _verdict, "reason": _reason, "severity": _severity},
)
JOBS: Final = RowList(
    (
        *("job_id", "udid", "serial", "hostname", "site", "action", "method", "target"),
        *("issued_at", "outcome", "outcome_at", "error"),
    ),
    _job_items,
    _job_row,
    {
        "site": lambda entry: entry.site,
        "action": lambda entry: entry.action.value,
        "method": lambda entry: entry.method.value,
        "outcome": _outcome,
        "error": _error,
    },
    lambda entry: entry.issued_us,
    _newest_first,
)
APPROVALS: Final = RowList(
    ("state", "udid", "serial", "hostname", "site", "job_id", "by", "why", "expires_at"),
    _approval_items,
    _approval_row,
)
HALTS: Final = RowList(("scope", "by", "why", "until"), _halt_items, _halt_row)
FINDINGS: Final = RowList(
    ("finding", "udid", "serial", "hostname", "site"),
    _finding_items,
    _finding_row,
    {"finding": lambda about: about[0], "site": lambda about: about[1]},
)
