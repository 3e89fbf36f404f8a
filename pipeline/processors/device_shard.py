"""One partition of the Macs: folds, decides, collects what to publish and what to keep. Pure.

Owns the reconciler of the Macs whose UDIDs are hashed to the partition. The caller makes the output
of `collect` durable, in its order, before it commits the offsets of the consumed records.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain, islice
from typing import Final

from pipeline.decide.admission import reject_reason
from pipeline.payload_signing import sign_job
from pipeline.processors import rows
from pipeline.processors.broadcast import BroadcastRecord, BroadcastState
from pipeline.processors.dead_letters import dead_letter_record
from pipeline.processors.fast.verified_cache import VerifiedCache
from pipeline.processors.shard_config import ShardConfig
from pipeline.processors.shard_output import ConsumedRecord, OutgoingRecord, ShardOutput
from pipeline.reconcile.last_decision import LastDecision
from pipeline.reconcile.reconciler import (
    SOURCE,
    Decided,
    DerivedEvent,
    Effect,
    EvaluationFailed,
    Reconciler,
)
from pipeline.state.device import FIRST_TELEMETRY, Device, from_us, to_us
from pipeline.state.jobs import JobEntry, JobHistory
from schemas.dead_letters import DeadLetterCode, Problem
from schemas.decisions import encode_record
from schemas.envelope import (
    Event,
    InvalidEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    decode,
    encode,
)
from schemas.fast.report_peek import ReportPeek, peek_report
from schemas.ids import event_id
from schemas.results import Outcome
from schemas.routing import device_key
from schemas.topics import (
    CHECKINS,
    DEAD_LETTERS,
    DECISIONS,
    DISPATCH,
    INVENTORY,
    ORDERS,
    RESULTS,
    partition_of,
)

DEVICE_TOPICS: Final = (INVENTORY, CHECKINS, RESULTS, ORDERS)
_MODELS: Final = {topic.name: topic.models for topic in DEVICE_TOPICS}
_Job = JobIssuedEvent | JobSupersededEvent | JobResultedEvent


class DeviceShard:
    """The Macs of one partition. Only one task may use it; times are parameters."""

    def __init__(self, partition: int, broadcast: BroadcastState, config: ShardConfig) -> None:
        self.partition = partition
        self.reconciler = Reconciler(fast_paths=config.fast_paths)
        self.epoch = 0
        self._broadcast = broadcast
        self._config = config
        self._partition_count = config.partitions[INVENTORY.name]
        self._output = ShardOutput()
        # Events that were folded when they were published; reading them back changes nothing.
        self._already_folded = VerifiedCache()
        self._dirty: dict[str, None] = {}
        # Macs of which only times and telemetry changed since their rows were written;
        # `_due_for_flush` are those from before the last refresh.
        self._unsaved_telemetry: dict[str, None] = {}
        self._due_for_flush: dict[str, None] = {}
        self._next_flush_at: datetime | None = None
        self._broadcast_offsets: dict[str, int] = {}
        self._epoch_row_dirty = False
        self._is_catching_up = True
        # Macs to decide for once the backlog is folded, and those of them whose rows record it.
        self._pending_decision: dict[str, None] = {}
        self._saved_as_pending: dict[str, None] = {}
        self._loaded_decisions: dict[str, LastDecision] = {}
        self._redecide_batches: list[_RedecideBatch] = []
        self._broadcasts_read = 0
        self._sweeping: Iterator[str] | None = None
        self._sweep_at: datetime | None = None
        self._failing: dict[str, str] = {}

    # --- before it begins ---

    def load(self, key: bytes, raw: bytes) -> None:
        """Put one row of the changelog in memory: the epoch row, or the state of one Mac.

        Raises InvalidRow if the row cannot be decoded, or its UDID belongs to another partition;
        for the epoch row KeyError, TypeError or ValueError if its `broadcast` is no object.
        """
        if key == rows.EPOCH_KEY:
            row = rows.EpochRow.decode(raw)
            self.epoch, self._broadcast_offsets = row.epoch, dict(row.broadcast_offsets)
            return
        udid = key.decode()
        partition = partition_of(udid, self._partition_count)
        if partition != self.partition:
            raise rows.InvalidRow(f"row of {udid} is one of partition {partition}: was one added?")
        last_decision, is_decided = rows.load_device(self.reconciler, udid, raw)
        if last_decision is not None:
            self._loaded_decisions[udid] = last_decision
        if not is_decided:
            self._pending_decision[udid] = self._saved_as_pending[udid] = None

    def begin(self, now: datetime) -> None:
        """Complete the loaded state; decides nothing yet. Call it once, after the last `load`.

        Folds the broadcast records read so far, counts open jobs, and restores the last decisions.
        Queues the Macs that are affected by broadcast records after the offsets in the epoch row.
        Sets the time of the first sweep.
        """
        reconciler = self.reconciler
        reconciler.fleet.advisories = self._broadcast.fleet.advisories
        for record in self._broadcast.records:
            if record.event is not None:
                reconciler.fold(record.event)
        self._broadcasts_read = len(self._broadcast.records)
        reconciler.recount_jobs()
        for udid, last_decision in self._loaded_decisions.items():
            reconciler.restore(udid, last_decision)
        self._loaded_decisions.clear()
        self._queue_redecide(self._broadcast.records_after(self._broadcast_offsets))
        # Spread the sweeps: partitions of one worker would otherwise sweep at the same time.
        every = self._config.sweep_every
        self._sweep_at = now + every * (self.partition + 1) / (self._partition_count + 1)

    def finish_catch_up(self) -> None:
        """Let `process_records` and `tick` decide from now on; they only fold before.

        Queues the Macs without a decision on their last events, and those that wait for capacity.
        Call it when everything in the topics at the change of owner is folded. Deciding on a
        partial backlog could revoke jobs that the rest of it justifies.
        """
        reconciler, canonical_udid = self.reconciler, self.reconciler.fleet.canonical_udid
        # A job that ended may have freed capacity for a Mac that waits for it.
        waiting = [udid for udid, one in reconciler.last_decisions.items() if one.wants_capacity]
        udids = {canonical_udid(udid) or udid for udid in (*self._pending_decision, *waiting)}
        self._redecide_batches.append(_RedecideBatch(sorted(udids), is_backlog=True))
        self._is_catching_up = False

    # --- what comes in ---

    def process_records(self, topic: str, records: Sequence[ConsumedRecord], now: datetime) -> int:
        """Fold records of one topic; return the number of dead letters that this made.

        After `finish_catch_up` it also decides for the Macs that the records affect, and a failed
        decision is a dead letter too. All output is kept for `collect`.
        """
        before = self._output.counters.dead_letters.total()
        if topic == INVENTORY.name and self._config.fast_paths:
            self._process_reports(records, now)
        else:
            for record in records:
                self._process(topic, record, now)
        return self._output.counters.dead_letters.total() - before

    def _process_reports(self, records: Sequence[ConsumedRecord], now: datetime) -> None:
        """Fold reports with the result of `_process`, without decoding those that are repeats."""
        reconciler, unsaved_telemetry = self.reconciler, self._unsaved_telemetry
        repeats, oldest_us = 0, to_us(now)
        for record in records:
            raw = record.value or b""
            peek = peek_report(raw)
            try:
                repeat = None if peek is None else reconciler.fleet.apply_duplicate(peek)
                if repeat is not None:
                    before, after, us = repeat
                    udid = after.udid
                    if after.inventory_days != before.inventory_days:
                        self._dirty[udid] = None
                    else:
                        unsaved_telemetry[udid] = None
                    if self._is_catching_up:
                        self._pending_decision[udid] = None
                    elif reconciler.telemetry_matters(udid, now, after):
                        self._apply_effects(reconciler.reconcile(udid, now), now)
            except Exception as error:  # noqa: BLE001 - the handler's top: our bug
                self._dead_letter_bug(INVENTORY.name, record.offset, raw, error, now)
                continue
            if repeat is None:
                self._process(INVENTORY.name, record, now, peek)
            else:
                repeats += 1
                oldest_us = min(oldest_us, us)
        self._output.counters.count_folded(INVENTORY.name, repeats, (to_us(now) - oldest_us) / 1e6)

    def _process(
        self, topic: str, record: ConsumedRecord, now: datetime, peek: ReportPeek | None = None
    ) -> None:
        """Fold one record and apply its effects.

        A record that cannot be used becomes a dead letter. A record of another partition's Mac is
        published to that partition.
        """
        raw = record.value or b""
        if self._already_folded.pop(raw):
            self._output.counters.count_folded(topic, 1, 0.0)
            return
        try:
            event = decode(raw)
        except InvalidEvent as error:
            code = DeadLetterCode(error.code)
            self._dead_letter_record(
                topic, record.offset, raw, code, error.detail, now, error.where
            )
            return
        if not isinstance(event, _MODELS[topic]):
            self._dead_letter_record(
                *(topic, record.offset, raw, DeadLetterCode.UNKNOWN_TYPE),
                *(f"{event.type} does not belong here", now, "$.type"),
            )
            return
        key = _key_for(event)
        if key not in self.reconciler.fleet.devices:
            partition = partition_of(key, self._partition_count)
            if partition != self.partition:
                # Its producer has another key or partitioner: one worker must own a Mac.
                self._output.records.append(OutgoingRecord(topic, partition, key.encode(), raw))
                return
        wrong = reject_reason(event, jobs=self._config.trusted, approvals={})
        if wrong is not None:
            self._dead_letter_record(
                topic, record.offset, raw, DeadLetterCode.BAD_VALUE, wrong, now, "$.data"
            )
            return
        try:
            self._fold(event, raw, now, peek)
        except Exception as error:  # noqa: BLE001 - the handler's top: our bug
            self._dead_letter_bug(topic, record.offset, raw, error, now)
            return
        self._output.counters.count_folded(topic, 1, (now - event.time).total_seconds())

    def _fold(
        self, event: Event, raw: bytes, now: datetime, peek: ReportPeek | None = None
    ) -> None:
        fleet, key = self.reconciler.fleet, _key_for(event)
        device, history = fleet.devices.get(key), fleet.job_histories.get(key, ())
        effects = self._handle(event, now, peek)
        first = next(effects, None)  # folds the event; its effects follow below
        if isinstance(event, _Job):
            self._record_job_change(event, raw, history, fleet.job_histories.get(key, ()))
        after = fleet.devices.get(key)
        # Devices that differ only in the data that recognises a repeat are equal: rows lack it.
        if after is not None and after is not device and after != device:
            self._mark_changed(key, device, after)
        if first is not None:
            self._apply_effects(chain((first,), effects), now)
        for name in self.reconciler.dropped_decisions:
            self._dirty[name] = None
        self.reconciler.dropped_decisions.clear()

    def _handle(self, event: Event, now: datetime, peek: ReportPeek | None) -> Iterator[Effect]:
        """Fold an event; return the effects of deciding for the Macs that it affects.

        The decisions are made while the caller iterates, and it must apply each effect. During the
        catch-up there are none: the affected Macs are queued for a decision.
        """
        if not self._is_catching_up:
            return self.reconciler.handle(event, now, peek)
        touched = self.reconciler.fold(event).udids
        self._pending_decision |= dict.fromkeys(touched)
        self._dirty |= dict.fromkeys(touched[1:])
        return iter(())

    def _apply_effects(self, effects: Iterable[Effect], now: datetime) -> None:
        for effect in effects:
            if isinstance(effect, DerivedEvent):
                self._publish_and_fold(effect.event, now)
            elif isinstance(effect, EvaluationFailed):
                self._dead_letter_failed_decision(effect, now)
            else:
                self._record_decision(effect, now)

    def _record_decision(self, effect: Decided, now: datetime) -> None:
        decision = effect.record.decision
        body = encode_record(effect.record, fast_paths=self._config.fast_paths)
        self._post(DECISIONS.name, decision.udid, body)
        self._output.counters.decisions[decision.action, decision.reason] += 1
        self._dirty[decision.udid] = None
        self._failing.pop(decision.udid, None)
        if effect.job is not None:
            issued = JobIssuedEvent(
                id=event_id("issued", effect.job.job_id),
                source=SOURCE,
                subject=effect.job.udid,
                time=now,
                data=sign_job(
                    effect.job, self._config.signing_key, fast_paths=self._config.fast_paths
                ),
            )
            self._publish_and_fold(issued, now)

    def _record_job_change(
        self, event: _Job, raw: bytes, before: JobHistory, after: JobHistory
    ) -> None:
        """Send an event that opens or ends a job to dispatch, which counts the site's open jobs.

        `before` and `after` are the job history of the Mac around the fold of the event. If the
        entry of the job is unchanged or missing in `after`, nothing is done. Else the row of the
        Mac is written, and a result is counted.
        """
        job_id = event.data.job.job_id if isinstance(event, JobIssuedEvent) else event.data.job_id
        old, new = _find_job(before, job_id), _find_job(after, job_id)
        if new is None or new is old:
            return
        self._dirty[_key_for(event)] = None
        if (old is not None and old.is_open) is not new.is_open:
            if self._config.fast_paths:
                self._config.verified.add(raw)
            partition = partition_of(new.site, self._config.partitions[DISPATCH.name])
            self._output.records.append(
                OutgoingRecord(DISPATCH.name, partition, new.site.encode(), raw)
            )
        if isinstance(event, JobResultedEvent):
            self._output.counters.results[new.action, event.data.outcome] += 1
            if new.outcome is Outcome.SUCCEEDED:
                took = event.time - from_us(new.issued_us)
                self._output.counters.durations.append((new.action, took.total_seconds()))

    def _mark_changed(self, key: str, before: Device | None, after: Device) -> None:
        """Let the next `collect` write the row; later if only times and telemetry changed."""
        if (
            before is None
            or before.values[:FIRST_TELEMETRY] != after.values[:FIRST_TELEMETRY]
            or before.checkins != after.checkins
            or before.inventory_days != after.inventory_days
        ):
            self._dirty[key] = None
        else:
            self._unsaved_telemetry[key] = None

    # --- what is due ---

    def tick(self, now: datetime) -> bool:
        """Do a limited piece of due work; return True if more of it is due now.

        Folds new broadcast records and decides for at most `slice_size` Macs each that are queued,
        due by a timer, or next in the sweep. Decides nothing and returns False before
        `finish_catch_up`.
        """
        if self._next_flush_at is None or now >= self._next_flush_at:
            self._next_flush_at = now + self._config.refresh
            self._due_for_flush |= self._unsaved_telemetry
            self._unsaved_telemetry.clear()
        if self._is_catching_up:
            return False
        self._read_broadcasts()
        self._redecide(now)
        due = self.reconciler.next_due_at()
        if due is not None and due <= now:
            self._apply_effects(self.reconciler.reconcile_due(now, self._config.slice_size), now)
            due = self.reconciler.next_due_at()
        self._continue_sweep(now)
        return (
            bool(self._redecide_batches)
            or self._sweeping is not None
            or (due is not None and due <= now)
        )

    def is_behind(self, now: datetime) -> bool:
        """Return True if a Mac is queued or due, or a broadcast is new; sweeps do not count."""
        due = self.reconciler.next_due_at()
        unread = self._broadcasts_read < len(self._broadcast.records)
        return bool(self._redecide_batches) or unread or (due is not None and due <= now)

    def _read_broadcasts(self) -> None:
        log = self._broadcast.records
        if self._broadcasts_read == len(log):
            return
        new = log[self._broadcasts_read :]
        self._broadcasts_read = len(log)
        self.reconciler.fleet.advisories = self._broadcast.fleet.advisories
        for record in new:
            if record.event is not None:
                self.reconciler.fold(record.event)
        self._queue_redecide(new)

    def _queue_redecide(self, records: Sequence[BroadcastRecord]) -> None:
        """Queue the Macs whose decision these records can change.

        Once all of them are decided, the records' offsets go into the epoch row.
        """
        if not records:
            return
        known = self.reconciler.fleet.devices
        udids = {
            udid: None
            for record in records
            for udid in self.reconciler.affected(record.change)
            if udid in known
        }
        offsets = {fact.topic: fact.offset + 1 for fact in records}
        self._redecide_batches.append(_RedecideBatch(sorted(udids), offsets, records))

    def _redecide(self, now: datetime) -> None:
        """Decide for at most `slice_size` queued Macs, and remove the batches that are done."""
        left = self._config.slice_size
        while self._redecide_batches and left > 0:
            current = self._redecide_batches[0]
            some = current.udids[current.done : current.done + left]
            for udid in some:
                self._apply_effects(self.reconciler.reconcile(udid, now), now)
            if current.is_backlog:
                self._mark_decided(some)
            left -= len(some)
            current.done += len(some)
            if current.done < len(current.udids):
                return
            if current.is_backlog:
                self._mark_decided(list(self._pending_decision))
            if self.partition == 0:
                # Every shard reads them: one writes the dead letters.
                self._dead_letter_broadcasts(current.broadcasts, now)
            self._broadcast_offsets |= {
                topic: max(offset, self._broadcast_offsets.get(topic, 0))
                for topic, offset in current.offsets.items()
            }
            self._epoch_row_dirty = True
            del self._redecide_batches[0]

    def _mark_decided(self, udids: Iterable[str]) -> None:
        """Remove the Macs from the pending ones.

        The next `collect` rewrites the rows that record them as pending.
        """
        for udid in udids:
            self._pending_decision.pop(udid, None)
            if udid in self._saved_as_pending:
                del self._saved_as_pending[udid]
                self._dirty[udid] = None

    def _continue_sweep(self, now: datetime) -> None:
        """Decide for the next `slice_size` Macs of the sweep; start one if its time has come."""
        if self._sweeping is None:
            if self._sweep_at is None or now < self._sweep_at:
                return
            self._sweeping = iter(list(self.reconciler.fleet.macs()))
            self._sweep_at = now + self._config.sweep_every
        macs = list(islice(self._sweeping, self._config.slice_size))
        if macs:
            self._apply_effects(self.reconciler.sweep(now, macs), now)
        else:
            self._sweeping = None

    # --- what goes out ---

    def collect(self) -> ShardOutput:
        """Return records, rows and counters since the last call, and start a new output.

        The rows are those of changed Macs, of at most `slice_size` Macs whose telemetry is due to
        be written (of all such Macs if `refresh` is 0), and the epoch row if it changed.
        """
        output, self._output = self._output, ShardOutput()
        # Limited, so that not all Macs are written in one round; a refresh of 0 means at once.
        max_rows = self._config.slice_size if self._config.refresh else None
        self._dirty |= dict.fromkeys(islice(self._due_for_flush, max_rows))
        for udid in self._dirty:
            self._due_for_flush.pop(udid, None)
            self._unsaved_telemetry.pop(udid, None)
            is_decided = udid not in self._pending_decision
            if not is_decided:
                self._saved_as_pending[udid] = None
            output.rows[udid.encode()] = rows.encode_device(
                self.reconciler, udid, self.epoch, is_decided=is_decided
            )
        self._dirty.clear()
        if self._epoch_row_dirty:
            output.rows[rows.EPOCH_KEY] = rows.EpochRow(
                self.epoch, self._broadcast_offsets
            ).to_row()
            self._epoch_row_dirty = False
        return output

    def _post(self, topic: str, key: str, value: bytes) -> None:
        self._output.records.append(OutgoingRecord(topic, self.partition, key.encode(), value))

    def _publish_and_fold(self, event: Event, now: datetime) -> None:
        """Publish an event of a job, fold it and apply its effects.

        A later read of the same event from the topic changes nothing.
        """
        topic = RESULTS if isinstance(event, JobResultedEvent) else ORDERS
        raw = encode(event, fast_paths=self._config.fast_paths)
        self._post(topic.name, _key_for(event), raw)
        self._fold(event, raw, now)
        if self._config.fast_paths:
            self._already_folded.add(raw)

    def _dead_letter_record(
        self,
        topic: str,
        offset: int,
        raw: bytes,
        code: DeadLetterCode,
        detail: str,
        now: datetime,
        where: str,
        partition: int | None = None,
    ) -> None:
        origin = f"{topic}/{self.partition if partition is None else partition}/{offset}"
        self._dead_letter(topic, raw, code, detail, origin, now, where)

    def _dead_letter_bug(
        self, topic: str, offset: int, raw: bytes, error: Exception, now: datetime
    ) -> None:
        detail = f"folding it failed: {type(error).__name__}: {error}"
        self._dead_letter_record(topic, offset, raw, DeadLetterCode.BUG, detail, now, "")

    def _dead_letter_broadcasts(self, records: Sequence[BroadcastRecord], now: datetime) -> None:
        for topic, offset, _, _, rejection in records:
            if rejection is not None:
                code, detail, where, raw = rejection
                self._dead_letter_record(topic, offset, raw, code, detail, now, where, 0)

    def _dead_letter_failed_decision(self, effect: EvaluationFailed, now: datetime) -> None:
        """Write a dead letter with the row of a Mac for which deciding raised an exception.

        Nothing is written if the Mac failed with the same error before, without a decision since.
        """
        detail = f"deciding failed: {type(effect.error).__name__}: {effect.error}"
        if self._failing.get(effect.udid) == detail:
            return
        self._failing[effect.udid] = detail
        raw = rows.encode_device(self.reconciler, effect.udid, self.epoch)
        self._dead_letter(INVENTORY.name, raw, DeadLetterCode.BUG, detail, effect.udid, now, "")

    def _dead_letter(
        self,
        topic: str,
        raw: bytes,
        code: DeadLetterCode,
        detail: str,
        origin: str,
        now: datetime,
        where: str,
    ) -> None:
        reason = Problem(code, detail, where)
        count = self._config.partitions[DEAD_LETTERS.name]
        self._output.records.append(
            dead_letter_record(reason, raw, origin=origin, now=now, partition_count=count)
        )
        self._output.counters.dead_letters[topic, code] += 1


@dataclass(slots=True)
class _RedecideBatch:
    """Queued Macs, because of broadcast records or of the backlog (`is_backlog`).

    The first `done` of `udids` are decided. `offsets`, by topic, are saved when all are.
    """

    udids: list[str]
    offsets: Mapping[str, int] = field(default_factory=dict)
    broadcasts: Sequence[BroadcastRecord] = ()
    is_backlog: bool = False
    done: int = 0


def _key_for(event: Event) -> str:
    """Return the key of the event's record in its topic: the UDID.

    For a report without a UDID it is `serial:` and the serial number, else the event's subject.
    """
    if isinstance(event, JobIssuedEvent):
        return event.data.job.udid
    if isinstance(event, JobResultedEvent | JobSupersededEvent):
        return event.data.udid
    return device_key(event)  # type: ignore[arg-type]


def _find_job(history: JobHistory, job_id: str) -> JobEntry | None:
    found = [entry for entry in history if entry.job_id == job_id]
    return found[0] if found else None
