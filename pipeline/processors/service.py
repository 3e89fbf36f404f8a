"""A worker's process: starts its parts in order, follows rebalances, watches, stops in order."""

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final

import faust
import structlog
from aiokafka.admin import AIOKafkaAdminClient  # type: ignore[import-untyped]
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from faust.types import TP

from pipeline.connection import aiokafka_options
from pipeline.metrics import Metrics
from pipeline.processors.app import SUBSCRIBED, add_pages, consumer_of, make_app, standbys_of
from pipeline.processors.device_shard import DEVICE_TOPICS
from pipeline.processors.facts import FACT_TOPICS, Facts
from pipeline.processors.facts_reader import FactsReader
from pipeline.processors.health import Progress, Standing
from pipeline.processors.outbox import Outbox
from pipeline.processors.recovery import Recovery, Stores
from pipeline.processors.terms import Terms
from pipeline.processors.worker import Clock, Worker, state_place
from pipeline.server_process import Listen
from schemas import logkeys as key
from schemas.connection import KafkaConnection
from schemas.orders import PublicKeys
from schemas.topics import DEAD_LETTERS, DECISIONS, DISPATCH, DISPATCH_STATE, JOBS, STATE

_LOOKED_EVERY_S: Final = 2.0
# These counts walk over all Macs.
_COUNTED_EVERY_S: Final = 60.0
_ASKED_FOR_S: Final = 10.0
_BEREFT_SESSIONS: Final = 4
_ENDS_WITHIN_S: Final = 20.0
_HUNG: Final = 70
# A round makes tens of thousands of objects that live until its end. After each 700, as Python does
# by itself, they were looked through again and again: an eighth of a worker's time.
_COLLECTED_AFTER: Final = (50_000, 20, 20)
_ASKED_AGAIN_S: Final = 0.5
_NEEDED: Final = (*SUBSCRIBED, *FACT_TOPICS, STATE, DISPATCH_STATE, DECISIONS, DEAD_LETTERS)
Log = structlog.typing.FilteringBoundLogger


class WorkerError(Exception):
    """Why a worker cannot start, or had to stop; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a worker is told. `web` is where it serves its pages; `/healthz` is unhealthy after
    `stalled_after_s` without progress while there is something to do."""

    connection: KafkaConnection
    data_dir: Path
    key: Ed25519PrivateKey
    jobs: PublicKeys
    approvals: PublicKeys
    group: str = "drydock-worker"
    web: Listen | None = None
    standbys: int = 1
    session_timeout_s: float = 30.0
    stalled_after_s: float = 60.0
    refresh: timedelta = timedelta(hours=1)
    sweep_every: timedelta = timedelta(hours=6)
    fast_paths: bool = True
    clock: Clock = field(default=lambda: datetime.now(UTC))


async def serve(plan: Plan, metrics: Metrics, log: Log, stop: asyncio.Event) -> None:
    """Work until `stop` is set. Raises WorkerError for what stops it otherwise."""
    async with contextlib.AsyncExitStack() as stack:
        service = _Service(plan, metrics, log)
        try:
            await service.start(stack)
        except (KafkaError, OSError) as error:
            raise WorkerError(f"no Kafka at {plan.connection.bootstrap}: {error!r}") from error
        await service.run(stop)


async def serve_until_signalled(
    plan: Plan, metrics: Metrics, log: Log, *, ends_within_s: float = _ENDS_WITHIN_S
) -> None:
    """`serve` until SIGTERM or SIGINT; then the process ends in time, in order or not."""
    gc.set_threshold(*_COLLECTED_AFTER)
    stop = asyncio.Event()

    def end() -> None:
        stop.set()
        # Faust can hang when it is stopped while partitions change hands, and holds up the whole
        # group with it. What counts is in Kafka: its members find the partitions free.
        last = threading.Timer(ends_within_s, os._exit, (_HUNG,))
        last.daemon = True
        last.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    await serve(plan, metrics, log, stop)


class _Service:
    def __init__(self, plan: Plan, metrics: Metrics, log: Log) -> None:
        self._plan = plan
        self._metrics = metrics
        self._log = log
        self._facts = Facts(plan.approvals)
        self._outbox = Outbox(plan.connection, log)
        self._stores = Stores(plan.data_dir)
        self._recovery = Recovery(plan.connection, self._stores, log)
        self._standby = Recovery(plan.connection, self._stores, log)
        self._reader = FactsReader(self._facts, plan.connection, log)
        self._progress = Progress(plan.stalled_after_s)
        self._owning: asyncio.Task[None] | None = None
        self._standing_by: asyncio.Task[None] | None = None
        self._standbys: list[TopicPartition] = []
        self._counted_at = -_COUNTED_EVERY_S
        self._whole_at = monotonic()
        self._worker: Worker
        self._app: faust.App

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        plan = self._plan
        try:
            plan.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkerError(f"cannot use {plan.data_dir}: {error.strerror}") from error
        counts = await self._topics()
        missing = [topic.name for topic in _NEEDED if topic.name not in counts]
        if missing:
            raise WorkerError(f"no topic {', '.join(missing)}: run `drydock topics apply`")
        for alike in ((*DEVICE_TOPICS, STATE), (DISPATCH, DISPATCH_STATE)):
            if len({counts[topic.name] for topic in alike}) > 1:
                names = ", ".join(topic.name for topic in alike)
                raise WorkerError(f"not one count of partitions: {names}; see `drydock topics`")
        await self._outbox.start()
        stack.push_async_callback(self._outbox.stop)
        await self._reader.start()
        stack.push_async_callback(self._reader.stop)
        stack.callback(self._stores.close)
        terms = Terms(
            *(plan.key, plan.jobs, counts),
            refresh=plan.refresh,
            sweep_every=plan.sweep_every,
            fast_paths=plan.fast_paths,
        )
        self._worker = Worker(
            *(self._facts, terms, self._outbox, self._stores, self._recovery),
            clock=plan.clock,
            metrics=self._metrics,
            log=self._log,
        )
        stack.callback(self._worker.close)
        self._know_job_topics(counts)
        self._app = make_app(
            plan.connection,
            self._worker,
            group=plan.group,
            standbys=plan.standbys,
            session_timeout_s=plan.session_timeout_s,
            web=plan.web,
            folder=plan.data_dir,
        )
        self._app.on_partitions_revoked.connect(self._revoked)
        self._app.on_partitions_assigned.connect(self._assigned)  # type: ignore[arg-type]
        add_pages(self._app, self._metrics.registry, self._health, self._is_ready)
        stack.push_async_callback(self._end_tasks)
        await self._app.start()
        stack.push_async_callback(self._app.stop)

    async def run(self, stop: asyncio.Event) -> None:
        """Look after it until it is to stop, or has to."""
        waiting = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                await asyncio.wait({waiting}, timeout=_LOOKED_EVERY_S)
                self._check()
                await self._look()
        finally:
            waiting.cancel()

    def _check(self) -> None:
        if self._app.crashed:
            why = self._app.crash_reason
            raise WorkerError(f"stopped: {why!r}") from why
        for task in (self._owning, self._standing_by):
            if task is not None and task.done() and not task.cancelled() and task.exception():
                raise WorkerError(f"stopped: {task.exception()!r}") from task.exception()
        if self._reader.error is not None:
            raise WorkerError(f"stopped: {self._reader.error!r}") from self._reader.error
        is_at_it = self._owning is not None and not self._owning.done()
        if is_at_it or self._is_ready():
            self._whole_at = monotonic()
        elif monotonic() - self._whole_at > _BEREFT_SESSIONS * self._plan.session_timeout_s:
            # Given up for another owner, and none came: a new start asks the group again.
            raise WorkerError("stopped: partitions were lost, and not assigned anew")

    # --- rebalances ---

    async def _revoked(self, *_: Any, **__: Any) -> None:
        # What is brought up from here on might be ready when it is another worker's.
        await self._end_tasks()
        self._worker.suspend()

    async def _assigned(self, _: Any, assigned: set[TP], **__: Any) -> None:
        await self._end_tasks()
        places = {state_place(tp.topic, tp.partition) for tp in assigned}
        consumer = consumer_of(self._app)

        def ready(place: TopicPartition) -> None:
            consumer.resume_partitions(
                {tp for tp in assigned if state_place(tp.topic, tp.partition) == place}
            )

        self._standbys = sorted(
            {state_place(tp.topic, tp.partition) for tp in standbys_of(self._app)} - places
        )
        self._owning = asyncio.create_task(self._worker.own(places, ready))
        if self._standbys:
            self._standing_by = asyncio.create_task(self._stand_by(self._owning))

    async def _stand_by(self, owning: asyncio.Task[None]) -> None:
        # Others' partitions are in no hurry, and would slow down our own.
        await asyncio.wait({owning})
        await self._standby.stand_by(self._standbys)

    async def _end_tasks(self) -> None:
        tasks = [task for task in (self._owning, self._standing_by) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._owning = self._standing_by = None

    # --- looking after it ---

    async def _look(self) -> None:
        worker = self._worker
        ready = sum(home.ready for home in worker.homes.values())
        owned = {state_place(tp.topic, tp.partition) for tp in consumer_of(self._app).assigned()}
        self._metrics.set_partitions(
            ready=ready,
            recovering=max(len(owned) - ready, 0),
            standby=len(self._standbys),
            left=self._recovery.remaining,
        )
        self._metrics.set_ready(ready=ready == len(owned))
        await self._look_at_fleet()
        try:
            await self._look_at_progress()
            if worker.homeless_sites():
                self._know_job_topics(await self._topics())
        except KafkaError as error:
            self._progress.excuse()
            self._log.warning("cannot ask the brokers", **{key.DETAIL: repr(error)})
        for site in worker.homeless_sites():
            self._log.error("site has no job topic: see `drydock topics`", **{key.SITE: site})

    async def _look_at_fleet(self) -> None:
        """How this worker's share of the Macs stands."""
        engines = [shard.engine for shard in self._worker.device_shards()]
        exposed: Counter[tuple[str, str]] = Counter()
        open_jobs: Counter[tuple[str, str]] = Counter()
        for engine in engines:
            exposed.update(engine.exposed)
            open_jobs.update(engine.open_jobs)
        self._metrics.set_fleet(exposed, open_jobs)
        if monotonic() < self._counted_at + _COUNTED_EVERY_S:
            return
        self._counted_at = monotonic()
        devices, overdue = 0, Counter[str]()
        for engine in engines:
            devices += sum(1 for _ in engine.fleet.macs())
            overdue.update(engine.overdue(self._plan.clock()))
            await asyncio.sleep(0)
        self._metrics.set_devices(devices)
        self._metrics.set_overdue(overdue)

    async def _look_at_progress(self) -> None:
        consumer, worker = consumer_of(self._app), self._worker
        assigned = consumer.assigned()
        ends = await self._reader.ends([TopicPartition(*tp) for tp in assigned])
        lag: dict[str, int] = {topic.name: 0 for topic in SUBSCRIBED}
        standings: dict[Hashable, Standing] = {
            "due": Standing(not worker.is_idle(), worker.rounds),
            "recovery": Standing(self._recovery.remaining, self._recovery.moved_at),
        }
        for tp in assigned:
            position = consumer.position_of(tp) or 0
            left = max(ends.get(TopicPartition(*tp), 0) - position, 0)
            lag[tp.topic] += left
            if worker.is_ready(tp):
                standings[tp] = Standing(left, position)
        for topic, records in lag.items():
            self._metrics.set_lag(topic, records)
        self._progress.note(standings, monotonic())

    async def _health(self) -> tuple[bool, dict[str, Any]]:
        worker, consumer = self._worker, consumer_of(self._app)
        reached = {
            f"{tp.topic}/{tp.partition}": consumer.position_of(tp)
            for tp in sorted(consumer.assigned())
        }
        figures = {
            "ready": sorted(
                f"{home.place.topic}/{home.place.partition}"
                for home in worker.homes.values()
                if home.ready
            ),
            "reached": reached,
            "facts": self._facts.ends,
            "idle": worker.is_idle(),
            "rounds": worker.rounds,
            "recovering": self._recovery.remaining,
            "left": self._progress.left,
            "stalled_s": round(self._progress.stalled_s(monotonic()), 1),
        }
        return self._progress.is_healthy(monotonic()), figures

    def _is_ready(self) -> bool:
        """Whether all its partitions are brought up."""
        homes = self._worker.homes
        owned = {state_place(*tp) for tp in consumer_of(self._app).assigned()}
        return all(place in homes and homes[place].ready for place in owned)

    # --- topics ---

    def _know_job_topics(self, counts: dict[str, int]) -> None:
        start, _, end = JOBS.name.partition("{site}")
        self._worker.job_topics |= {
            name: count
            for name, count in counts.items()
            if name.startswith(start) and name.endswith(end)
        }

    async def _topics(self) -> dict[str, int]:
        """The cluster's topics, each with its partitions."""
        admin = AIOKafkaAdminClient(**aiokafka_options(self._plan.connection))
        try:
            await admin.start()
            described = await self._described(admin)
        finally:
            await admin.close()
        return {each["topic"]: len(each["partitions"]) for each in described}

    async def _described(self, admin: AIOKafkaAdminClient) -> list[dict[str, Any]]:
        """What a broker says of the topics; the client asks any one, also one that is away."""
        until = monotonic() + _ASKED_FOR_S
        while True:
            try:
                found: list[dict[str, Any]] = await admin.describe_topics()
            except KafkaError as error:
                if monotonic() >= until:
                    raise
                self._log.warning("cannot ask the brokers", **{key.DETAIL: repr(error)})
                await asyncio.sleep(_ASKED_AGAIN_S)
            else:
                return found
