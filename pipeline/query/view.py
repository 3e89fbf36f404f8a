"""The view: records of the topics as log and state in SQLite, in the form of a data directory.

Commands and the HTTP API read it as they read the data directory of `drydock run`. A record has
effect as in a worker: one that is not stamped, not signed or not readable has none.

Invariant: log, state and the offsets of the next records are written in one transaction, so that a
restart continues with the next record of each partition. Only the advisories and the control
events are read from the beginning each time: decisions can name the catalogue after any advisory
or strike.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Self

from pydantic import ValidationError

from pipeline.embedded.log import OFFSETS_SETTING
from pipeline.embedded.log_retention import Retention
from pipeline.embedded.names import record_names
from pipeline.embedded.store import Store
from pipeline.embedded.transaction import (
    load_state,
    log_event,
    save_catalogue,
    save_policy,
    save_state,
)
from pipeline.processors.broadcast import BroadcastAdmission, BroadcastRejection
from pipeline.processors.withdrawals import withdrawal_problem
from pipeline.query.catalogues import Catalogues
from pipeline.query.time_merge import Partition, TopicRecord
from pipeline.reconcile.changes import Changes
from pipeline.reconcile.folding import broadcast_part
from pipeline.reconcile.last_decision import last_of
from pipeline.state.change import NO_CHANGE
from pipeline.state.device import Device, from_us
from pipeline.state.jobs import JobEntry
from pipeline.trust.stamps import Stamps
from runtime.trusted_keys import KeyRing
from schemas.dead_letters import DeadLetter
from schemas.decisions import DecisionRecord
from schemas.envelope import (
    AdvisoryEvent,
    Event,
    InvalidEvent,
    PolicyChangedEvent,
    StrikeClearedEvent,
    StrikeSetEvent,
    decode,
    is_device_event,
    is_job_event,
)
from schemas.routing import event_key
from schemas.topics import (
    ADVISORIES,
    CONTROL,
    DEAD_LETTERS,
    DECISIONS,
    HALTS,
    INPUT_TOPICS,
    TOPICS,
)

BROADCAST: Final = frozenset({ADVISORIES.name, CONTROL.name, HALTS.name})
_STAMPED: Final = frozenset(topic.name for topic in INPUT_TOPICS)
_MODELS: Final = {topic.name: topic.models for topic in TOPICS}


class _UnusableError(ValueError):
    """A record without effect; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys that verify records, as in a worker. Without `stamps` no stamp is checked."""

    keys: KeyRing
    stamps: Stamps | None = None


class View:
    """The log and the state of a fleet, up to the records that were applied.

    `on_unusable` gets the record and the reason of each one without effect. `lost` are the numbers
    of records, by topic, that were deleted before the view read them. Only one thread may use it.
    """

    def __init__(
        self,
        store: Store,
        trust: Trust,
        on_unusable: Callable[[TopicRecord, str], None] = lambda *_: None,
        keep: timedelta | None = None,
        *,
        fast_paths: bool = True,
    ) -> None:
        self.store = store
        self.reconciler = load_state(store, trust=trust.keys, fast_paths=fast_paths)
        self.lost: Counter[str] = Counter()
        self._trust = trust
        self._admission = BroadcastAdmission(
            trust.keys.approvals, trust.stamps, trust.keys.control or None, trust.keys.jobs
        )
        self._on_unusable = on_unusable
        self._catalogues = Catalogues()
        self._missing: set[str] = set()
        self._retention = None if keep is None else Retention(store, keep)
        raw = store.setting(OFFSETS_SETTING)
        stored: dict[str, int] = {} if raw is None else json.loads(raw)
        self._offsets = {_partition(name): offset for name, offset in stored.items()}

    @classmethod
    def open(
        cls,
        folder: Path,
        trust: Trust,
        on_unusable: Callable[[TopicRecord, str], None] = lambda *_: None,
        keep: timedelta | None = None,
        *,
        fast_paths: bool = True,
    ) -> Self:
        """Return the view in a folder, which is made if it is missing.

        With `keep` older entries of the log are deleted. `fast_paths` is that of the Reconciler.
        Raises InUseError if another process has it open, StoreError if it cannot be used.
        """
        store = Store.open(folder)
        try:
            return cls(store, trust, on_unusable, keep, fast_paths=fast_paths)
        except BaseException:
            store.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self.store.close()

    def begin_at(self, partition: Partition, begin: int, end: int) -> int:
        """Return the offset of the next record to read, for a partition with this begin and end.

        Records that were deleted meanwhile are added to `lost`. Raises ValueError if the partition
        ends before the offset: its topic was created again.
        """
        kept = self._offsets.get(partition)
        if kept is not None and kept > end:
            raise ValueError(
                f"{partition.topic}/{partition.partition} ends at offset {end}, and the view has"
                f" read up to {kept}: the topic was created again; start with an empty directory"
            )
        if kept is None or partition.topic == ADVISORIES.name:
            return begin
        self.lost[partition.topic] += max(begin - kept, 0)
        return begin if partition.topic == CONTROL.name else max(kept, begin)

    def next_offset(self, partition: Partition) -> int:
        """Return the offset after the last record that was applied; 0 before the first."""
        return self._offsets.get(partition, 0)

    def add(self, records: Iterable[TopicRecord], reached: Mapping[Partition, int]) -> None:
        """Make records durable, in their order, with the next offset of each partition.

        `reached` are offsets up to which a partition has no further records, as after a marker of a
        transaction. Raises StoreError; then nothing is stored, and the view must be opened again.
        """
        changes, offsets = Changes(), dict(self._offsets)
        with self.store.transaction("view"):
            for record in records:
                partition = Partition(record.topic, record.partition)
                is_known = record.offset < self._offsets.get(partition, 0)
                try:
                    self._apply(record, changes, is_known=is_known)
                except _UnusableError as error:
                    if not is_known:
                        self._on_unusable(record, str(error))
                offsets[partition] = max(offsets.get(partition, 0), record.offset + 1)
            for partition, offset in reached.items():
                offsets[partition] = max(offsets.get(partition, 0), offset)
            save_state(self.store, self.reconciler, changes)
            if offsets != self._offsets:
                named = {f"{one.topic}/{one.partition}": at for one, at in offsets.items()}
                self.store.put_setting(OFFSETS_SETTING, json.dumps(named).encode())
        self._offsets = offsets

    def work(self, now: datetime) -> None:
        """Delete a part of the entries that are too old, if any. Raises StoreError."""
        if self._retention is not None and self._retention.next_due_at(now) <= now:
            self._retention.work(self.reconciler.fleet, now)

    def _apply(self, record: TopicRecord, changes: Changes, *, is_known: bool) -> None:
        if record.topic == DECISIONS.name:
            self._apply_decision(record, changes)
        elif record.topic == DEAD_LETTERS.name:
            self._apply_dead_letter(record)
        else:
            event = self._admitted(record)
            if isinstance(event, AdvisoryEvent | StrikeSetEvent | StrikeClearedEvent):
                self._catalogues.fold(event)
                self._save_missing()
            if not is_known:
                self._apply_event(event, record.value, changes)

    def _admitted(self, record: TopicRecord) -> Event:
        """Return the event of a record. Raises _UnusableError for one that a worker rejects."""
        topic, raw, trust = record.topic, record.value, self._trust
        if topic in BROADCAST:
            admitted = self._admission.admit(topic, raw)
            if isinstance(admitted, BroadcastRejection):
                raise _UnusableError(admitted.detail)
            return admitted
        if trust.stamps is not None and topic in _STAMPED and not trust.stamps.is_valid(raw):
            raise _UnusableError("no gateway or feed stamped it")
        try:
            event = decode(raw)
        except InvalidEvent as error:
            raise _UnusableError(str(error)) from error
        if not isinstance(event, _MODELS[topic]):
            raise _UnusableError(f"{event.type} does not belong here")
        problem = withdrawal_problem(event, raw, trust.keys.jobs)
        problem = problem or self.reconciler.objection(event)
        if problem is not None:
            raise _UnusableError(problem.detail)
        return event

    def _apply_event(self, event: Event, raw: bytes, changes: Changes) -> None:
        """Fold an event and log it. Raises _UnusableError if it cannot be folded."""
        try:
            change = self.reconciler.fold(event)
        except Exception as error:  # a worker survives our bug here too, with a dead letter
            raise _UnusableError(f"folding it failed: {type(error).__name__}: {error}") from error
        # The time of receipt by the clock of the gateway; what Drydock made has its own time.
        log_event(self.store, event, raw, event.receivedat or event.time)
        if isinstance(event, PolicyChangedEvent):
            save_policy(self.store, event.data.digest, event.data.text)
        if change is NO_CHANGE:
            return
        key = event_key(event)
        if is_device_event(event):
            changes.devices[key] = None
            self._drop_merged(change.udids, changes)
        elif is_job_event(event):
            changes.job_histories[key] = None
        else:
            changes.broadcast[broadcast_part(event)] = None

    def _drop_merged(self, names: Iterable[str], changes: Changes) -> None:
        """Drop the decisions of records that are now part of another Mac."""
        for name in names:
            is_part = self.reconciler.fleet.canonical_udid(name) is not None
            if is_part and name in self.reconciler.last_decisions:
                self.reconciler.counts.remove(name)
                changes.last_decisions[name] = None

    def _apply_decision(self, record: TopicRecord, changes: Changes) -> None:
        try:
            decided = DecisionRecord.model_validate_json(record.value)
        except ValidationError as error:
            raise _UnusableError(f"not a decision record: {error.error_count()} errors") from error
        inputs, udid = decided.inputs, decided.decision.udid
        self.store.append_decision(inputs.now, udid, record.value, record_names(decided))
        if not self.store.has_blob(inputs.catalog_digest):
            self._missing.add(inputs.catalog_digest)
            self._save_missing()
        self.reconciler.counts.put(udid, last_of(decided.decision))
        changes.last_decisions[udid] = None
        with suppress(ValueError, LookupError, TypeError, AttributeError):
            self._keep_inputs(decided, changes)

    def _keep_inputs(self, decided: DecisionRecord, changes: Changes) -> None:
        """Keep the Mac's state in a record if its reports have left their topics.

        Raises an exception for inputs that no version of Drydock wrote.
        """
        fleet, udid, inputs = self.reconciler.fleet, decided.decision.udid, decided.inputs
        recorded, known = Device.from_wire(inputs.device), fleet.devices.get(udid)
        if known is None or known.newest_us < recorded.newest_us:
            fleet.put(recorded)
            changes.devices[udid] = None
        if inputs.job_history and udid not in fleet.job_histories:
            history = tuple(map(JobEntry.from_wire, inputs.job_history))
            fleet.job_histories[udid] = history
            self.reconciler.capacity.count_changes(udid, (), history)
            changes.job_histories[udid] = None

    def _save_missing(self) -> None:
        """Store the catalogues that decisions name, as far as they are known."""
        for digest in sorted(self._missing):
            found = self._catalogues.find(digest)
            if found is not None:
                save_catalogue(self.store, digest, found)
                self._missing.discard(digest)

    def _apply_dead_letter(self, record: TopicRecord) -> None:
        try:
            letter = DeadLetter.model_validate_json(record.value)
        except ValidationError as error:
            raise _UnusableError(f"not a dead letter: {error.error_count()} errors") from error
        self.store.put_dead_letter(
            letter.received_at or from_us(record.stored_ms * 1000),
            code=letter.code.value,
            source=letter.source,
            origin=letter.origin,
            body=record.value,
        )


def _partition(name: str) -> Partition:
    topic, _, number = name.rpartition("/")
    return Partition(topic, int(number))
