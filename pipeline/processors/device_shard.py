"""One partition of the Macs: records in; records, rows and counters out. Pure.

Owns the reconciler of the Macs whose UDIDs are hashed to the partition. The caller makes the output
of `collect` durable, in its order, before it commits the offsets of the consumed records.

| state | until | records | `tick` |
| --- | --- | --- | --- |
| catching up | `finish_catch_up` | are folded, their Macs are marked | decides nothing |
| deciding | | are folded, their Macs are decided | decides for Macs that are due |

Invariant: the row of a Mac that is marked and not decided states it, and its next owner marks it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from pipeline.payload_signing import sign_job, sign_record
from pipeline.processors import rows
from pipeline.processors.broadcast import NO_STAMP, BroadcastRecord, BroadcastState
from pipeline.processors.dead_letters import dead_letter_record, sender_of
from pipeline.processors.dirty_rows import DirtyRows
from pipeline.processors.fast.verified_cache import VerifiedCache
from pipeline.processors.shard_config import ShardConfig
from pipeline.processors.shard_output import ConsumedRecord, OutgoingRecord, ShardOutput
from pipeline.processors.shard_queries import ShardQueries
from pipeline.processors.unaccepted_jobs import Offer, UnacceptedJobs
from pipeline.processors.withdrawals import withdrawal_problem
from pipeline.reconcile.changes import Changes, Input
from pipeline.reconcile.last_decision import LastDecision
from pipeline.reconcile.reconciler import Reconciler
from pipeline.state.device import to_us
from pipeline.state.jobs import open_job
from pipeline.trust.stamps import Stamps
from schemas.dead_letters import DeadLetterCode, DeadLetterReason, Problem
from schemas.decisions import DecisionRecord
from schemas.envelope import (
    Event,
    InvalidEvent,
    JobIssuedEvent,
    JobResultedEvent,
    JobSupersededEvent,
    decode,
)
from schemas.fast.report_peek import ReportPeek, peek_report
from schemas.results import JobResult
from schemas.routing import event_key
from schemas.signed_records import WITHDRAWAL_RECORD
from schemas.topics import (
    ADVISORIES,
    CHECKINS,
    DEAD_LETTERS,
    DECISIONS,
    DISPATCH,
    INPUT_TOPICS,
    INVENTORY,
    ORDERS,
    RESULTS,
    STATE,
    partition_of,
)

DEVICE_TOPICS: Final = (INVENTORY, CHECKINS, RESULTS, ORDERS)
_MODELS: Final = {topic.name: topic.models for topic in DEVICE_TOPICS}
_STAMPED: Final = frozenset(topic.name for topic in INPUT_TOPICS)
_TOPIC_OF: Final[Mapping[type[Any], str]] = {
    DecisionRecord: DECISIONS.name,
    JobIssuedEvent: ORDERS.name,
    JobSupersededEvent: ORDERS.name,
    JobResultedEvent: RESULTS.name,
}
_NOT_UNUSABLE: Final = frozenset({DeadLetterCode.UNSTAMPED, DeadLetterCode.TOO_MANY_NEW})
_NOT_OUR_ORDER: Final = "the refusal of a record that is not the one of the Mac's open job"


class DeviceShard:
    """The Macs of one partition. Only one task may use it; times are parameters.

    `broadcast_offsets` has, by topic, the offset after the last broadcast record by which all Macs
    are decided. `query_topics` are the topics of ShardQueries.
    """

    def __init__(
        self,
        partition: int,
        broadcast: BroadcastState,
        config: ShardConfig,
        query_topics: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.partition = partition
        self.reconciler = Reconciler(
            sign=lambda job: sign_job(job, config.signing_key, fast_paths=config.fast_paths),
            partitions=config.partitions[INVENTORY.name],
            job_keys=config.trusted,
            sweep_every=config.sweep_every,
            fast_paths=config.fast_paths,
        )
        self.epoch = 0
        self._broadcast = broadcast
        self._config = config
        self._partition_count = config.partitions[INVENTORY.name]
        self._output = ShardOutput()
        # Events that were folded when they were made; reading them back changes nothing.
        self._already_folded = VerifiedCache()
        self._dirty_rows = DirtyRows(config.refresh, config.slice_size)
        self.broadcast_offsets: dict[str, int] = {}
        self._broadcasts_read = 0
        self._is_catching_up = True
        self._loaded_decisions: dict[str, LastDecision] = {}
        self._loaded_events: dict[str, bytes] = {}
        self._unaccepted = UnacceptedJobs()
        self._queries = ShardQueries(self.reconciler, query_topics, lambda: config.signing_key)
        self._unusable: Counter[str] = Counter()

    # --- before it begins ---

    def load(self, key: bytes, raw: bytes) -> None:
        """Put one row of the changelog in memory: the epoch row, or the state of one Mac.

        Raises InvalidRow if the row cannot be decoded, or its UDID belongs to another partition.
        """
        if key == rows.EPOCH_KEY:
            row = rows.EpochRow.decode(raw)
            self.epoch, self.broadcast_offsets = row.epoch, dict(row.broadcast_offsets)
            return
        try:
            udid = key.decode()
        except UnicodeDecodeError as error:
            raise rows.InvalidRow(f"key {key!r} is not UTF-8") from error
        partition = partition_of(udid, self._partition_count)
        if partition != self.partition:
            raise rows.InvalidRow(f"row of {udid} is one of partition {partition}: was one added?")
        last_decision, is_decided, issued_event = rows.load_device(self.reconciler, udid, raw)
        if last_decision is not None:
            self._loaded_decisions[udid] = last_decision
        if issued_event is not None:
            self._loaded_events[udid] = issued_event
        if not is_decided:
            self.reconciler.queue.mark(udid)

    def replace_row(
        self, key: bytes, raw: bytes, reason: Problem, origin: str, now: datetime
    ) -> None:
        """Write the state in memory instead of the unreadable row `raw`, and a dead letter of it.

        The row is deleted if `load` has had no other row of its key. Call it after `begin`.
        """
        udid = key.decode(errors="replace")
        if udid.encode() == key and (
            udid in self.reconciler.fleet.devices or udid in self.reconciler.fleet.job_histories
        ):
            self._dirty_rows.add((udid,))
        elif key != rows.EPOCH_KEY:
            self._output.rows[key] = None
        self._dead_letter(STATE.name, raw, reason, origin, now)

    def begin(self, now: datetime) -> None:
        """Complete the loaded state; decides nothing yet. Call it once, after the last `load`.

        Folds the broadcast records read so far, counts open jobs, and restores the last decisions.
        Queues the Macs that are affected by broadcast records after the offsets in the epoch row.
        Sets the time of the first sweep.
        """
        reconciler = self.reconciler
        self._fold_broadcasts(self._broadcast.records)
        reconciler.recount_jobs()
        for udid, last_decision in self._loaded_decisions.items():
            reconciler.restore(udid, last_decision)
        self._loaded_decisions.clear()
        for udid, issued_event in self._loaded_events.items():
            job = open_job(reconciler.fleet.job_histories.get(udid, ()))
            if job is not None:
                self._unaccepted.add(udid, Offer(job, issued_event))
        self._loaded_events.clear()
        self._queue_affected(self._broadcast.records_after(self.broadcast_offsets), now)
        # Spread the sweeps: partitions of one worker would otherwise sweep at the same time.
        every = self._config.sweep_every
        reconciler.queue.schedule_sweep(
            now + every * (self.partition + 1) / (self._partition_count + 1)
        )

    def finish_catch_up(self) -> None:
        """Let `process_records` and `tick` decide from now on; they only fold before.

        Queues the Macs without a decision on their last events, and those that wait for capacity.
        Call it when everything in the topics at the change of owner is folded. Deciding on a
        partial backlog could withdraw jobs that the rest of it justifies.
        """
        self.reconciler.queue_backlog()
        self._is_catching_up = False

    # --- input ---

    def process_records(self, topic: str, records: Sequence[ConsumedRecord], now: datetime) -> int:
        """Fold records of one topic; return the number of dead letters that this made.

        After `finish_catch_up` it also decides for the Macs that the records affect, and a failed
        decision is a dead letter too. All output is kept for `collect`.
        """
        letters, changes = self._output.counters.dead_letters, Changes()
        before = letters.total()
        if topic in _STAMPED and self._config.stamps is not None:
            records = self._stamped(topic, records, self._config.stamps, now)
        if topic == INVENTORY.name and self._config.fast_paths:
            self._process_reports(records, now, changes)
        else:
            for record in records:
                self._process(topic, record, now, changes)
        if topic == INVENTORY.name:
            self._queries.add_reported(changes.devices)
        else:
            self._queries.add(changes.devices)
        if not self._is_catching_up:
            self.reconciler.decide_marked(now, 0, changes)
        self._keep(changes, now)
        return letters.total() - before

    def pop_unusable(self) -> Mapping[str, int]:
        """Return the dead letters of stamped records since the last call, by sender.

        Failed decisions do not count: their Macs are folded, and must not hold up the others.
        Nor do reports of too many new Macs: their sender must not stop the worker.
        """
        found, self._unusable = self._unusable, Counter()
        return found

    def _stamped(
        self, topic: str, records: Sequence[ConsumedRecord], stamps: Stamps, now: datetime
    ) -> list[ConsumedRecord]:
        """Return the records with a valid stamp; each other one becomes a dead letter."""
        valid = []
        for record in records:
            raw = record.value or b""
            if stamps.is_valid(raw):
                valid.append(record)
            else:
                self._dead_letter_record(topic, record.offset, raw, NO_STAMP, now)
        return valid

    def _process_reports(
        self, records: Sequence[ConsumedRecord], now: datetime, changes: Changes
    ) -> None:
        """Fold reports with the result of `_process`, without decoding duplicates."""
        apply_duplicate = self.reconciler.apply_duplicate
        duplicates, oldest_us = 0, to_us(now)
        for record in records:
            raw = record.value or b""
            peek = peek_report(raw)
            try:
                us = None if peek is None else apply_duplicate(peek, now, changes)
            except Exception as error:  # noqa: BLE001 - the handler's top: our bug
                detail = f"folding it failed: {type(error).__name__}: {error}"
                reason = Problem(DeadLetterCode.BUG, detail)
                self._dead_letter_record(INVENTORY.name, record.offset, raw, reason, now)
                continue
            if us is None:
                self._process(INVENTORY.name, record, now, changes, peek)
            else:
                duplicates += 1
                oldest_us = min(oldest_us, us)
        age_s = (to_us(now) - oldest_us) / 1e6
        self._output.counters.count_folded(INVENTORY.name, duplicates, age_s)

    def _process(
        self,
        topic: str,
        record: ConsumedRecord,
        now: datetime,
        changes: Changes,
        peek: ReportPeek | None = None,
    ) -> None:
        """Fold one record and mark the Macs that it affects.

        A record that cannot be used becomes a dead letter. A record of another partition's Mac is
        published to that partition.
        """
        raw, counters = record.value or b"", self._output.counters
        if self._already_folded.pop(raw):
            counters.count_folded(topic, 1, 0.0)
            return
        try:
            event = _decode(topic, raw)
        except InvalidEvent as error:
            self._dead_letter_record(topic, record.offset, raw, error, now)
            return
        unsigned = withdrawal_problem(event, raw, self._config.trusted)
        if unsigned is not None:
            self._dead_letter_record(topic, record.offset, raw, unsigned, now)
            return
        if isinstance(event, JobResultedEvent) and not self._is_about_our_order(event.data):
            wrong = Problem(DeadLetterCode.UNSIGNED, _NOT_OUR_ORDER, "$.data.order_sha256")
            self._dead_letter_record(topic, record.offset, raw, wrong, now)
            return
        key = event_key(event)
        if key not in self.reconciler.fleet.devices:
            partition = partition_of(key, self._partition_count)
            if partition != self.partition:
                # Its producer has another key or partitioner: one worker must own a Mac.
                self._output.records.append(OutgoingRecord(topic, partition, key.encode(), raw))
                return
        self.reconciler.apply((Input(event, raw, peek),), now, changes)
        if changes.rejections:
            self._dead_letter_record(topic, record.offset, raw, changes.rejections.pop(), now)
            return
        changes.inputs.clear()  # Kafka has them
        counters.count_folded(topic, 1, (now - event.time).total_seconds())
        counters.note_receipt(event.receivedat)

    def _is_about_our_order(self, result: JobResult) -> bool:
        """Return False for the refusal of a record that is not the one of the Mac's open job.

        An executor refuses a forged job with the id of an honest one; that must not end the honest
        one. True for a result of another partition's Mac: its own shard checks it.
        """
        if result.order_sha256 is None:
            return True
        if partition_of(result.udid, self._partition_count) != self.partition:
            return True
        history = self.reconciler.fleet.job_histories.get(result.udid, ())
        issued = self._unaccepted.event_of(result.udid, history)
        event = None if issued is None else decode(issued)
        return (
            isinstance(event, JobIssuedEvent)
            and event.data.job.job_id == result.job_id
            and event.data.sha256 == result.order_sha256
        )

    # --- due work ---

    def tick(self, now: datetime) -> bool:
        """Do a limited piece of due work; return True if more of it is due now.

        Folds new broadcast records, and decides for at most `slice_size` Macs that are queued, due
        by a timer, or next in the sweep; sends at most as many unaccepted jobs to dispatch again,
        and as many queries to the agents.
        Does nothing of it and returns False before `finish_catch_up`.
        """
        self._dirty_rows.refresh_if_due(now)
        if self._is_catching_up:
            return False
        new = self._broadcast.records[self._broadcasts_read :]
        if new:
            self._fold_broadcasts(new)
            self._queue_affected(new, now)
        self._keep(self.reconciler.advance(now, self._config.slice_size), now)
        self._offer_again(now)
        self._output.records += self._queries.pop_due(
            now, self._config.slice_size, self._output.counters
        )
        due = self.reconciler.next_due_at(now)
        is_due = due is not None and due <= now
        return is_due or self._unaccepted.is_due(now) or self._queries.is_due(now)

    def is_behind(self, now: datetime) -> bool:
        """Return True if a Mac is queued or due, or a broadcast is new.

        Sweeps and queries do not count.
        """
        unread = self._broadcasts_read < len(self._broadcast.records)
        return unread or self.reconciler.queue.has_due(now) or self._unaccepted.is_due(now)

    def _offer_again(self, now: datetime) -> None:
        """Send dispatch the jobs again that no executor has accepted in time.

        Dispatch verifies them: their events may be those of a row.
        """
        histories = self.reconciler.fleet.job_histories
        for job, raw in self._unaccepted.pop_due(histories, now, self._config.slice_size):
            self._send_to_dispatch(job.site, raw)

    def _fold_broadcasts(self, records: Sequence[BroadcastRecord]) -> None:
        """Fold broadcast records, the newest that were read; their Macs are not queued yet."""
        self._broadcasts_read = len(self._broadcast.records)
        self.reconciler.fleet.advisories = self._broadcast.fleet.advisories
        for record in records:
            if record.event is not None:
                self.reconciler.fold(record.event)

    def _queue_affected(self, records: Sequence[BroadcastRecord], now: datetime) -> None:
        """Queue the Macs whose decision these records can change.

        Once all of them are decided, the records' offsets go into `broadcast_offsets`.
        """
        if not records:
            return
        offsets = {record.topic: record.offset + 1 for record in records}
        self.reconciler.queue_broadcast([record.change for record in records], offsets)
        for topic, offset, _, _, rejection in records:
            # Every shard reads them: one writes the dead letters.
            if rejection is not None and self.partition == 0:
                self._dead_letter_record(topic, offset, rejection.raw, rejection, now)

    # --- output ---

    def collect(self) -> ShardOutput:
        """Return records, rows and counters since the last call, and start a new output.

        The rows are those that `DirtyRows.pop_all` names.
        """
        output, self._output = self._output, ShardOutput()
        reconciler = self.reconciler
        for udid in self._dirty_rows.pop_all():
            history = reconciler.fleet.job_histories.get(udid, ())
            output.rows[udid.encode()] = rows.encode_device(
                *(reconciler, udid, self.epoch),
                is_decided=not reconciler.queue.is_undecided(udid),
                issued_event=self._unaccepted.event_of(udid, history),
            )
        return output

    def _keep(self, changes: Changes, now: datetime) -> None:
        """Keep all changes for `collect`: as records, counters, and names of rows.

        Called after each step, not once a round: the garbage collector visits the decisions and
        events of a `Changes` while it exists.
        """
        self._publish(changes)
        counters, queue = self._output.counters, self.reconciler.queue
        counters.results.update(changes.results)
        counters.durations += changes.durations
        for rejected in changes.rejections:  # Macs for which deciding raised
            self._dead_letter(INVENTORY.name, rejected.raw, rejected, rejected.udid or "", now)
        self._dirty_rows.add_changes(changes)
        self._queries.add(changes.job_histories)
        self._dirty_rows.add(udid for udid in changes.marked if queue.is_undecided(udid))
        for topic, offset in changes.offsets.items():
            reached = self.broadcast_offsets.get(topic, 0)
            self.broadcast_offsets[topic] = max(offset, reached)

    def _publish(self, changes: Changes) -> None:
        """Add the records of the changes to the output, and count the decisions.

        Dispatch, which counts the open jobs of a site, gets each event that opens or ends a job.
        """
        output, fast_paths = self._output, self._config.fast_paths
        withdrawals: dict[bytes, bytes] = {}
        for key, plain, value in changes.records:
            topic, body = _TOPIC_OF[type(value)], plain
            if isinstance(value, JobSupersededEvent):
                body = sign_record(plain, WITHDRAWAL_RECORD, self._config.signing_key)
                withdrawals[plain] = body
            output.records.append(OutgoingRecord(topic, self.partition, key.encode(), body))
            output.counters.issued += isinstance(value, JobIssuedEvent)
            if isinstance(value, DecisionRecord):
                output.counters.decisions[value.decision.action, value.decision.reason] += 1
            elif fast_paths:
                self._already_folded.add(body)
        for udid, job, plain in changes.job_changes:
            raw = withdrawals.get(plain, plain)
            if fast_paths:
                self._config.verified.add(raw)
            self._send_to_dispatch(job.site, raw)
            if job.outcome is None:
                self._unaccepted.add(udid, Offer(job, raw))

    def _send_to_dispatch(self, site: str, raw: bytes) -> None:
        partition = partition_of(site, self._config.partitions[DISPATCH.name])
        self._output.records.append(OutgoingRecord(DISPATCH.name, partition, site.encode(), raw))

    def _dead_letter_record(
        self, topic: str, offset: int, raw: bytes, reason: DeadLetterReason, now: datetime
    ) -> None:
        if topic in _STAMPED and reason.code not in _NOT_UNUSABLE:
            self._unusable[sender_of(raw)] += 1
        # A broadcast topic has one partition, and shard 0 writes its dead letters.
        origin = f"{topic}/{self.partition}/{offset}"
        self._dead_letter(topic, raw, reason, origin, now)

    def _is_proven(self, topic: str, code: DeadLetterCode) -> bool:
        """Return True for a record that a gateway, a feed or a worker made."""
        if topic in _STAMPED or topic == ADVISORIES.name:
            return self._config.stamps is not None and code is not DeadLetterCode.UNSTAMPED
        return topic == STATE.name

    def _dead_letter(
        self, topic: str, raw: bytes, reason: DeadLetterReason, origin: str, now: datetime
    ) -> None:
        count = self._config.partitions[DEAD_LETTERS.name]
        self._output.records.append(
            dead_letter_record(
                *(reason, raw),
                origin=origin,
                now=now,
                partition_count=count,
                is_proven=self._is_proven(topic, reason.code),
            )
        )
        self._output.counters.dead_letters[topic, reason.code] += 1


def _decode(topic: str, raw: bytes) -> Event:
    """Return the event of a record. Raises InvalidEvent, also if the topic has no such events."""
    event = decode(raw)
    if not isinstance(event, _MODELS[topic]):
        detail = f"{event.type} does not belong here"
        raise InvalidEvent(DeadLetterCode.UNKNOWN_TYPE, detail, "$.type")
    return event
