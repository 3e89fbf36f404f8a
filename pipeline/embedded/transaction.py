"""`Changes` and the state as rows: `save_changes` and `load_state`."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pipeline.embedded.log import LastDecisionRow, Log
from pipeline.embedded.names import event_names, record_names
from pipeline.embedded.store import Store
from pipeline.embedded.stored_state import StoredState, read_state
from pipeline.reconcile.changes import SOURCE, Changes, Rejection
from pipeline.reconcile.deciding import Sign
from pipeline.reconcile.last_decision import LastDecision
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.advisories import Advisories
from pipeline.state.fleet import Fleet
from runtime.trusted_keys import KeyRing
from schemas.dead_letters import DeadLetter, DeadLetterCode, Problem, make_dead_letter
from schemas.decisions import DecisionRecord
from schemas.envelope import Event
from schemas.ids import clean_text, logged_source
from schemas.routing import event_key

_NO_KEYS: Final = KeyRing()


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
        is_new = log_event(store, event, body, now)
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
    save_state(store, reconciler, changes)
    return new


def log_event(store: Store, event: Event, body: bytes, now: datetime) -> bool:
    """Log an event and return True; return False if the log has its source and id already.

    `body` are its encoded bytes. Call only inside a transaction of the store.
    """
    return store.append_event(
        now,
        source=logged_source(event.sender, event.source),
        identity=event.id,
        kind=event.type,
        key=event_key(event),
        body=body,
        names=event_names(event),
    )


def save_state(store: Store, reconciler: Reconciler, changes: Changes) -> None:
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
    save_catalogue(store, inputs.catalog_digest, fleet.advisories)
    digest = inputs.policy_digest
    if digest is not None and policy is not None:
        save_policy(store, digest, policy.text)


def save_catalogue(store: Store, digest: str, advisories: Advisories) -> None:
    """Write a catalogue under its digest, unless it is stored."""
    if not store.has_blob(digest):
        text = json.dumps(advisories.to_wire(), sort_keys=True, separators=(",", ":"))
        store.put_blob(digest, "catalogue", text.encode())


def save_policy(store: Store, digest: str, text: str) -> None:
    """Write the text of a policy under its digest, unless it is stored."""
    if not store.has_blob(digest):
        store.put_blob(digest, "policy", text.encode())


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
    the Reconciler; without `sign` it can only fold and be read. Of unreadable rows it has what
    `read_state` found instead.
    """
    return reconciler_of(
        read_state(log), sign=sign, trust=trust, sweep_every=sweep_every, fast_paths=fast_paths
    )


def reconciler_of(
    state: StoredState,
    *,
    sign: Sign | None,
    trust: KeyRing,
    sweep_every: timedelta | None,
    fast_paths: bool,
) -> Reconciler:
    """Return the reconciler with a stored state; the options are those of `load_state`."""
    reconciler = Reconciler(
        state.fleet,
        sign=sign,
        job_keys=trust.jobs,
        approval_keys=trust.approvals,
        sweep_every=sweep_every,
        fast_paths=fast_paths,
    )
    reconciler.recount_jobs()
    for udid, last_decision in state.last_decisions:
        reconciler.restore(udid, last_decision)
    return reconciler


def quarantine_rows(store: Store, state: StoredState, now: datetime) -> list[DeadLetter]:
    """Replace the unreadable rows of the state tables; return the dead letters with their bytes.

    Call only inside a transaction of the store.
    """
    letters = []
    fleet, broadcast = state.fleet, state.fleet.broadcast_to_wire()
    for row in state.unreadable:
        if row.table != "log" and row.table != "snapshots":  # noqa: PLR1714 - narrows the type
            store.delete_row(row.table, row.rowid)
        if row.table == "devices" and row.name in fleet.devices:
            store.put_devices([(row.name, _json(fleet.devices[row.name].to_wire()))])
        elif row.table == "job_histories" and row.name in fleet.job_histories:
            history = [entry.to_wire() for entry in fleet.job_histories[row.name]]
            store.put_job_histories([(row.name, _json(history))])
        elif row.table == "settings" and row.name in broadcast:
            store.put_setting(row.name, _json(broadcast[row.name]))
        letters.append(
            make_dead_letter(
                Problem(
                    DeadLetterCode.UNREADABLE, clean_text(row.detail), f"{row.table} {row.rowid}"
                ),
                row.body,
                source=SOURCE,
                origin=clean_text(f"drydock.sqlite/{row.table}/{row.name}"),
                received_at=now,
                redacted=row.body,
            )
        )
    return letters


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
        last_decision.waits_for,
        " ".join(last_decision.findings),
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
