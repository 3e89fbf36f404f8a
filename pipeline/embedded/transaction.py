"""The work of one transaction, and the state as rows: `Transaction.save` and `load_state`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pipeline.embedded.log import LastDecisionRow, Log
from pipeline.embedded.store import Store
from pipeline.reconcile.last_decision import LastDecision
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import Device
from pipeline.state.fleet import Fleet
from pipeline.state.jobs import JobEntry
from schemas.dead_letters import DeadLetter
from schemas.decisions import DecisionRecord, Reason, Severity, Verdict
from schemas.envelope import (
    AdvisoryEvent,
    DeviceEvent,
    Event,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
)
from schemas.routing import device_key

_SETTINGS: Final = ("advisories", "halts", "approvals", "policy")


@dataclass(frozen=True, slots=True)
class Committed:
    """One committed transaction, for observers: metrics, logs, a live view.

    `at` is the `now` of the transaction. `events` are the new events and those that followed from
    them, in the log's order; `duplicates` are events that were in the log already.
    """

    at: datetime
    events: tuple[Event, ...]
    decisions: tuple[DecisionRecord, ...]
    dead_letters: tuple[DeadLetter, ...]
    duplicates: tuple[Event, ...]


@dataclass(slots=True)
class Transaction:
    """The work of one open transaction.

    The dicts are ordered sets of keys to save: rows are written in the order of their events.
    """

    now: datetime
    events: list[Event] = field(default_factory=list)
    decisions: list[DecisionRecord] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    duplicates: list[Event] = field(default_factory=list)
    devices: dict[str, None] = field(default_factory=dict)
    job_histories: dict[str, None] = field(default_factory=dict)
    last_decisions: dict[str, None] = field(default_factory=dict)
    settings: dict[str, None] = field(default_factory=dict)

    def committed(self) -> Committed:
        """Return an immutable copy of the transaction's work, for observers."""
        return Committed(
            self.now,
            tuple(self.events),
            tuple(self.decisions),
            tuple(self.dead_letters),
            tuple(self.duplicates),
        )

    def save(self, store: Store, reconciler: Reconciler) -> None:
        """Write the rows that changed: devices, job histories, last decisions, settings.

        Also deletes the last decisions that the reconciler dropped, and clears its list of them.
        Call only inside a transaction of the store.
        """
        fleet = reconciler.fleet
        store.put_devices((udid, _json(fleet.devices[udid].to_wire())) for udid in self.devices)
        store.put_job_histories(
            (udid, _json([entry.to_wire() for entry in fleet.job_histories[udid]]))
            for udid in self.job_histories
        )
        store.delete_last_decisions(reconciler.dropped_decisions)
        reconciler.dropped_decisions.clear()
        store.put_last_decisions(
            (udid, *_encode_row(reconciler.last_decisions[udid]))
            for udid in self.last_decisions
            if udid in reconciler.last_decisions
        )
        if "advisories" in self.settings:
            store.put_setting("advisories", _json(fleet.advisories.to_wire()))
        others = [name for name in self.settings if name != "advisories"]
        if others:
            wire = fleet.broadcast_to_wire()
            for name in others:
                store.put_setting(name, _json(wire[name]))


def load_state(log: Log, *, fast_paths: bool = True) -> Reconciler:
    """Return the reconciler as of the last commit, from the state tables without a replay.

    An empty data directory gives an empty reconciler without a policy.
    """
    fleet = Fleet()
    settings = {name: log.setting(name) for name in _SETTINGS}
    empty = fleet.broadcast_to_wire()
    fleet.load_broadcast(
        {name: empty[name] if raw is None else json.loads(raw) for name, raw in settings.items()}
    )
    for _, body in log.devices():
        fleet.put(Device.from_wire(json.loads(body)))
    for udid, body in log.job_histories():
        fleet.job_histories[udid] = tuple(JobEntry.from_wire(entry) for entry in json.loads(body))
    reconciler = Reconciler(fleet, fast_paths=fast_paths)
    reconciler.recount_jobs()
    for udid, last_decision in _read_last_decisions(log):
        reconciler.restore(udid, last_decision)
    return reconciler


def key_of(event: Event) -> str:
    """Return the log key of an event: the UDID of its Mac, or the event's subject.

    The key of a report without a UDID is `serial:` and the serial number, if it has one.
    """
    if isinstance(event, JobIssuedEvent):
        return event.data.job.udid
    if isinstance(event, JobResultedEvent | JobSupersededEvent):
        return event.data.udid
    return device_key(event) if isinstance(event, DeviceEvent) else event.subject


def setting_of(event: Event) -> str | None:
    """Return the name of the setting that the event changes; None if it changes none.

    The names are `advisories`, `policy`, `halts` and `approvals`.
    """
    if isinstance(event, AdvisoryEvent):
        return "advisories"
    family = event.type.split(".")[1]
    return {"policy": "policy", "halt": "halts", "approval": "approvals"}.get(family)


def _read_last_decisions(log: Log) -> Iterator[tuple[str, LastDecision]]:
    for udid, *row in log.last_decisions():
        stored = LastDecision(*row)
        yield (
            udid,
            stored._replace(
                verdict=Verdict(stored.verdict),
                reason=Reason(stored.reason),
                severity=None if stored.severity is None else Severity(stored.severity),
                recheck_on_telemetry=bool(stored.recheck_on_telemetry),
                waits_for_capacity=bool(stored.waits_for_capacity),
            ),
        )


def _encode_row(last_decision: LastDecision) -> LastDecisionRow:
    severity = None if last_decision.severity is None else last_decision.severity.value
    row: LastDecisionRow = last_decision._replace(
        verdict=last_decision.verdict.value,  # type: ignore[arg-type]
        reason=last_decision.reason.value,  # type: ignore[arg-type]
        severity=severity,  # type: ignore[arg-type]
    )
    return row


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
