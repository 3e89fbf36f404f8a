"""Events in, decisions and orders out, all of one input in one transaction."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agents.keys import KeyRing
from pipeline.decide.admission import objection
from pipeline.decide.engine import SOURCE, Decided, Effect, Engine, Failed, Followed
from pipeline.embedded.log import StoreError
from pipeline.embedded.store import Store
from pipeline.embedded.unit import Committed, Unit, fact_of, key_of, load
from pipeline.ingest.outcome import PayloadError, dead_letter
from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.decisions import DecisionRecord
from schemas.envelope import Event, JobIssuedEvent, encode
from schemas.ids import event_id
from schemas.orders import issue

_ORIGIN: Final = "embedded"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of one input: events that were new, and there already; what was set aside; what
    was decided and ordered on the way."""

    folded: int
    repeated: int
    set_aside: int
    decisions: int
    jobs: int


class _Poison(Exception):  # noqa: N818 - never leaves this module
    def __init__(self, index: int, cause: Exception) -> None:
        super().__init__(str(cause))
        self.index = index
        self.cause = cause


class Writer:
    """The engine and the store it is durable in: memory never says what the disk does not.

    `observe` is told of each transaction once it is durable.
    """

    def __init__(
        self,
        store: Store,
        signer: Ed25519PrivateKey,
        trust: KeyRing,
        observe: Callable[[Committed], None],
        *,
        fast_paths: bool = True,
    ) -> None:
        self.engine: Engine = load(store, fast_paths=fast_paths)
        self._store = store
        self._signer = signer
        self._trust = trust
        self._observe = observe
        self._fast_paths = fast_paths
        self._unit: Unit | None = None
        self._failing: dict[str, str] = {}

    def accept(
        self,
        events: Sequence[Event],
        dead_letters: Sequence[DeadLetter],
        now: datetime,
        *,
        notes: Mapping[str, bytes] | None = None,
        replayed: Sequence[int] = (),
    ) -> Accepted:
        """Make one input durable with everything that follows from it, or raise StoreError.

        An event that was accepted before changes nothing. One that our own code fails on is set
        aside with its bytes; the others pass. `notes` are kept under their names with it; dead
        letters `replayed` are marked so.
        """
        poisoned: dict[int, Exception] = {}
        while True:
            try:
                with self.transaction("accept", now) as unit:
                    for name, note in (notes or {}).items():
                        self._store.put_fact(name, note)
                    for seq in replayed:
                        self._store.mark_replayed(seq, now)
                    for letter in dead_letters:
                        self._set_aside(letter)
                    folded, repeated = self._take_all(events, poisoned, now)
                break
            except _Poison as poison:
                poisoned[poison.index] = poison.cause
        return Accepted(
            folded=folded,
            repeated=repeated,
            set_aside=len(unit.dead_letters),
            decisions=len(unit.decisions),
            jobs=sum(isinstance(event, JobIssuedEvent) for event in unit.events),
        )

    @contextmanager
    def transaction(self, what: str, now: datetime) -> Iterator[Unit]:
        """All inside is durable when this ends. If it raises, memory is what the disk has."""
        unit = self._unit = Unit(now)
        try:
            with self._store.transaction(what):
                yield unit
                unit.save(self._store, self.engine)
        except Exception:
            self._failing.clear()
            self.engine = load(self._store, fast_paths=self._fast_paths)
            raise
        finally:
            self._unit = None
        if unit.events or unit.dead_letters or unit.decisions or unit.repeated:
            self._observe(unit.committed())

    def _take_all(
        self, events: Sequence[Event], poisoned: Mapping[int, Exception], now: datetime
    ) -> tuple[int, int]:
        """How many of the events were new, and how many were there already."""
        outcomes = [0, 0]
        for index, event in enumerate(events):
            cause = poisoned.get(index)
            if cause is not None:
                detail = f"folding it failed: {type(cause).__name__}: {cause}"
                self._refuse(event, DeadLetterCode.BUG, detail, now)
                continue
            wrong = objection(event, jobs=self._trust.jobs, approvals=self._trust.approvals)
            if wrong is not None:
                self._refuse(event, DeadLetterCode.BAD_VALUE, wrong, now)
                continue
            try:
                outcomes[not self._take(event, now)] += 1
            except (sqlite3.Error, StoreError):
                raise
            except Exception as error:
                raise _Poison(index, error) from error
        return outcomes[0], outcomes[1]

    def _take(self, event: Event, now: datetime) -> bool:
        """Log an event, fold it, and follow what follows from it; False if it was logged before."""
        unit, fleet, key = self._now_writing, self.engine.fleet, key_of(event)
        new = self._store.append_event(
            now,
            source=event.source,
            identity=event.id,
            kind=event.type,
            key=key,
            body=encode(event, fast_paths=self._fast_paths),
        )
        if not new:
            unit.repeated.append(event)
            return False
        unit.events.append(event)
        device, ledger = fleet.devices.get(key), fleet.ledgers.get(key)
        self.follow(self.engine.handle(event, now), now)
        if fleet.devices.get(key) is not device:
            unit.devices[key] = None
        if fleet.ledgers.get(key) is not ledger:
            unit.ledgers[key] = None
        fact = fact_of(event)
        if fact is not None:
            unit.facts[fact] = None
        return True

    def follow(self, effects: Iterable[Effect], now: datetime) -> None:
        """Record what the engine says, one by one. Only inside a transaction."""
        for effect in effects:
            if isinstance(effect, Followed):
                self._take(effect.event, now)
            elif isinstance(effect, Failed):
                self._failed(effect, now)
            else:
                self._decided(effect, now)

    def _decided(self, effect: Decided, now: datetime) -> None:
        record = effect.record
        udid = record.decision.udid
        self._keep_named(record)
        self._store.append_decision(now, udid, record.model_dump_json().encode())
        self._now_writing.decisions.append(record)
        self._now_writing.standings[udid] = None
        self._failing.pop(udid, None)
        if effect.job is not None:
            issued = JobIssuedEvent(
                id=event_id("issued", effect.job.job_id),
                source=SOURCE,
                subject=udid,
                time=now,
                data=issue(effect.job, self._signer, fast_paths=self._fast_paths),
            )
            self._take(issued, now)

    def _keep_named(self, record: DecisionRecord) -> None:
        """Keep what the record's digests name, once."""
        inputs, fleet = record.inputs, self.engine.fleet
        if not self._store.has_blob(inputs.catalog_digest):
            text = json.dumps(fleet.advisories.to_wire(), sort_keys=True, separators=(",", ":"))
            self._store.put_blob(inputs.catalog_digest, "catalogue", text.encode())
        digest, policy = inputs.policy_digest, fleet.policy
        if digest is not None and policy is not None and not self._store.has_blob(digest):
            self._store.put_blob(digest, "policy", policy.text.encode())

    def _failed(self, effect: Failed, now: datetime) -> None:
        """Set aside a Mac that our rules fail on: once for each way in which they do."""
        detail = f"deciding failed: {type(effect.error).__name__}: {effect.error}"
        if self._failing.get(effect.udid) == detail:
            return
        self._failing[effect.udid] = detail
        raw = json.dumps(self.engine.fleet.view(effect.udid).to_wire()).encode()
        error = PayloadError(DeadLetterCode.BUG, detail)
        self._set_aside(
            dead_letter(
                error, raw, source=SOURCE, origin=effect.udid, received_at=now, redacted=raw
            )
        )

    def _refuse(self, event: Event, code: DeadLetterCode, detail: str, now: datetime) -> None:
        raw = encode(event, fast_paths=self._fast_paths)
        error = PayloadError(code, detail)
        self._set_aside(
            dead_letter(
                error, raw, source=event.source, origin=_ORIGIN, received_at=now, redacted=raw
            )
        )

    def _set_aside(self, letter: DeadLetter) -> None:
        self._store.put_dead_letter(
            self._now_writing.now,
            code=letter.code.value,
            source=letter.source,
            origin=letter.origin,
            body=letter.model_dump_json(exclude_none=True).encode(),
        )
        self._now_writing.dead_letters.append(letter)

    @property
    def _now_writing(self) -> Unit:
        assert self._unit is not None
        return self._unit
