"""The worker: its partitions, and the round that makes records and their consequences durable.

A round has fixed steps, and only one round runs at a time; nothing else changes a shard's state:

1. fold the records and decide;
2. do due work (timers, broadcasts, sweeps) for a limited time;
3. publish the records of all shards except those for dispatch, then those for dispatch;
4. write the rows of all shards to the changelogs;
5. return the offsets; the caller commits them.

Membership in the group is checked before each write of steps 3 and 4.

| state of a partition | event | next state |
| --- | --- | --- |
| not owned | `assign` | recovering |
| recovering | changelog read, epoch row of this owner written, rows loaded | catching up |
| catching up | inputs folded up to their ends at the recovery | deciding |
| any owned | `suspend` | suspended |
| suspended | `assign`, changelog ends where this worker left it | the state before |
| suspended | `assign`, changelog has grown | recovering |
| suspended | `assign` without it | not owned |
| catching up, deciding | OwnershipLost in a round | not owned: all partitions of the round |
| catching up, deciding | a row with a higher epoch in its changelog | not owned: it alone |
| not owned | `recover`, if the group still assigns it to this worker | recovering |

`is_ready` is True for catching up and deciding; rounds include only these partitions.

Invariant: an offset is committed only after all that follows from the records before it is
confirmed. A crash at any step repeats work, with the same job ids, and loses none. Rows that this
worker writes after a row with a higher epoch are void (`rows`): the partition is dropped from
memory, and its records are read again, by another owner or by this one with a new epoch.
"""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from time import monotonic
from typing import Final

from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]
from faust.types import TP

from pipeline.metrics import Metrics
from pipeline.processors import rows
from pipeline.processors.batch_consumer import Batches, Group
from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.confirmed_producer import ConfirmedProducer, OwnershipLost
from pipeline.processors.dead_letter_limit import DeadLetterLimit
from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.dispatch_shard import DispatchShard
from pipeline.processors.gap_reporter import GapReporter
from pipeline.processors.owned_partition import (
    BROADCAST_PARTITIONS,
    OwnedPartition,
    changelog_of,
)
from pipeline.processors.partition_loader import LogOffsets, PartitionLoader, read_offsets
from pipeline.processors.recovery import Recovery, Stores
from pipeline.processors.shard_config import ShardConfig
from pipeline.processors.shard_output import Counters, ShardOutput
from runtime.logs import Log
from runtime.offset_gaps import OffsetGap
from runtime.retry import BROKER, Backoff
from schemas import logkeys as key
from schemas.topics import DISPATCH, INPUT_TOPICS

_INPUTS: Final = frozenset(topic.name for topic in INPUT_TOPICS)
_RECORDS_PER_STEP: Final = 500
_POLL_TIMEOUT_S: Final = 0.1
_MAX_UNSAVED_ROWS: Final = 5_000
_MAX_UNSAVED_S: Final = 10.0

Clock = Callable[[], datetime]


class Worker:
    """The partitions of one worker process.

    `rounds` counts the rounds that did something. `loader` recovers partitions; `gap_reporter` has
    the last lost records and moved offsets.
    """

    def __init__(
        self,
        broadcast: BroadcastState,
        config: ShardConfig,
        producer: ConfirmedProducer,
        stores: Stores,
        recovery: Recovery,
        *,
        clock: Clock,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self.partitions: dict[TopicPartition, OwnedPartition] = {}
        self.rounds = 0
        self.gap_reporter = GapReporter(metrics, log)
        self.loader = PartitionLoader(
            broadcast,
            config,
            producer,
            stores,
            recovery,
            self.gap_reporter,
            clock=clock,
            log=log,
        )
        self._broadcast = broadcast
        self._config = config
        self._producer = producer
        self._stores = stores
        self._recovery = recovery
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._dead_letter_limit = DeadLetterLimit()
        # Partitions are not released within a round.
        self._round_lock = asyncio.Lock()
        self._ownership_lost = False
        self._has_more = False

    # --- its partitions ---

    def is_ready(self, tp: TP) -> bool:
        """Return True if this worker owns the input partition and can process its records now."""
        owned = self.partitions.get(changelog_of(*tp))
        return owned is not None and owned.is_ready

    def poll_timeout_s(self) -> float:
        """Return the seconds to wait for records: 0 while due work is left, else 0.1."""
        return 0.0 if self._has_more else _POLL_TIMEOUT_S

    def suspend(self) -> None:
        """Mark all partitions as not ready until `assign`; their state stays in memory.

        Each may have another owner from now on.
        """
        for owned in self.partitions.values():
            owned.is_ready = False

    async def assign(
        self,
        changelogs: Collection[TopicPartition],
        on_ready: Callable[[TopicPartition], None],
    ) -> None:
        """Own exactly these changelog partitions: release the others, recover the new ones.

        A partition that this worker owned before continues from memory if no other worker has
        written to its changelog since. `on_ready` is called with each changelog partition when it
        is ready. Raises InvalidRow if too many rows of a partition are unreadable, or they are of a
        version before 0.1.0.
        """
        began = monotonic()
        self.suspend()
        async with self._round_lock:
            for changelog in [one for one in self.partitions if one not in changelogs]:
                self._release(changelog)
            for owned in self.partitions.values():
                # The local store must be complete before recovery compares it with Kafka. One that
                # fails is not: `changelog_end` is None then, and all of it is read again.
                self._save_snapshot(owned)
            offsets_in_memory = dict.fromkeys(changelogs) | {
                changelog: owned.changelog_end for changelog, owned in self.partitions.items()
            }
        await self.recover(offsets_in_memory, on_ready)
        self._log.info(
            "partitions ready",
            **{key.COUNT: len(self.partitions), key.DURATION_S: round(monotonic() - began, 3)},
        )

    async def recover(
        self,
        offsets_in_memory: Mapping[TopicPartition, int | None],
        on_ready: Callable[[TopicPartition], None],
    ) -> None:
        """Own these changelog partitions too; call it only while the group assigns them.

        `offsets_in_memory` has the end of each changelog up to which the state is in memory, else
        None. `on_ready` and errors are those of `assign`. While Kafka cannot be read, it waits, and
        then recovers the partitions that are not ready yet.
        """
        left = dict(offsets_in_memory)
        offsets: LogOffsets | None = None
        backoff = Backoff(BROKER)
        while left:
            try:
                async with (
                    self._recovery.open_offset_reader() as reader,
                    aclosing(self._recovery.catch_up(dict(left))) as caught_up,
                ):
                    # Read before the first partition is ready: this worker commits from then on.
                    if offsets is None:
                        offsets = await read_offsets(reader, left)
                    async for changelog, unchanged in caught_up:
                        if not unchanged:
                            self._release(changelog)
                            self.partitions[changelog] = await self.loader.restore(
                                changelog, reader, offsets
                            )
                        self.partitions[changelog].is_ready = True
                        left.pop(changelog)
                        on_ready(changelog)
            except KafkaError as error:
                self._warn_unreadable(error)
                await backoff.sleep()

    def _warn_unreadable(self, error: KafkaError) -> None:
        self._log.warning(
            "cannot read Kafka during a recovery, trying again", **{key.DETAIL: repr(error)}
        )

    def report_deleted(self, tp: TP, begin: int) -> None:
        """Report it if records before `begin`, all of which are deleted, were not folded."""
        owned = self.partitions.get(changelog_of(*tp))
        if owned is not None:
            expected = owned.input_offsets.get(tp.topic, begin)
            owned.input_offsets[tp.topic] = max(expected, begin)
            if begin > expected:
                self.gap_reporter.report(tp, OffsetGap(expected, begin, begin - expected))

    def _release(self, changelog: TopicPartition) -> None:
        owned = self.partitions.pop(changelog, None)
        if owned is not None:
            self._save_snapshot(owned)

    # --- a round ---

    async def process_batches(self, batches: Batches, group: Group) -> Mapping[TP, int]:
        """Run a round; return the next offset of each input partition that had records.

        Everything that follows from these records is confirmed by Kafka. Records of partitions that
        are not ready are skipped, and missing in the result. So are those of partitions that were
        dropped from memory: of one whose changelog has a row with a higher epoch, and of all
        partitions of the round if this worker is no member of the group. Raises
        DeadLetterLimitExceeded if too many of the first records are dead letters.
        """
        async with self._round_lock:
            return await self._process_round(
                {tp: records for tp, records in batches.items() if self.is_ready(tp)}, group
            )

    async def _process_round(self, batches: Batches, group: Group) -> Mapping[TP, int]:
        self._ownership_lost = False
        partitions = [owned for owned in self.partitions.values() if owned.is_ready]
        try:
            done = await self._fold(batches, self._clock())
            for owned in partitions:
                if owned.backlog:
                    await self._check_backlog(owned, batches, done, group)
            await self._run_due(partitions, self._clock())
            for tp, offset in done.items():
                self.partitions[changelog_of(*tp)].input_offsets[tp.topic] = offset
            moved = await self._flush(partitions, group)
        except OwnershipLost:
            # The partitions may have another owner: memory and Kafka may differ.
            for owned in partitions:
                if self.partitions.get(owned.changelog) is owned:
                    del self.partitions[owned.changelog]
            self._log.warning("partitions lost", **{key.COUNT: len(partitions)})
            return {}
        self.rounds += moved or bool(done)
        return {tp: offset for tp, offset in done.items() if changelog_of(*tp) in self.partitions}

    def abandon_batch(self) -> None:
        """Make the current round give up at its next failed write.

        It then drops its partitions from memory and returns no offset.
        """
        self._ownership_lost = True

    async def _fold(self, batches: Batches, now: datetime) -> dict[TP, int]:
        """Fold the records; return the offset after the last one of each input partition.

        A partition without records is missing. Raises DeadLetterLimitExceeded if too many of the
        first records are dead letters.
        """
        done: dict[TP, int] = {}
        used, unusable = 0, Counter[str]()
        for tp, records in batches.items():
            owned = self.partitions[changelog_of(*tp)]
            for start in range(0, len(records), _RECORDS_PER_STEP):
                some = list(records[start : start + _RECORDS_PER_STEP])
                letters = owned.shard.process_records(tp.topic, some, now)
                if tp.topic in _INPUTS:  # records of workers show nothing about those of gateways
                    used += max(0, len(some) - letters)
                await asyncio.sleep(0)
            unusable.update(owned.shard.pop_unusable())
            if records:
                done[tp] = records[-1].offset + 1
        self._dead_letter_limit.record(used, unusable)
        return done

    async def _check_backlog(
        self, owned: OwnedPartition, batches: Batches, done: Mapping[TP, int], group: Group
    ) -> None:
        """Remove inputs that are read to their ends from the backlog; if empty, end the catch-up.

        `done` has the next offset of each input partition in `batches`.
        """
        for tp, end in list(owned.backlog.items()):
            if tp in BROADCAST_PARTITIONS:
                offset = self._broadcast.next_offsets[tp.topic]
            else:
                offset = done[tp] if tp in batches else await group.position(tp)
            if offset >= end:
                del owned.backlog[tp]
        if not owned.backlog:
            owned.shard.finish_catch_up()

    async def _run_due(self, partitions: Sequence[OwnedPartition], now: datetime) -> None:
        """Let each shard do a piece of due work, then more in turns for up to `due_budget_s`.

        If work is still due after that, `poll_timeout_s` returns 0 until the next call.
        """
        until = monotonic() + self._config.due_budget_s
        busy = [owned for owned in partitions if owned.shard.tick(now)]
        while busy and monotonic() < until:
            await asyncio.sleep(0)
            busy = [owned for owned in busy if owned.shard.tick(now)]
        self._has_more = bool(busy)

    def is_idle(self) -> bool:
        """Return True if no round runs and no owned partition has work.

        All of them are then ready and caught up; sweeps do not count as work.
        """
        now = self._clock()
        return not self._round_lock.locked() and not any(
            not owned.is_ready or owned.backlog or owned.shard.is_behind(now)
            for owned in self.partitions.values()
        )

    async def _flush(self, partitions: Sequence[OwnedPartition], group: Group) -> bool:
        """Publish and write the output of a round, then add its counters to the metrics.

        Returns True if there was a record or a row. Raises OwnershipLost if this worker is no
        member of the group, or must give up after a failed write.
        """
        outputs = [(owned, _collect(owned)) for owned in partitions]
        if all(output.is_empty for _, output in outputs):
            self._report_all(outputs)
            return False
        # A job is in the topic of issued jobs before dispatch gets it: the next owner of the Mac
        # reads that topic first, and so knows every job that may have reached an executor.
        records = [record for _, output in outputs for record in output.records]
        for some in (
            [post for post in records if post.topic != DISPATCH.name],
            [post for post in records if post.topic == DISPATCH.name],
        ):
            if some:
                await self._require_membership(group)
                await self._producer.publish(some, self._is_ownership_lost)
        if any(output.rows for _, output in outputs):
            await self._require_membership(group)
            await self._write_rows(outputs)
        self._report_all(outputs)
        return True

    async def _require_membership(self, group: Group) -> None:
        """Raise OwnershipLost if this worker is no member of the group."""
        if not await group.is_member():
            raise OwnershipLost

    async def _write_rows(self, outputs: "Sequence[tuple[OwnedPartition, ShardOutput]]") -> None:
        """Write the rows to the changelogs, and record the new end of each changelog.

        Unsaved rows go to the local stores after 10 s or 5,000 rows. Drops a partition whose
        changelog has a row with a higher epoch: its rows are void. Raises OwnershipLost if a write
        fails and the round must give up.
        """
        written = {owned.changelog: (owned, output) for owned, output in outputs if output.rows}
        ends = await self._producer.write(
            {changelog: list(output.rows.items()) for changelog, (_, output) in written.items()},
            self._is_ownership_lost,
        )
        for changelog, (owned, output) in written.items():
            if ends[changelog] - len(output.rows) + 1 == owned.changelog_end:
                owned.changelog_end = ends[changelog] + 1
                owned.unsaved |= output.rows
            else:
                await self._reread_changelog(owned)
        for owned, _ in outputs:
            late = monotonic() - owned.saved_at >= _MAX_UNSAVED_S
            if owned.unsaved and (late or len(owned.unsaved) >= _MAX_UNSAVED_ROWS):
                self._save_snapshot(owned)
                if owned.changelog_end is None:
                    await self._reread_changelog(owned)

    async def _reread_changelog(self, owned: OwnedPartition) -> None:
        """Update the local store and `changelog_end` from a changelog with unexpected rows.

        Such rows are another writer's, or repeats of ours. The partition is dropped from memory if
        one of them has a higher epoch. While Kafka cannot be read, it waits; raises OwnershipLost
        if the round must give up meanwhile.
        """
        start = owned.changelog_end or 0
        self._save_snapshot(owned)
        owned.changelog_end = None
        owned.unsaved.clear()
        backoff = Backoff(BROKER)
        while True:
            try:
                async for _ in self._recovery.catch_up({owned.changelog: None}):
                    pass
                store = self._stores.get(owned.changelog)
                if store.epoch <= owned.shard.epoch:
                    owned.changelog_end = store.next_offset
                    return
                found = await self._recovery.rows_above(owned.changelog, owned.shard.epoch, start)
                break
            except KafkaError as error:
                if self._ownership_lost:
                    raise OwnershipLost from error
                self._warn_unreadable(error)
                await backoff.sleep()
        # Its memory includes its void rows: recovery reads the changelog and the records again.
        self.partitions.pop(owned.changelog, None)
        self.loader.report_rows_above(owned.changelog, found)
        self._log.warning("partitions lost", **{key.COUNT: 1})

    def _save_snapshot(self, owned: OwnedPartition) -> None:
        """Write a partition's unsaved rows to its local store, unless `changelog_end` is None.

        A store that fails is replaced by an empty one, which lacks older rows: `changelog_end` is
        None then, until the changelog is read again. The rows are in Kafka.
        """
        if owned.unsaved and owned.changelog_end is not None:
            try:
                store = self._stores.get(owned.changelog)
                store.put_rows(owned.unsaved, owned.changelog_end, owned.shard.epoch)
            except (OSError, sqlite3.Error) as error:
                self._stores.replace(owned.changelog, error)
                owned.changelog_end = None
            owned.unsaved = {}
        owned.saved_at = monotonic()

    def close(self) -> None:
        """Write all unsaved rows to the local stores, which stay open.

        Those of a partition of which `changelog_end` is None are not written.
        """
        for owned in self.partitions.values():
            self._save_snapshot(owned)

    def _is_ownership_lost(self) -> bool:
        return self._ownership_lost

    def _report_all(self, outputs: "Sequence[tuple[OwnedPartition, ShardOutput]]") -> None:
        for _, output in outputs:
            self._report(output.counters)

    def _report(self, counters: Counters) -> None:
        metrics = self._metrics
        for topic, count in counters.folded.items():
            metrics.count_folded(topic, count, counters.oldest_age_s.get(topic, 0.0))
        for (action, reason), count in counters.decisions.items():
            metrics.count_decision(action, reason, count)
        if counters.decisions and counters.oldest_receipt is not None:
            waited_s = (self._clock() - counters.oldest_receipt).total_seconds()
            metrics.observe_latency(waited_s, has_job=counters.issued > 0)
        for (action, outcome, site, method, error), count in counters.results.items():
            metrics.count_result(action, outcome, count)
            metrics.count_attempt(site, method, outcome, error, count)
        for succeeded, duration_s in counters.durations:
            metrics.observe_job_duration(succeeded, duration_s)
        for site, count in counters.offered_again.items():
            metrics.count_offered_again(site, count)
            self._log.warning(
                "no agent accepted jobs; offered again", **{key.SITE: site, key.COUNT: count}
            )
        for kind, count in counters.due_queries.items():
            metrics.count_due_queries(kind, count)
        for (topic, code), count in counters.dead_letters.items():
            metrics.count_dead_letter(topic, code, count)
            self._log.error(
                "records dead-lettered",
                **{key.TOPIC: topic, key.ERROR_CODE: code, key.COUNT: count},
            )

    def sites_without_topic(self) -> set[str]:
        """Return the sites, of all owned partitions, with waiting jobs and without a job topic."""
        return {
            site
            for owned in self.partitions.values()
            if isinstance(owned.shard, DispatchShard)
            for site in owned.shard.sites_without_topic()
        }

    def device_shards(self) -> list[DeviceShard]:
        """Return the device shards of the partitions that are ready."""
        shards = [owned.shard for owned in self.partitions.values() if owned.is_ready]
        return [shard for shard in shards if isinstance(shard, DeviceShard)]


def _collect(owned: OwnedPartition) -> ShardOutput:
    """Return the output of a partition, with the epoch row if anything in the state changed."""
    output = owned.shard.collect()
    broadcast_offsets = dict(owned.shard.broadcast_offsets)
    if output.rows or broadcast_offsets != owned.epoch_row.broadcast_offsets:
        owned.epoch_row = rows.EpochRow(
            owned.shard.epoch, broadcast_offsets, dict(owned.input_offsets)
        )
        output.rows[rows.EPOCH_KEY] = owned.epoch_row.to_row()
    return output
