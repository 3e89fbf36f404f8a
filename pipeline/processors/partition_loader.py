"""Recovery of the state of a partition: from the rows of its changelog to a shard in memory.

The epoch row of the new owner is written before the rows are loaded: rows that a former owner
writes after it are void; rows before it count, and are read.

An unreadable row costs one Mac or one job at most: the last readable row of its key in the
changelog is loaded, if compaction has left one, and written again; the row becomes a dead letter.
"""

import asyncio
import gc
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple

from aiokafka.structs import OffsetAndMetadata, TopicPartition  # type: ignore[import-untyped]
from faust.types import TP

from pipeline.policy.file import read_policy
from pipeline.processors import rows
from pipeline.processors.broadcast import BroadcastState
from pipeline.processors.confirmed_producer import ConfirmedProducer, Row
from pipeline.processors.device_shard import DeviceShard
from pipeline.processors.dispatch_shard import DispatchShard
from pipeline.processors.gap_reporter import GapReporter
from pipeline.processors.owned_partition import OwnedPartition, Shard, inputs_of, sources_of
from pipeline.processors.recovery import OffsetReader, Recovery, Stores
from pipeline.processors.shard_config import ShardConfig
from runtime.logs import Log
from runtime.offset_gaps import OffsetGap, find_gap
from schemas import logkeys as key
from schemas.dead_letters import DeadLetterCode, Problem
from schemas.topics import STATE, queries_topic

_ROWS_PER_STEP: Final = 500
# More unreadable rows of a partition, and a larger share of them, were written by another version,
# or before partitions were added: a person must choose what happens to the state.
_MAX_UNREADABLE_ROWS: Final = 3
_MAX_UNREADABLE_RATIO: Final = 0.1
_MAX_REPORTED_ROWS: Final = 10


class _UnreadableRow(NamedTuple):
    raw: bytes
    detail: str


class LogOffsets(NamedTuple):
    """Offsets of input and broadcast partitions when a recovery begins."""

    begins: Mapping[TopicPartition, int]
    ends: Mapping[TopicPartition, int]
    committed: Mapping[TopicPartition, OffsetAndMetadata]


async def read_offsets(reader: OffsetReader, changelogs: Collection[TopicPartition]) -> LogOffsets:
    """Return the offsets of all inputs of these changelog partitions, and of broadcast topics."""
    sources = list(dict.fromkeys(one for each in changelogs for one in sources_of(each)))
    return LogOffsets(
        await reader.begins(sources), await reader.ends(sources), await reader.committed()
    )


class PartitionLoader:
    """Loads partitions from their changelogs.

    `job_topics` and `query_topics` map existing topics of jobs and of queries to their numbers of
    partitions; the service updates them.
    `known_broadcast_ends` has, by topic, the highest offset in an epoch row that was read.
    """

    def __init__(
        self,
        broadcast: BroadcastState,
        config: ShardConfig,
        producer: ConfirmedProducer,
        stores: Stores,
        recovery: Recovery,
        gap_reporter: GapReporter,
        *,
        clock: Callable[[], datetime],
        log: Log,
    ) -> None:
        self.job_topics: dict[str, int] = {}
        self.query_topics: dict[str, int] = {}
        self.known_broadcast_ends: dict[str, int] = {}
        self._broadcast = broadcast
        self._config = config
        self._producer = producer
        self._stores = stores
        self._recovery = recovery
        self._gap_reporter = gap_reporter
        self._clock = clock
        self._log = log

    def lacks_query_topic(self) -> bool:
        """Return True if a site of the policy in force has no topic for queries."""
        changed = self._broadcast.fleet.policy
        sites = () if changed is None else read_policy(changed.text).sites
        return any(queries_topic(site) not in self.query_topics for site in sites)

    async def restore(
        self, changelog: TopicPartition, reader: OffsetReader, offsets: LogOffsets
    ) -> OwnedPartition:
        """Return the partition with its state in memory; not ready yet, all inputs in `backlog`.

        Writes the epoch row of this owner first. A store that fails is replaced, read from Kafka
        again and loaded again. Raises KafkaError if Kafka cannot be read, InvalidRow as `_load`.
        """
        while True:
            try:
                shard, epoch_row = await self._load(changelog, offsets)
                break
            except (OSError, sqlite3.Error) as error:
                self._stores.replace(changelog, error)
                async for _ in self._recovery.catch_up({changelog: None}):
                    pass
        # Fetched after the epoch row: the backlog includes all that former owners published before.
        ends = await reader.ends(sources_of(changelog))
        return OwnedPartition(
            changelog,
            shard,
            epoch_row,
            dict(epoch_row.input_offsets),
            self._stores.get(changelog).next_offset,
            backlog={TP(*tp): end for tp, end in ends.items()},
        )

    async def _load(
        self, changelog: TopicPartition, offsets: LogOffsets
    ) -> tuple[Shard, rows.EpochRow]:
        """Write the epoch row of this owner, and return it and a shard with all other rows.

        Raises OSError or sqlite3.Error if the store fails, KafkaError if Kafka does, and InvalidRow
        if the changelog was written before release 0.1.0 or too many rows are unreadable.
        """
        unreadable: dict[bytes, _UnreadableRow] = {}
        epoch_row = await self._write_epoch_row(changelog, unreadable, offsets)
        shard = self._new_shard(changelog)
        number = 0
        with _without_gc():
            for number, (name, raw) in enumerate(self._stores.get(changelog).all(), 1):
                try:
                    rows.check_key(name)
                    shard.load(name, raw)
                except rows.InvalidRow as error:
                    unreadable[name] = _UnreadableRow(raw, str(error))
                if number % _ROWS_PER_STEP == 0:
                    await asyncio.sleep(0)
            if len(unreadable) > max(_MAX_UNREADABLE_ROWS, _MAX_UNREADABLE_RATIO * number):
                detail = next(iter(unreadable.values())).detail
                raise rows.InvalidRow(
                    f"{changelog.topic}/{changelog.partition}: {len(unreadable)} of {number} rows"
                    f" are unreadable, the first one: {detail}"
                )
            origins = await self._load_earlier_rows(changelog, shard, unreadable)
            shard.epoch = epoch_row.epoch
            shard.begin(self._clock())
        for name, row in unreadable.items():
            reason = Problem(DeadLetterCode.UNREADABLE, f"key {name!r}: {row.detail}")
            shard.replace_row(name, row.raw, reason, origins[name], self._clock())
        return shard, epoch_row

    async def _write_epoch_row(
        self,
        changelog: TopicPartition,
        unreadable: dict[bytes, _UnreadableRow],
        offsets: LogOffsets,
    ) -> rows.EpochRow:
        """Write the epoch row of this owner to changelog and store; return it.

        Its offsets are those from which this owner continues; records that are lost before them are
        reported.

        An unreadable epoch row is added to `unreadable`: all Macs are then decided again by all
        broadcast records. Raises as `_load`.
        """
        store = self._stores.get(changelog)
        raw = store.get(rows.EPOCH_KEY)
        if raw is None and store.get(rows.PRE_RELEASE_EPOCH_KEY) is not None:
            try:
                rows.check_key(rows.PRE_RELEASE_EPOCH_KEY)
            except rows.InvalidRow as error:
                name = f"{changelog.topic}/{changelog.partition}"
                raise rows.InvalidRow(f"{name}: {error}") from error
        try:
            last = rows.EpochRow.decode(raw)
        except rows.InvalidRow as error:
            last = rows.EpochRow()
            unreadable[rows.EPOCH_KEY] = _UnreadableRow(raw or b"", str(error))
        # The epoch row is written before the rows are loaded: rows that a former owner writes after
        # it are void; rows before it count, and are read. The epoch row can be lost, or a row can
        # have a higher epoch: rows of an owner that counts on from the epoch row would be void.
        if last.epoch < store.epoch:
            self.report_rows_above(
                changelog, await self._recovery.rows_above(changelog, last.epoch)
            )
        last = replace(
            last,
            broadcast_offsets=self._check_broadcasts(last, offsets),
            input_offsets=self._check_inputs(changelog, last, offsets),
        )
        while True:
            last = last.next_epoch(self._stores.get(changelog).epoch)
            epoch_rows: list[Row] = [(rows.EPOCH_KEY, last.to_row())]
            ends = await self._producer.write({changelog: epoch_rows}, _never)
            store = self._stores.get(changelog)
            if ends[changelog] == store.next_offset:
                store.put_rows(dict(epoch_rows), ends[changelog] + 1, last.epoch)
                return last
            async for _ in self._recovery.catch_up({changelog: None}):
                pass
            if self._stores.get(changelog).epoch == last.epoch:
                return last
            # A row with a higher epoch came before the new epoch row.

    def report_rows_above(
        self, changelog: TopicPartition, found: Sequence[tuple[int, bytes]]
    ) -> None:
        """Log the first rows with a higher epoch than the owner of their partition."""
        for offset, name in found[:_MAX_REPORTED_ROWS]:
            self._log.error(
                "row with a higher epoch than its owner: which program wrote it?",
                **{key.TOPIC: changelog.topic, key.PARTITION: changelog.partition},
                **{key.OFFSET: offset, key.KEY: repr(name)},
            )

    def _check_broadcasts(self, last: rows.EpochRow, offsets: LogOffsets) -> dict[str, int]:
        """Return the offsets of broadcast topics from which this owner decides; report a gap.

        It is 0 for a topic that ends before the offset in the epoch row: the topic was created
        again, and its records are new. While it has none, the offset is kept.
        """
        checked = {}
        for topic, offset in last.broadcast_offsets.items():
            known = self.known_broadcast_ends.get(topic, 0)
            self.known_broadcast_ends[topic] = max(known, offset)
            end = offsets.ends.get(TopicPartition(topic, 0), offset)
            is_cut = 0 < end < offset
            checked[topic] = 0 if is_cut else offset
            if is_cut and known < offset:
                self._gap_reporter.report(
                    TP(topic, 0), OffsetGap(offset, 0, offset - end, is_cut=True)
                )
        return checked

    def _check_inputs(
        self, changelog: TopicPartition, last: rows.EpochRow, offsets: LogOffsets
    ) -> dict[str, int]:
        """Return the offsets of input topics from which this owner folds; report every gap."""
        checked = dict(last.input_offsets)
        for tp in inputs_of(changelog):
            partition = TopicPartition(*tp)
            committed = offsets.committed.get(partition)
            gap = find_gap(
                kept=last.input_offsets.get(tp.topic),
                committed=None if committed is None else committed.offset,
                metadata="" if committed is None else committed.metadata,
                begin=offsets.begins[partition],
                end=offsets.ends[partition],
            )
            if gap is not None:
                checked[tp.topic] = gap.start
                self._gap_reporter.report(tp, gap)
            elif tp.topic not in checked:
                start = offsets.begins[partition] if committed is None else committed.offset
                checked[tp.topic] = start
        return checked

    async def _load_earlier_rows(
        self,
        changelog: TopicPartition,
        shard: Shard,
        unreadable: Mapping[bytes, _UnreadableRow],
    ) -> dict[bytes, str]:
        """Load the last readable row of each of these keys from the changelog, if one is left.

        Logs each unreadable row. Returns its `topic/partition/offset` by key. Raises KafkaError.
        """
        if not unreadable:
            return {}
        history = await self._recovery.history_of(changelog, unreadable)
        origins = {}
        for name, row in unreadable.items():
            offset = max((at for at, raw in history[name] if raw == row.raw), default=-1)
            origins[name] = f"{changelog.topic}/{changelog.partition}/{offset}"
            is_replaced = name != rows.EPOCH_KEY and _load_newest(shard, name, history[name])
            self._log.error(
                "unreadable row replaced by an earlier one"
                if is_replaced
                else "unreadable row deleted: see its dead letter",
                **{key.TOPIC: changelog.topic, key.PARTITION: changelog.partition},
                **{key.OFFSET: offset, key.KEY: repr(name), key.DETAIL: row.detail},
            )
        return origins

    def _new_shard(self, changelog: TopicPartition) -> Shard:
        if changelog.topic == STATE.name:
            return DeviceShard(
                changelog.partition, self._broadcast, self._config, self.query_topics
            )
        return DispatchShard(changelog.partition, self._broadcast, self._config, self.job_topics)


def _load_newest(shard: Shard, name: bytes, history: list[tuple[int, bytes | None]]) -> bool:
    """Load the newest row of a key that can be loaded: of the highest epoch, then the last one.

    Returns False if there is none.
    """
    candidates = []
    for offset, raw in history:
        with suppress(rows.InvalidRow):
            if raw is not None:
                candidates.append((rows.epoch_of(raw), offset, raw))
    for _, _, raw in sorted(candidates, reverse=True):
        with suppress(rows.InvalidRow):
            rows.check_key(name)
            shard.load(name, raw)
            return True
    return False


@contextmanager
def _without_gc() -> Iterator[None]:
    """Run the block without garbage collection, and exclude all objects at its end from later ones.

    These are all objects of the process; if the block raises, none is excluded.
    The state is millions of objects without a reference cycle; reference counting frees them.
    Collections would take a sixth of the time of loading, and half a second each later.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


def _never() -> bool:
    return False
