"""One worker: its partitions, and the round of taking records and making them durable.

Owns which partitions are ready, and the order of a round: fold and decide, do what is due, publish,
write the state, and only then let offsets be committed. One round at a time; nothing else touches
a partition's state.
"""

import asyncio
import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Final, Protocol

import structlog
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]
from faust.types import TP

from pipeline.metrics import Metrics
from pipeline.processors import rows
from pipeline.processors.batch_consumer import Batches, Group
from pipeline.processors.broadcast import BROADCAST_TOPICS, BroadcastState
from pipeline.processors.confirmed_producer import ConfirmedProducer, OwnershipLost, Row
from pipeline.processors.dead_letter_limit import DeadLetterLimit
from pipeline.processors.device_shard import DEVICE_TOPICS, DeviceShard
from pipeline.processors.dispatch_shard import DispatchShard
from pipeline.processors.recovery import FetchEndOffsets, Recovery, Stores
from pipeline.processors.shard_config import ShardConfig
from pipeline.processors.shard_output import ConsumedRecord, Counters, ShardOutput
from schemas import logkeys as key
from schemas.topics import DISPATCH, DISPATCH_STATE, STATE

_RECORDS_PER_STEP: Final = 500
_POLL_TIMEOUT_S: Final = 0.1
_ROWS_PER_STEP: Final = 500
_MAX_UNSAVED_ROWS: Final = 5_000
_MAX_UNSAVED_S: Final = 10.0

Clock = Callable[[], datetime]
Log = structlog.typing.FilteringBoundLogger


class Shard(Protocol):
    """What a worker does with a partition."""

    epoch: int

    def load(self, key: bytes, raw: bytes, /) -> None:
        """Take a row of the kept state."""

    def begin(self, now: datetime, /) -> None:
        """All rows are loaded: go on from there."""

    def finish_catch_up(self) -> None:
        """All is folded that was in the topics when the partition changed hands."""

    def process_records(self, topic: str, records: "list[ConsumedRecord]", now: datetime, /) -> int:
        """Fold records; how many were set aside."""

    def tick(self, now: datetime, /) -> bool:
        """Do a piece of what is due; True if there is more."""

    def is_behind(self, now: datetime, /) -> bool:
        """Whether anything is due."""

    def collect(self) -> ShardOutput:
        """What is to be made durable."""


@dataclass(slots=True)
class OwnedPartition:
    """A partition that this worker owns.

    `end` is the end of its changelog as this worker left it; None once somebody else wrote there
    too, so that what is in memory may not be all there is. `backlog` is what is still to be taken
    of what was there before it: ends, by input.
    """

    changelog: TopicPartition
    shard: Shard
    changelog_end: int | None
    backlog: dict[TP, int]
    is_ready: bool = False
    unsaved: dict[bytes, bytes | None] = field(default_factory=dict)
    saved_at: float = 0.0


_BROADCAST_PARTITIONS: Final = tuple(TP(topic.name, 0) for topic in BROADCAST_TOPICS)
_DEVICE_NAMES: Final = frozenset(topic.name for topic in DEVICE_TOPICS)


def inputs_of(changelog: TopicPartition) -> list[TP]:
    """The input partitions whose state is in a changelog partition."""
    topics = DEVICE_TOPICS if changelog.topic == STATE.name else (DISPATCH,)
    return [TP(topic.name, changelog.partition) for topic in topics]


def changelog_of(topic: str, partition: int) -> TopicPartition:
    """The changelog partition behind a partition of an input topic."""
    name = STATE.name if topic in _DEVICE_NAMES else DISPATCH_STATE.name
    return TopicPartition(name, partition)


class Worker:
    """The partitions of one process. `job_topics` are those that exist, kept up to date by whoever
    runs it."""

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
        self.job_topics: dict[str, int] = {}
        self.rounds = 0
        self._broadcast = broadcast
        self._config = config
        self._producer = producer
        self._stores = stores
        self._recovery = recovery
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._dead_letter_limit = DeadLetterLimit()
        # Who owns what does not change within a round.
        self._round_lock = asyncio.Lock()
        self._ownership_lost = False
        self._has_more = False

    # --- what it owns ---

    def is_ready(self, tp: TP) -> bool:
        """Whether records of this input partition may be taken."""
        owned = self.partitions.get(changelog_of(*tp))
        return owned is not None and owned.is_ready

    def poll_timeout_s(self) -> float:
        """How long to wait for records: not at all while something else is to be done."""
        return 0.0 if self._has_more else _POLL_TIMEOUT_S

    def suspend(self) -> None:
        """Partitions may be another worker's from now on, until `own` says otherwise."""
        for owned in self.partitions.values():
            owned.is_ready = False

    async def assign(
        self,
        changelogs: Collection[TopicPartition],
        on_ready: Callable[[TopicPartition], None],
    ) -> None:
        """Own exactly these changelog partitions: let the others go, and bring up what is new.

        What was ours before and was written by nobody else since goes on from memory.
        """
        self.suspend()
        async with self._round_lock:
            for changelog in [place for place in self.partitions if place not in changelogs]:
                self._release(changelog)
            for owned in self.partitions.values():
                # What is in the file is on a par with Kafka before anybody compares the two.
                self._save_snapshot(owned)
            offsets_in_memory = dict.fromkeys(changelogs) | {
                place: home.changelog_end for place, home in self.partitions.items()
            }
        began = monotonic()
        async with self._recovery.open_offset_reader() as ends_of:
            async for changelog, unchanged in self._recovery.catch_up(offsets_in_memory):
                if not unchanged:
                    self._release(changelog)
                    self.partitions[changelog] = await self._restore(changelog, ends_of)
                self.partitions[changelog].is_ready = True
                on_ready(changelog)
        self._log.info(
            "partitions ready",
            **{key.COUNT: len(self.partitions), key.DURATION_S: round(monotonic() - began, 3)},
        )

    async def _restore(
        self, changelog: TopicPartition, fetch_end_offsets: FetchEndOffsets
    ) -> OwnedPartition:
        store = self._stores.get(changelog)
        # The claim is written before anything is decided by: what a former owner writes after it
        # is void. What it wrote before it counts, and is read.
        epoch_row = rows.EpochRow.decode(store.get(rows.EPOCH_KEY)).next_epoch()
        epoch_rows: list[Row] = [(rows.EPOCH_KEY, epoch_row.to_row())]
        ends = await self._producer.write({changelog: epoch_rows}, _never)
        if ends[changelog] == store.next_offset:
            store.put_rows(dict(epoch_rows), ends[changelog] + 1, epoch_row.epoch)
        else:
            async for _ in self._recovery.catch_up({changelog: None}):
                pass
        shard = self._new_shard(changelog)
        with _without_gc():
            for number, (name, raw) in enumerate(store.all()):
                shard.load(name, raw)
                if number % _ROWS_PER_STEP == 0:
                    await asyncio.sleep(0)
            shard.begin(self._clock())
        # Asked after the claim: all that former owners published before it is a part of this.
        ends = await fetch_end_offsets(
            [TopicPartition(*tp) for tp in (*inputs_of(changelog), *_BROADCAST_PARTITIONS)]
        )
        backlog = {TP(*tp): end for tp, end in ends.items()}
        return OwnedPartition(changelog, shard, store.next_offset, backlog)

    def _new_shard(self, changelog: TopicPartition) -> Shard:
        if changelog.topic == STATE.name:
            return DeviceShard(changelog.partition, self._broadcast, self._config)
        return DispatchShard(changelog.partition, self._broadcast, self._config, self.job_topics)

    def _release(self, changelog: TopicPartition) -> None:
        owned = self.partitions.pop(changelog, None)
        if owned is not None:
            self._save_snapshot(owned)

    # --- a round ---

    async def process_batches(self, batches: Batches, group: Group) -> Mapping[TP, int]:
        """Fold, decide, publish, write; the offsets to go on from once all that is confirmed.
        Records of partitions that are not ready are left."""
        async with self._round_lock:
            return await self._process_round(
                {tp: records for tp, records in batches.items() if self.is_ready(tp)}, group
            )

    async def _process_round(self, batches: Batches, group: Group) -> Mapping[TP, int]:
        self._ownership_lost = False
        partitions = [owned for owned in self.partitions.values() if owned.is_ready]
        try:
            done = await self._fold(batches, self._clock())
            for home in partitions:
                if home.backlog:
                    await self._check_backlog(home, batches, done, group)
            await self._run_due(partitions, self._clock())
            moved = await self._flush(partitions, group)
        except OwnershipLost:
            # They may be another's: what is in memory is not what Kafka has.
            for home in partitions:
                if self.partitions.get(home.changelog) is home:
                    del self.partitions[home.changelog]
            self._log.warning("partitions lost", **{key.COUNT: len(partitions)})
            return {}
        self.rounds += moved or bool(done)
        return done

    def abandon_batch(self) -> None:
        """The partitions are lost: stop waiting for a broker that does not answer."""
        self._ownership_lost = True

    async def _fold(self, batches: Batches, now: datetime) -> dict[TP, int]:
        done: dict[TP, int] = {}
        read = dead_lettered = 0
        for tp, records in batches.items():
            owned = self.partitions[changelog_of(*tp)]
            for start in range(0, len(records), _RECORDS_PER_STEP):
                some = list(records[start : start + _RECORDS_PER_STEP])
                dead_lettered += owned.shard.process_records(tp.topic, some, now)
                await asyncio.sleep(0)
            read += len(records)
            if records:
                done[tp] = records[-1].offset + 1
        self._dead_letter_limit.record(read, dead_lettered)
        return done

    async def _check_backlog(
        self, owned: OwnedPartition, batches: Batches, done: Mapping[TP, int], group: Group
    ) -> None:
        """See what is left of a backlog; the shard is told once nothing is."""
        for tp, end in list(owned.backlog.items()):
            if tp in _BROADCAST_PARTITIONS:
                offset = self._broadcast.next_offsets[tp.topic]
            else:
                offset = done[tp] if tp in batches else await group.position(tp)
            if offset >= end:
                del owned.backlog[tp]
        if not owned.backlog:
            owned.shard.finish_catch_up()

    async def _run_due(self, partitions: Sequence[OwnedPartition], now: datetime) -> None:
        until = monotonic() + self._config.due_budget_s
        busy = [owned for owned in partitions if owned.shard.tick(now)]
        while busy and monotonic() < until:
            await asyncio.sleep(0)
            busy = [home for home in busy if home.shard.tick(now)]
        self._has_more = bool(busy)

    def is_idle(self) -> bool:
        """Whether everything that was read, and all that is due now, is done and confirmed."""
        now = self._clock()
        return not self._round_lock.locked() and not any(
            not owned.is_ready or owned.backlog or owned.shard.is_behind(now)
            for owned in self.partitions.values()
        )

    async def _flush(self, partitions: Sequence[OwnedPartition], group: Group) -> bool:
        """Publish and write what came of a round; whether anything did. Raises GivenUp."""
        outputs = [(owned, owned.shard.collect()) for owned in partitions]
        if all(output.is_empty for _, output in outputs):
            self._report_all(outputs)
            return False
        # An order is in the log of orders before dispatch hears of it: whoever takes over reads
        # that log first, and knows of all that may have reached an executor.
        records = [record for _, work in outputs for record in work.records]
        for some in (
            [post for post in records if post.topic != DISPATCH.name],
            [post for post in records if post.topic == DISPATCH.name],
        ):
            if some:
                await self._require_membership(group)
                await self._producer.publish(some, self._is_ownership_lost)
        if any(work.rows for _, work in outputs):
            await self._require_membership(group)
            await self._write_rows(outputs)
        self._report_all(outputs)
        return True

    async def _require_membership(self, group: Group) -> None:
        if not await group.is_member():
            raise OwnershipLost

    async def _write_rows(self, outputs: "Sequence[tuple[OwnedPartition, ShardOutput]]") -> None:
        """Write state rows, and note how far that brought each changelog."""
        written = {owned.changelog: (owned, output) for owned, output in outputs if output.rows}
        ends = await self._producer.write(
            {changelog: list(work.rows.items()) for changelog, (_, work) in written.items()},
            self._is_ownership_lost,
        )
        for place, (home, work) in written.items():
            if ends[place] - len(work.rows) + 1 == home.changelog_end:
                home.changelog_end = ends[place] + 1
                home.unsaved |= work.rows
            else:
                await self._reread_changelog(home)
        for home, _ in outputs:
            late = monotonic() - home.saved_at >= _MAX_UNSAVED_S
            if home.unsaved and (late or len(home.unsaved) >= _MAX_UNSAVED_ROWS):
                self._save_snapshot(home)

    async def _reread_changelog(self, owned: OwnedPartition) -> None:
        """Others wrote into this changelog, or our rows are there twice: see whose it is. Raises
        GivenUp where it is another owner's, for our rows after its claim are void."""
        self._save_snapshot(owned)
        owned.changelog_end = None
        owned.unsaved.clear()
        async for _ in self._recovery.catch_up({owned.changelog: None}):
            pass
        store = self._stores.get(owned.changelog)
        if store.epoch > owned.shard.epoch:
            raise OwnershipLost
        owned.changelog_end = store.next_offset

    def _save_snapshot(self, owned: OwnedPartition) -> None:
        """Copy what was written since the last time to this machine's disk."""
        if owned.unsaved and owned.changelog_end is not None:
            store = self._stores.get(owned.changelog)
            store.put_rows(owned.unsaved, owned.changelog_end, owned.shard.epoch)
            owned.unsaved = {}
        owned.saved_at = monotonic()

    def close(self) -> None:
        """Copy to disk what is confirmed and not there yet."""
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
        for (acted, outcome), count in counters.results.items():
            metrics.count_result(acted, outcome, count)
        for done, duration_s in counters.durations:
            metrics.observe_job_duration(done, duration_s)
        for (topic, code), count in counters.dead_letters.items():
            metrics.count_dead_letter(topic, code, count)
            self._log.error(
                "records dead-lettered",
                **{key.TOPIC: topic, key.ERROR_CODE: code, key.COUNT: count},
            )

    def sites_without_topic(self) -> set[str]:
        """Sites that jobs wait for and that have no job topic."""
        return {
            site
            for owned in self.partitions.values()
            if isinstance(owned.shard, DispatchShard)
            for site in owned.shard.sites_without_topic()
        }

    def device_shards(self) -> list[DeviceShard]:
        """The Macs' partitions that are ready."""
        shards = [owned.shard for owned in self.partitions.values() if owned.is_ready]
        return [shard for shard in shards if isinstance(shard, DeviceShard)]


@contextmanager
def _without_gc() -> Iterator[None]:
    """What is made here is left out of garbage collections, now and later.

    It is millions of objects without a cycle, which go when nothing refers to them. To walk over
    them again and again takes a sixth of the time to make them, and later half a second at a time.
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
