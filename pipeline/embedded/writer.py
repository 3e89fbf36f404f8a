"""Events in, decisions and orders out, all of one input in one transaction."""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.decide.admission import reject_reason
from pipeline.embedded.log import StoreError
from pipeline.embedded.store import Store
from pipeline.embedded.transaction import Committed, Transaction, key_of, load_state, setting_of
from pipeline.payload_signing import sign_job
from pipeline.reconcile.reconciler import (
    SOURCE,
    Decided,
    DerivedEvent,
    Effect,
    EvaluationFailed,
    Reconciler,
)
from runtime.trusted_keys import KeyRing
from schemas.dead_letters import (
    DeadLetter,
    DeadLetterCode,
    Problem,
    encode_dead_letter,
    make_dead_letter,
)
from schemas.decisions import DecisionRecord
from schemas.envelope import Event, JobIssuedEvent, encode
from schemas.ids import event_id

_ORIGIN: Final = "embedded"


@dataclass(frozen=True, slots=True)
class Accepted:
    """Counts of one accepted input and of all that followed from it.

    `folded` are the given events that were new, `duplicates` those that were in the log already.
    `dead_letters`, `decisions` and `jobs` are all that the transaction stored, also for events that
    followed; `jobs` are the jobs issued.
    """

    folded: int
    duplicates: int
    dead_letters: int
    decisions: int
    jobs: int


class _EventFailedError(Exception):
    def __init__(self, index: int, cause: Exception) -> None:
        super().__init__(str(cause))
        self.index = index
        self.cause = cause


class Writer:
    """The reconciler and the store with its durable state: memory never differs from the disk.

    `on_commit` is called with each transaction after it is durable.
    """

    def __init__(
        self,
        store: Store,
        signer: Ed25519PrivateKey,
        trust: KeyRing,
        on_commit: Callable[[Committed], None],
        *,
        fast_paths: bool = True,
    ) -> None:
        self.reconciler: Reconciler = load_state(store, fast_paths=fast_paths)
        self._store = store
        self._signer = signer
        self._trust = trust
        self._on_commit = on_commit
        self._fast_paths = fast_paths
        self._transaction: Transaction | None = None
        self._failing: dict[str, str] = {}

    def accept(
        self,
        events: Sequence[Event],
        dead_letters: Sequence[DeadLetter],
        now: datetime,
        *,
        settings: Mapping[str, bytes] | None = None,
        replayed: Sequence[int] = (),
    ) -> Accepted:
        """Make an input and all that follows from it durable, and return the counts of both.

        Raises StoreError if the write fails; then nothing of the input is accepted. An event that
        was logged before changes nothing. An event that admission rejects, or on which our code
        raises, becomes a dead letter with its bytes; the other events are accepted. `dead_letters`
        are stored as given, `settings` by name, in the same transaction. `replayed` are the numbers
        of dead letters to mark as replayed.
        """
        failed: dict[int, Exception] = {}
        while True:
            try:
                with self.transaction("accept", now) as current:
                    for name, setting in (settings or {}).items():
                        self._store.put_setting(name, setting)
                    for seq in replayed:
                        self._store.mark_replayed(seq, now)
                    for letter in dead_letters:
                        self._dead_letter(letter)
                    folded, duplicates = self._append_all(events, failed, now)
                break
            except _EventFailedError as failure:
                failed[failure.index] = failure.cause
        return Accepted(
            folded=folded,
            duplicates=duplicates,
            dead_letters=len(current.dead_letters),
            decisions=len(current.decisions),
            jobs=sum(isinstance(event, JobIssuedEvent) for event in current.events),
        )

    @contextmanager
    def transaction(self, write_name: str, now: datetime) -> Iterator[Transaction]:
        """Yield an open transaction; commit it when the block ends.

        After the commit `on_commit` is called, unless the transaction has neither an event, a
        duplicate, a decision nor a dead letter. If the block or the commit raises, nothing is
        written, the reconciler is loaded again from the disk, and the exception is raised again.
        Raises StoreError if the disk fails. `write_name` names the transaction for the store's
        hook.
        """
        current = self._transaction = Transaction(now)
        try:
            with self._store.transaction(write_name):
                yield current
                current.save(self._store, self.reconciler)
        except Exception:
            self._failing.clear()
            self.reconciler = load_state(self._store, fast_paths=self._fast_paths)
            raise
        finally:
            self._transaction = None
        if current.events or current.dead_letters or current.decisions or current.duplicates:
            self._on_commit(current.committed())

    def _append_all(
        self, events: Sequence[Event], failed: Mapping[int, Exception], now: datetime
    ) -> tuple[int, int]:
        """Return the number of new events and the number of events that were logged already.

        Events in `failed` (by index, with their exceptions) and events that admission rejects
        become dead letters and are not counted. Raises _EventFailedError for an event on which our
        code raises, StoreError or sqlite3.Error if the store fails.
        """
        outcomes = [0, 0]
        for index, event in enumerate(events):
            cause = failed.get(index)
            if cause is not None:
                detail = f"folding it failed: {type(cause).__name__}: {cause}"
                self._dead_letter_event(event, DeadLetterCode.BUG, detail, now)
                continue
            wrong = reject_reason(event, jobs=self._trust.jobs, approvals=self._trust.approvals)
            if wrong is not None:
                self._dead_letter_event(event, DeadLetterCode.BAD_VALUE, wrong, now)
                continue
            try:
                outcomes[not self._append(event, now)] += 1
            except (sqlite3.Error, StoreError):
                raise
            except Exception as error:
                raise _EventFailedError(index, error) from error
        return outcomes[0], outcomes[1]

    def _append(self, event: Event, now: datetime) -> bool:
        """Return True if the event is new: then it is logged and folded, with all that follows.

        The decisions, jobs and derived events that result are recorded in the same transaction.
        Return False if the event was logged before: then it is only noted as a duplicate.
        """
        current, fleet, key = self._current, self.reconciler.fleet, key_of(event)
        new = self._store.append_event(
            now,
            source=event.source,
            identity=event.id,
            kind=event.type,
            key=key,
            body=encode(event, fast_paths=self._fast_paths),
        )
        if not new:
            current.duplicates.append(event)
            return False
        current.events.append(event)
        device, history = fleet.devices.get(key), fleet.job_histories.get(key)
        self.apply_effects(self.reconciler.handle(event, now), now)
        if fleet.devices.get(key) is not device:
            current.devices[key] = None
        if fleet.job_histories.get(key) is not history:
            current.job_histories[key] = None
        setting = setting_of(event)
        if setting is not None:
            current.settings[setting] = None
        return True

    def apply_effects(self, effects: Iterable[Effect], now: datetime) -> None:
        """Record the reconciler's effects in the open transaction, in order.

        A derived event is logged and folded; a decision is logged, with its signed job if it has
        one; a failed evaluation becomes a dead letter. Call only inside `transaction`.
        """
        for effect in effects:
            if isinstance(effect, DerivedEvent):
                self._append(effect.event, now)
            elif isinstance(effect, EvaluationFailed):
                self._dead_letter_failed_decision(effect, now)
            else:
                self._record_decision(effect, now)

    def _record_decision(self, effect: Decided, now: datetime) -> None:
        """Log a decision; if it has a job, sign the job and log the event that issues it."""
        record = effect.record
        udid = record.decision.udid
        self._store_blobs(record)
        self._store.append_decision(now, udid, record.model_dump_json().encode())
        self._current.decisions.append(record)
        self._current.last_decisions[udid] = None
        self._failing.pop(udid, None)
        if effect.job is not None:
            issued = JobIssuedEvent(
                id=event_id("issued", effect.job.job_id),
                source=SOURCE,
                subject=udid,
                time=now,
                data=sign_job(effect.job, self._signer, fast_paths=self._fast_paths),
            )
            self._append(issued, now)

    def _store_blobs(self, record: DecisionRecord) -> None:
        """Store the catalogue and the policy that the record names by digest.

        Content that is stored already is not written again.
        """
        inputs, fleet = record.inputs, self.reconciler.fleet
        if not self._store.has_blob(inputs.catalog_digest):
            text = json.dumps(fleet.advisories.to_wire(), sort_keys=True, separators=(",", ":"))
            self._store.put_blob(inputs.catalog_digest, "catalogue", text.encode())
        digest, policy = inputs.policy_digest, fleet.policy
        if digest is not None and policy is not None and not self._store.has_blob(digest):
            self._store.put_blob(digest, "policy", policy.text.encode())

    def _dead_letter_failed_decision(self, effect: EvaluationFailed, now: datetime) -> None:
        """Store a dead letter with the state of a Mac for which deciding raised an exception.

        Nothing is stored if the Mac failed with the same error before, without a decision since.
        """
        detail = f"deciding failed: {type(effect.error).__name__}: {effect.error}"
        if self._failing.get(effect.udid) == detail:
            return
        self._failing[effect.udid] = detail
        raw = json.dumps(self.reconciler.fleet.merged_device(effect.udid).to_wire()).encode()
        error = Problem(DeadLetterCode.BUG, detail)
        self._dead_letter(
            make_dead_letter(
                error, raw, source=SOURCE, origin=effect.udid, received_at=now, redacted=raw
            )
        )

    def _dead_letter_event(
        self, event: Event, code: DeadLetterCode, detail: str, now: datetime
    ) -> None:
        raw = encode(event, fast_paths=self._fast_paths)
        error = Problem(code, detail)
        self._dead_letter(
            make_dead_letter(
                error, raw, source=event.source, origin=_ORIGIN, received_at=now, redacted=raw
            )
        )

    def _dead_letter(self, letter: DeadLetter) -> None:
        self._store.put_dead_letter(
            self._current.now,
            code=letter.code.value,
            source=letter.source,
            origin=letter.origin,
            body=encode_dead_letter(letter),
        )
        self._current.dead_letters.append(letter)

    @property
    def _current(self) -> Transaction:
        assert self._transaction is not None
        return self._transaction
