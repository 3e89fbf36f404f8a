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
from pipeline.processors.device_shard import DEVICE_TOPICS, DeviceShard
from pipeline.processors.dispatch_shard import DispatchShard
from pipeline.processors.facts import FACT_TOPICS, Facts
from pipeline.processors.outbox import GivenUp, Outbox, Row
from pipeline.processors.poison import PoisonWatch
from pipeline.processors.recovery import EndsOf, Recovery, Stores
from pipeline.processors.terms import Terms
from pipeline.processors.work import Incoming, Tally, Work
from schemas import logkeys as key
from schemas.topics import DISPATCH, DISPATCH_STATE, STATE

_CHUNK: Final = 500
_PATIENCE_S: Final = 0.1
_LOADED_AT_ONCE: Final = 500
_KEPT_BACK: Final = 5_000
_KEPT_BACK_S: Final = 10.0

Clock = Callable[[], datetime]
Log = structlog.typing.FilteringBoundLogger


class Shard(Protocol):
    """What a worker does with a partition."""

    epoch: int

    def load(self, key: bytes, raw: bytes, /) -> None:
        """Take a row of the kept state."""

    def begin(self, now: datetime, /) -> None:
        """All rows are loaded: go on from there."""

    def caught_up(self) -> None:
        """All is folded that was in the topics when the partition changed hands."""

    def take(self, topic: str, records: "list[Incoming]", now: datetime, /) -> int:
        """Fold records; how many were set aside."""

    def tick(self, now: datetime, /) -> bool:
        """Do a piece of what is due; True if there is more."""

    def is_behind(self, now: datetime, /) -> bool:
        """Whether anything is due."""

    def collect(self) -> Work:
        """What is to be made durable."""


@dataclass(slots=True)
class Home:
    """A partition that this worker owns.

    `end` is the end of its changelog as this worker left it; None once somebody else wrote there
    too, so that what is in memory may not be all there is. `backlog` is what is still to be taken
    of what was there before it: ends, by input.
    """

    place: TopicPartition
    shard: Shard
    end: int | None
    backlog: dict[TP, int]
    ready: bool = False
    unkept: dict[bytes, bytes | None] = field(default_factory=dict)
    kept_at: float = 0.0


_FACTS: Final = tuple(TP(topic.name, 0) for topic in FACT_TOPICS)
_DEVICE_NAMES: Final = frozenset(topic.name for topic in DEVICE_TOPICS)


def inputs_of(place: TopicPartition) -> list[TP]:
    """The input partitions whose state is in a changelog partition."""
    topics = DEVICE_TOPICS if place.topic == STATE.name else (DISPATCH,)
    return [TP(topic.name, place.partition) for topic in topics]


def state_place(topic: str, partition: int) -> TopicPartition:
    """The changelog partition behind a partition of an input topic."""
    name = STATE.name if topic in _DEVICE_NAMES else DISPATCH_STATE.name
    return TopicPartition(name, partition)


class Worker:
    """The partitions of one process. `job_topics` are those that exist, kept up to date by whoever
    runs it."""

    def __init__(
        self,
        facts: Facts,
        terms: Terms,
        outbox: Outbox,
        stores: Stores,
        recovery: Recovery,
        *,
        clock: Clock,
        metrics: Metrics,
        log: Log,
    ) -> None:
        self.homes: dict[TopicPartition, Home] = {}
        self.job_topics: dict[str, int] = {}
        self.rounds = 0
        self._facts = facts
        self._terms = terms
        self._outbox = outbox
        self._stores = stores
        self._recovery = recovery
        self._clock = clock
        self._metrics = metrics
        self._log = log
        self._watch = PoisonWatch()
        # Who owns what does not change within a round.
        self._round = asyncio.Lock()
        self._given_up = False
        self._more = False

    # --- what it owns ---

    def is_ready(self, tp: TP) -> bool:
        """Whether records of this input partition may be taken."""
        home = self.homes.get(state_place(*tp))
        return home is not None and home.ready

    def patience_s(self) -> float:
        """How long to wait for records: not at all while something else is to be done."""
        return 0.0 if self._more else _PATIENCE_S

    def suspend(self) -> None:
        """Partitions may be another worker's from now on, until `own` says otherwise."""
        for home in self.homes.values():
            home.ready = False

    async def own(
        self,
        places: Collection[TopicPartition],
        on_ready: Callable[[TopicPartition], None],
    ) -> None:
        """Own exactly these changelog partitions: let the others go, and bring up what is new.

        What was ours before and was written by nobody else since goes on from memory.
        """
        self.suspend()
        async with self._round:
            for place in [place for place in self.homes if place not in places]:
                self._let_go(place)
            for home in self.homes.values():
                # What is in the file is on a par with Kafka before anybody compares the two.
                self._keep(home)
            held = dict.fromkeys(places) | {place: home.end for place, home in self.homes.items()}
        began = monotonic()
        async with self._recovery.asking() as ends_of:
            async for place, unchanged in self._recovery.catch_up(held):
                if not unchanged:
                    self._let_go(place)
                    self.homes[place] = await self._bring_up(place, ends_of)
                self.homes[place].ready = True
                on_ready(place)
        self._log.info(
            "partitions ready",
            **{key.COUNT: len(self.homes), key.DURATION_S: round(monotonic() - began, 3)},
        )

    async def _bring_up(self, place: TopicPartition, ends_of: EndsOf) -> Home:
        store = self._stores.of(place)
        # The claim is written before anything is decided by: what a former owner writes after it
        # is void. What it wrote before it counts, and is read.
        owner = rows.Owner.of(store.get(rows.OWNER_KEY)).next_owner()
        claim: list[Row] = [(rows.OWNER_KEY, owner.to_row())]
        ends = await self._outbox.write({place: claim}, _never)
        if ends[place] == store.next:
            store.put(dict(claim), ends[place] + 1, owner.epoch)
        else:
            async for _ in self._recovery.catch_up({place: None}):
                pass
        shard = self._new_shard(place)
        with _uncollected():
            for number, (name, raw) in enumerate(store.all()):
                shard.load(name, raw)
                if number % _LOADED_AT_ONCE == 0:
                    await asyncio.sleep(0)
            shard.begin(self._clock())
        # Asked after the claim: all that former owners published before it is a part of this.
        ends = await ends_of([TopicPartition(*tp) for tp in (*inputs_of(place), *_FACTS)])
        backlog = {TP(*tp): end for tp, end in ends.items()}
        return Home(place, shard, store.next, backlog)

    def _new_shard(self, place: TopicPartition) -> Shard:
        if place.topic == STATE.name:
            return DeviceShard(place.partition, self._facts, self._terms)
        return DispatchShard(place.partition, self._facts, self._terms, self.job_topics)

    def _let_go(self, place: TopicPartition) -> None:
        home = self.homes.pop(place, None)
        if home is not None:
            self._keep(home)

    # --- a round ---

    async def take(self, batches: Batches, group: Group) -> Mapping[TP, int]:
        """Fold, decide, publish, write; the offsets to go on from once all that is confirmed.
        Records of partitions that are not ready are left."""
        async with self._round:
            return await self._take(
                {tp: records for tp, records in batches.items() if self.is_ready(tp)}, group
            )

    async def _take(self, batches: Batches, group: Group) -> Mapping[TP, int]:
        self._given_up = False
        homes = [home for home in self.homes.values() if home.ready]
        try:
            done = await self._fold(batches, self._clock())
            for home in homes:
                if home.backlog:
                    await self._look_back(home, batches, done, group)
            await self._do_due(homes, self._clock())
            moved = await self._make_durable(homes, group)
        except GivenUp:
            # They may be another's: what is in memory is not what Kafka has.
            for home in homes:
                if self.homes.get(home.place) is home:
                    del self.homes[home.place]
            self._log.warning("partitions lost", **{key.COUNT: len(homes)})
            return {}
        self.rounds += moved or bool(done)
        return done

    def give_up(self) -> None:
        """The partitions are lost: stop waiting for a broker that does not answer."""
        self._given_up = True

    async def _fold(self, batches: Batches, now: datetime) -> dict[TP, int]:
        done: dict[TP, int] = {}
        taken = refused = 0
        for tp, records in batches.items():
            home = self.homes[state_place(*tp)]
            for start in range(0, len(records), _CHUNK):
                some = list(records[start : start + _CHUNK])
                refused += home.shard.take(tp.topic, some, now)
                await asyncio.sleep(0)
            taken += len(records)
            if records:
                done[tp] = records[-1].offset + 1
        self._watch.note(taken, refused)
        return done

    async def _look_back(
        self, home: Home, batches: Batches, done: Mapping[TP, int], group: Group
    ) -> None:
        """See what is left of a backlog; the shard is told once nothing is."""
        for tp, end in list(home.backlog.items()):
            if tp in _FACTS:
                at = self._facts.ends[tp.topic]
            else:
                at = done[tp] if tp in batches else await group.position(tp)
            if at >= end:
                del home.backlog[tp]
        if not home.backlog:
            home.shard.caught_up()

    async def _do_due(self, homes: Sequence[Home], now: datetime) -> None:
        until = monotonic() + self._terms.due_budget_s
        busy = [home for home in homes if home.shard.tick(now)]
        while busy and monotonic() < until:
            await asyncio.sleep(0)
            busy = [home for home in busy if home.shard.tick(now)]
        self._more = bool(busy)

    def is_idle(self) -> bool:
        """Whether everything that was read, and all that is due now, is done and confirmed."""
        now = self._clock()
        return not self._round.locked() and not any(
            not home.ready or home.backlog or home.shard.is_behind(now)
            for home in self.homes.values()
        )

    async def _make_durable(self, homes: Sequence[Home], group: Group) -> bool:
        """Publish and write what came of a round; whether anything did. Raises GivenUp."""
        works = [(home, home.shard.collect()) for home in homes]
        if all(work.is_empty for _, work in works):
            self._count_all(works)
            return False
        # An order is in the log of orders before dispatch hears of it: whoever takes over reads
        # that log first, and knows of all that may have reached an executor.
        posts = [post for _, work in works for post in work.posts]
        for some in (
            [post for post in posts if post.topic != DISPATCH.name],
            [post for post in posts if post.topic == DISPATCH.name],
        ):
            if some:
                await self._still_ours(group)
                await self._outbox.publish(some, self._is_given_up)
        if any(work.rows for _, work in works):
            await self._still_ours(group)
            await self._write(works)
        self._count_all(works)
        return True

    async def _still_ours(self, group: Group) -> None:
        if not await group.holds():
            raise GivenUp

    async def _write(self, works: "Sequence[tuple[Home, Work]]") -> None:
        """Write state rows, and note how far that brought each changelog."""
        written = {home.place: (home, work) for home, work in works if work.rows}
        ends = await self._outbox.write(
            {place: list(work.rows.items()) for place, (_, work) in written.items()},
            self._is_given_up,
        )
        for place, (home, work) in written.items():
            if ends[place] - len(work.rows) + 1 == home.end:
                home.end = ends[place] + 1
                home.unkept |= work.rows
            else:
                await self._read_back(home)
        for home, _ in works:
            late = monotonic() - home.kept_at >= _KEPT_BACK_S
            if home.unkept and (late or len(home.unkept) >= _KEPT_BACK):
                self._keep(home)

    async def _read_back(self, home: Home) -> None:
        """Others wrote into this changelog, or our rows are there twice: see whose it is. Raises
        GivenUp where it is another owner's, for our rows after its claim are void."""
        self._keep(home)
        home.end = None
        home.unkept.clear()
        async for _ in self._recovery.catch_up({home.place: None}):
            pass
        store = self._stores.of(home.place)
        if store.epoch > home.shard.epoch:
            raise GivenUp
        home.end = store.next

    def _keep(self, home: Home) -> None:
        """Copy what was written since the last time to this machine's disk."""
        if home.unkept and home.end is not None:
            store = self._stores.of(home.place)
            store.put(home.unkept, home.end, home.shard.epoch)
            home.unkept = {}
        home.kept_at = monotonic()

    def close(self) -> None:
        """Copy to disk what is confirmed and not there yet."""
        for home in self.homes.values():
            self._keep(home)

    def _is_given_up(self) -> bool:
        return self._given_up

    def _count_all(self, works: "Sequence[tuple[Home, Work]]") -> None:
        for _, work in works:
            self._count(work.tally)

    def _count(self, tally: Tally) -> None:
        metrics = self._metrics
        for topic, count in tally.folded.items():
            metrics.folded(topic, count, tally.ages.get(topic, 0.0))
        for (action, reason), count in tally.decisions.items():
            metrics.decided(action, reason, count)
        for (acted, outcome), count in tally.results.items():
            metrics.resulted(acted, outcome, count)
        for done, took in tally.durations:
            metrics.succeeded(done, took)
        for (topic, code), count in tally.letters.items():
            metrics.set_aside(topic, code, count)
            self._log.error(
                "records set aside",
                **{key.TOPIC: topic, key.ERROR_CODE: code, key.COUNT: count},
            )

    def homeless_sites(self) -> set[str]:
        """Sites that jobs wait for and that have no job topic."""
        return {
            site
            for home in self.homes.values()
            if isinstance(home.shard, DispatchShard)
            for site in home.shard.homeless()
        }

    def device_shards(self) -> list[DeviceShard]:
        """The Macs' partitions that are ready."""
        shards = [home.shard for home in self.homes.values() if home.ready]
        return [shard for shard in shards if isinstance(shard, DeviceShard)]


@contextmanager
def _uncollected() -> Iterator[None]:
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
