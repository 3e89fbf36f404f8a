"""One transaction's work, and the state as rows: what changed is written, what is there loaded."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pipeline.decide.engine import Engine
from pipeline.decide.standing import Standing
from pipeline.embedded.log import Log, StandingRow
from pipeline.embedded.store import Store
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

_FACTS: Final = ("advisories", "halts", "approvals", "policy")


@dataclass(frozen=True, slots=True)
class Committed:
    """What one transaction made durable, for whoever watches: metrics, logs, a live view.

    `events` are those that were new, with those that followed from them, in the log's order;
    `repeated` are events that were in the log already.
    """

    at: datetime
    events: tuple[Event, ...]
    decisions: tuple[DecisionRecord, ...]
    dead_letters: tuple[DeadLetter, ...]
    repeated: tuple[Event, ...]


@dataclass(slots=True)
class Unit:
    """The work of one transaction so far. Dicts are ordered sets: rows keep one order."""

    now: datetime
    events: list[Event] = field(default_factory=list)
    decisions: list[DecisionRecord] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    repeated: list[Event] = field(default_factory=list)
    devices: dict[str, None] = field(default_factory=dict)
    ledgers: dict[str, None] = field(default_factory=dict)
    standings: dict[str, None] = field(default_factory=dict)
    facts: dict[str, None] = field(default_factory=dict)

    def committed(self) -> Committed:
        """What is now durable."""
        return Committed(
            self.now,
            tuple(self.events),
            tuple(self.decisions),
            tuple(self.dead_letters),
            tuple(self.repeated),
        )

    def save(self, store: Store, engine: Engine) -> None:
        """Write the state that changed; nothing else is touched."""
        fleet = engine.fleet
        store.put_devices((udid, _json(fleet.devices[udid].to_wire())) for udid in self.devices)
        store.put_ledgers(
            (udid, _json([entry.to_wire() for entry in fleet.ledgers[udid]]))
            for udid in self.ledgers
        )
        store.drop_standings(engine.forgotten)
        engine.forgotten.clear()
        store.put_standings(
            (udid, *_row(engine.standings[udid]))
            for udid in self.standings
            if udid in engine.standings
        )
        if "advisories" in self.facts:
            store.put_fact("advisories", _json(fleet.advisories.to_wire()))
        others = [name for name in self.facts if name != "advisories"]
        if others:
            wire = fleet.facts_to_wire()
            for name in others:
                store.put_fact(name, _json(wire[name]))


def load(log: Log, *, fast_paths: bool = True) -> Engine:
    """The engine as it was after the last transaction: from the tables, not from the log."""
    fleet = Fleet()
    facts = {name: log.fact(name) for name in _FACTS}
    empty = fleet.facts_to_wire()
    fleet.load_facts(
        {name: empty[name] if raw is None else json.loads(raw) for name, raw in facts.items()}
    )
    for _, body in log.devices():
        fleet.put(Device.from_wire(json.loads(body)))
    for udid, body in log.ledgers():
        fleet.ledgers[udid] = tuple(JobEntry.from_wire(entry) for entry in json.loads(body))
    engine = Engine(fleet, fast_paths=fast_paths)
    engine.recount_jobs()
    for udid, standing in _standings(log):
        engine.restore(udid, standing)
    return engine


def key_of(event: Event) -> str:
    """The key an event is logged under: its Mac's, else what it is about."""
    if isinstance(event, JobIssuedEvent):
        return event.data.job.udid
    if isinstance(event, JobResultedEvent | JobSupersededEvent):
        return event.data.udid
    return device_key(event) if isinstance(event, DeviceEvent) else event.subject


def fact_of(event: Event) -> str | None:
    """The name of the fact that an advisory or control event changes; None for other events."""
    if isinstance(event, AdvisoryEvent):
        return "advisories"
    family = event.type.split(".")[1]
    return {"policy": "policy", "halt": "halts", "approval": "approvals"}.get(family)


def _standings(log: Log) -> Iterator[tuple[str, Standing]]:
    for udid, *row in log.standings():
        kept = Standing(*row)
        yield (
            udid,
            kept._replace(
                verdict=Verdict(kept.verdict),
                reason=Reason(kept.reason),
                severity=None if kept.severity is None else Severity(kept.severity),
                heeds_figures=bool(kept.heeds_figures),
                waits_for_slot=bool(kept.waits_for_slot),
            ),
        )


def _row(standing: Standing) -> StandingRow:
    severity = None if standing.severity is None else standing.severity.value
    row: StandingRow = standing._replace(
        verdict=standing.verdict.value,  # type: ignore[arg-type]
        reason=standing.reason.value,  # type: ignore[arg-type]
        severity=severity,  # type: ignore[arg-type]
    )
    return row


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
