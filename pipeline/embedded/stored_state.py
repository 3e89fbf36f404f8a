"""The state tables of a data directory, read so that no row can prevent a start.

A row that cannot be read is quarantined: it leaves its table and becomes a dead letter `unreadable`
with its bytes. Its content is then folded again from the log, which has every event since the
snapshot at its start. What the log lacks too is unknown until the next report of the Mac.

| table | instead of an unreadable row |
| --- | --- |
| `devices`, `job_histories` | the Mac's state, folded from the log |
| `settings` of the broadcast state | the same; a policy that this version refuses is left out |
| other `settings` | none: a feed is published again, journals are distrusted |
| `last_decisions` | none: the sweep at the start decides the Mac |
| `log`, `snapshots` | none: the row stays, and is left out when events are folded again |

Halts that can be read neither in their row nor in the log halt everything, until an operator
resumes.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, NamedTuple

import msgspec

from pipeline.embedded.control_events import halt_set
from pipeline.embedded.journal_check import SETTING as DOUBTS_SETTING
from pipeline.embedded.journal_check import decode_doubts
from pipeline.embedded.log import START_SETTING, Log
from pipeline.policy.file import read_policy
from pipeline.reconcile.last_decision import LastDecision, shared_codes
from pipeline.state.device import Device, from_us, to_us
from pipeline.state.fleet import Fleet
from pipeline.state.fleet_snapshot import decode_fleet
from pipeline.state.jobs import JobEntry, JobHistory
from schemas.decisions import Reason, Severity, Verdict
from schemas.envelope import HaltSetEvent, decode
from schemas.events.control import HaltScope, PolicyChanged

BROADCAST: Final = ("advisories", "halts", "approvals", "policy", "resets", "identities")
# What reading a stored value can raise. Stored bytes can be anything: a disk error, an operator
# with an SQL shell, another version.
UNREADABLE: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    zlib.error,
    msgspec.MsgspecError,
)


class UnreadableRow(NamedTuple):
    """A row that cannot be read: its table, its rowid, a name for people, its bytes, the error."""

    table: Literal["devices", "job_histories", "settings", "last_decisions", "log", "snapshots"]
    rowid: int
    name: str
    body: bytes
    detail: str


@dataclass(slots=True)
class StoredState:
    """The state of a data directory, and the rows that could not be read.

    `journals_are_doubtful`: the list of journals that may lack orders was lost.
    """

    fleet: Fleet = field(default_factory=Fleet)
    last_decisions: list[tuple[str, LastDecision]] = field(default_factory=list)
    unreadable: list[UnreadableRow] = field(default_factory=list)
    journals_are_doubtful: bool = False


def read_state(log: Log) -> StoredState:
    """Return the state as of the last commit, from the state tables.

    The log is read only if a row of the state cannot be read. An empty data directory gives an
    empty state.
    """
    state = StoredState()
    broadcast = Fleet().broadcast_to_wire()
    broadcast.update(_settings(log, state))
    state.fleet.load_broadcast(broadcast)
    for row in log.rows("devices", "udid"):
        _read(state, "devices", row, lambda udid, raw: _put_device(state.fleet, udid, raw))
    for row in log.rows("job_histories", "udid"):
        _read(state, "job_histories", row, lambda udid, raw: _put_history(state.fleet, udid, raw))
    if any(row.table != "last_decisions" for row in state.unreadable):
        _fold_again(log, state)
    for rowid, values in log.last_decision_rows():
        try:
            state.last_decisions.append(_last_decision(*values))
        except UNREADABLE as error:
            body = repr(values).encode()
            name = str(values[0])
            state.unreadable.append(
                UnreadableRow("last_decisions", rowid, name, body, _detail(error))
            )
    return state


def _read(
    state: StoredState,
    table: Literal["devices", "job_histories"],
    row: tuple[int, str, bytes],
    read: Callable[[str, bytes], None],
) -> None:
    rowid, name, body = row
    try:
        read(name, body)
    except UNREADABLE as error:
        state.unreadable.append(UnreadableRow(table, rowid, name, body, _detail(error)))


def _settings(log: Log, state: StoredState) -> Iterator[tuple[str, Any]]:
    """Yield the name and the JSON value of each setting of the broadcast state that can be read."""
    for rowid, name, packed in log.rows("settings", "name"):
        try:
            raw = zlib.decompress(packed)
            if name in BROADCAST:
                value = json.loads(raw)
                _check_broadcast(name, value)
                yield name, value
            elif name == DOUBTS_SETTING:
                decode_doubts(raw)
            elif name == START_SETTING:
                int(raw)
        except UNREADABLE as error:
            state.unreadable.append(UnreadableRow("settings", rowid, name, packed, _detail(error)))
            state.journals_are_doubtful |= name == DOUBTS_SETTING


def _check_broadcast(name: str, value: Any) -> None:
    """Raise an exception if a part of the broadcast state cannot be loaded."""
    fleet = Fleet()
    fleet.load_broadcast({**fleet.broadcast_to_wire(), name: value})
    _check_policy(fleet.policy)
    for halt in fleet.halts():
        _check_time(halt.until)


def _check_policy(policy: PolicyChanged | None) -> None:
    """Raise PolicyError, a ValueError, for a policy that this version refuses."""
    if policy is not None:
        read_policy(policy.text)


def _check_time(at: datetime | None) -> None:
    if at is not None:
        to_us(at)


def _put_device(fleet: Fleet, udid: str, raw: bytes) -> None:
    device = Device.from_wire(json.loads(raw))
    if device.udid != udid:
        raise ValueError(f"the state of {device.udid!r}")
    _ = device.hardware, device.build, device.newest_us, device.to_wire()
    fleet.put(device)


def _put_history(fleet: Fleet, udid: str, raw: bytes) -> None:
    history: JobHistory = tuple(JobEntry.from_wire(entry) for entry in json.loads(raw))
    for entry in history:
        for us in (entry.issued_us, entry.expires_us, entry.report_by_us, entry.outcome_us):
            from_us(us)
    fleet.job_histories[udid] = history


def _last_decision(udid: str, *row: Any) -> tuple[str, LastDecision]:
    stored = LastDecision(*row)
    for us in (stored.recheck_us, stored.deadline_us):
        from_us(us)
    return udid, stored._replace(
        verdict=Verdict(stored.verdict),
        reason=Reason(stored.reason),
        severity=None if stored.severity is None else Severity(stored.severity),
        recheck_on_telemetry=bool(stored.recheck_on_telemetry),
        waits_for=int(stored.waits_for),
        findings=shared_codes(tuple(row[-1].split())),
    )


def _fold_again(log: Log, state: StoredState) -> None:
    """Put the values of unreadable rows into the state, as the log gives them."""
    folded, is_whole = _folded(log, state)
    fleet = state.fleet
    lost = {(row.table, row.name) for row in state.unreadable}
    settings = {name for table, name in lost if table == "settings" and name in BROADCAST}
    if settings:
        wire = folded.broadcast_to_wire()
        present = fleet.broadcast_to_wire()
        replaced = Fleet()
        replaced.load_broadcast({**present, **{name: wire[name] for name in settings}})
        try:
            _check_policy(replaced.policy)
        except UNREADABLE:
            replaced = Fleet()
            wire["policy"] = None
            replaced.load_broadcast({**present, **{name: wire[name] for name in settings}})
        for device in fleet.devices.values():
            replaced.put(device)
        replaced.job_histories.update(fleet.job_histories)
        state.fleet = fleet = replaced
    for table, name in lost:
        if table == "devices" and name in folded.devices:
            fleet.put(folded.devices[name])
        elif table == "job_histories" and name in folded.job_histories:
            fleet.job_histories[name] = folded.job_histories[name]
    if "halts" in settings and not is_whole:
        fleet.apply(_halt_of_everything())


def _folded(log: Log, state: StoredState) -> tuple[Fleet, bool]:
    """Return the fleet that the log gives, and True if every entry of the log could be read."""
    fleet, start, is_whole = Fleet(), log.start_seq(), True
    if start:
        try:
            fleet = decode_fleet(log.snapshot(start) or b"")
        except UNREADABLE as error:
            is_whole = False
            state.unreadable.append(UnreadableRow("snapshots", start, "", b"", _detail(error)))
    for row in log.entries(kind="event", after=start):
        try:
            fleet.apply(decode(row.body))
        except UNREADABLE as error:
            is_whole = False
            state.unreadable.append(UnreadableRow("log", row.seq, row.id, row.body, _detail(error)))
    return fleet, is_whole


def _halt_of_everything() -> HaltSetEvent:
    # Older than any act of an operator, so that `drydock resume all` ends it.
    at = datetime(2015, 1, 1, tzinfo=UTC)
    return halt_set(
        HaltScope(everything=True), "drydock", "the halts in force cannot be read", None, at
    )


def _detail(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]
