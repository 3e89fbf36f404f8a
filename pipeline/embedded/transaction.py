"""`Changes` and the state as rows: `save_changes` and `load_state`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pipeline.embedded.log import LastDecisionRow, Log
from pipeline.embedded.names import event_names, record_names
from pipeline.embedded.store import Store
from pipeline.reconcile.changes import Changes, Rejection
from pipeline.reconcile.deciding import Sign
from pipeline.reconcile.last_decision import LastDecision, shared_codes
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import Device
from pipeline.state.fleet import Fleet
from pipeline.state.jobs import JobEntry
from runtime.trusted_keys import KeyRing
from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.decisions import DecisionRecord, Reason, Severity, Verdict
from schemas.envelope import Event
from schemas.routing import event_key

_NO_KEYS: Final = KeyRing()
_SETTINGS: Final = ("advisories", "halts", "approvals", "policy", "resets", "identities")


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


def save_changes(
    store: Store, reconciler: Reconciler, changes: Changes, now: datetime
) -> list[Event]:
    """Write all changes except the rejections; return the events that were new in the log.

    The log gets the inputs in their order, then the decisions and derived events in theirs. Call
    only inside a transaction of the store. A derived event whose id the log has with other content
    is added to the rejections: an executor would never get such a job.
    """
    new: list[Event] = []

    def append(event: Event, body: bytes) -> bool:
        is_new = store.append_event(
            now,
            source=logged_source(event),
            identity=event.id,
            kind=event.type,
            key=event_key(event),
            body=body,
            names=event_names(event),
        )
        if is_new:
            new.append(event)
        return is_new

    for one in changes.inputs:
        append(one.event, one.raw)
    for key, body, value in changes.records:
        if isinstance(value, DecisionRecord):
            _save_blobs(store, reconciler.fleet, value)
            store.append_decision(now, key, body, record_names(value))
        else:
            is_known = append(value, body) or store.event_body(value.source, value.id) == body
            if not is_known:
                detail = f"{value.type} {value.id} is in the log with other content"
                changes.rejections.append(Rejection(body, DeadLetterCode.BUG, detail, "", value))
    _save_state(store, reconciler, changes)
    return new


def logged_source(event: Event) -> str:
    """Return the source under which the log knows an event.

    With its sender: otherwise one sender could use the id of another one's next event, which would
    then count as a repeat and change nothing.
    """
    return event.source if event.sender is None else f"{event.sender} {event.source}"


def _save_state(store: Store, reconciler: Reconciler, changes: Changes) -> None:
    """Write the rows that changed: devices, job histories, last decisions, settings."""
    fleet, last_decisions = reconciler.fleet, reconciler.last_decisions
    store.put_devices(
        (udid, _json(fleet.devices[udid].to_wire())) for udid in changes.devices | changes.telemetry
    )
    store.put_job_histories(
        (udid, _json([entry.to_wire() for entry in fleet.job_histories[udid]]))
        for udid in changes.job_histories
    )
    store.delete_last_decisions(
        udid for udid in changes.last_decisions if udid not in last_decisions
    )
    store.put_last_decisions(
        (udid, *_encode_row(last_decisions[udid]))
        for udid in changes.last_decisions
        if udid in last_decisions
    )
    if "advisories" in changes.broadcast:
        store.put_setting("advisories", _json(fleet.advisories.to_wire()))
    others = [name for name in changes.broadcast if name != "advisories"]
    if others:
        wire = fleet.broadcast_to_wire()
        for name in others:
            store.put_setting(name, _json(wire[name]))


def _save_blobs(store: Store, fleet: Fleet, record: DecisionRecord) -> None:
    """Write the catalogue and the policy that the record names by digest, unless they are stored.

    All decisions of one `Changes` are made by the fleet's present catalogue and policy.
    """
    inputs, policy = record.inputs, fleet.policy
    if not store.has_blob(inputs.catalog_digest):
        text = json.dumps(fleet.advisories.to_wire(), sort_keys=True, separators=(",", ":"))
        store.put_blob(inputs.catalog_digest, "catalogue", text.encode())
    digest = inputs.policy_digest
    if digest is not None and policy is not None and not store.has_blob(digest):
        store.put_blob(digest, "policy", policy.text.encode())


def load_state(
    log: Log,
    *,
    sign: Sign | None = None,
    trust: KeyRing = _NO_KEYS,
    sweep_every: timedelta | None = None,
    fast_paths: bool = True,
) -> Reconciler:
    """Return the reconciler as of the last commit, from the state tables without a replay.

    An empty data directory gives an empty reconciler without a policy. The options are those of
    the Reconciler; without `sign` it can only fold and be read.
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
    reconciler = Reconciler(
        fleet,
        sign=sign,
        job_keys=trust.jobs,
        approval_keys=trust.approvals,
        sweep_every=sweep_every,
        fast_paths=fast_paths,
    )
    reconciler.recount_jobs()
    for udid, last_decision in _read_last_decisions(log):
        reconciler.restore(udid, last_decision)
    return reconciler


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
                findings=shared_codes(tuple(row[-1].split())),
            ),
        )


def _encode_row(last_decision: LastDecision) -> LastDecisionRow:
    severity = last_decision.severity
    return (
        last_decision.fingerprint,
        last_decision.verdict.value,
        last_decision.reason.value,
        last_decision.recheck_us,
        last_decision.site,
        None if severity is None else severity.value,
        last_decision.deadline_us,
        last_decision.recheck_on_telemetry,
        last_decision.waits_for_capacity,
        " ".join(last_decision.findings),
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
