"""The process of a worker: starts its parts in order, follows rebalances, stops in reverse order.

| event | effect |
| --- | --- |
| start | required topics are checked; producer, broadcast reader, worker, Faust are started |
| partitions revoked | assignment and standby tasks are cancelled; no partition is ready |
| partitions assigned | a task recovers each partition and resumes its inputs; then standbys |
| a round dropped partitions, still assigned | a task recovers them, after the group confirmed it |
| a task, Faust or the broadcast reader fails | WorkerError: the process ends |
| partitions lost, and none assigned for several sessions | WorkerError: the process ends |
| SIGTERM, SIGINT | stop in reverse order; the process exits after `ends_within_s` at the latest |
"""

import asyncio
import contextlib
import gc
import os
import signal
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any, Final, Protocol

import faust
from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from aiokafka.structs import TopicPartition  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from faust.types import TP

from pipeline.metrics import Metrics
from pipeline.processors.app import SUBSCRIBED, add_pages, consumer_in, make_app, standby_partitions
from pipeline.processors.broadcast import (
    BroadcastLog,
    BroadcastState,
)
from pipeline.processors.broadcast_reader import BroadcastReader
from pipeline.processors.broadcast_shortages import BroadcastShortages
from pipeline.processors.confirmed_producer import ConfirmedProducer
from pipeline.processors.fleet_gauges import FleetGauges
from pipeline.processors.health import ProgressMonitor, ProgressSample
from pipeline.processors.owned_partition import changelog_of
from pipeline.processors.recovery import Recovery, Stores
from pipeline.processors.shard_config import ShardConfig
from pipeline.processors.topic_counts import fetch_topics, topic_problem
from pipeline.processors.worker import Clock, Worker
from pipeline.trust.stamps import Stamps
from runtime.clock_skew import ClockSkew
from runtime.damaged_files import damage_reporter
from runtime.kafka import KafkaConnection
from runtime.listening import Listen
from runtime.logs import Log, write_library_logs_as_json
from runtime.trusted_keys import KeyRing, LiveKeys
from schemas import logkeys as key
from schemas.signed_payloads import PublicKeys
from schemas.topics import (
    CONTROL,
    JOBS,
    QUERIES,
)

_WATCH_INTERVAL_S: Final = 2.0
_TOPICS_INTERVAL_S: Final = 60.0
_UNASSIGNED_SESSIONS: Final = 4
_STOP_TIMEOUT_S: Final = 20.0
_HUNG_EXIT_CODE: Final = 70
# A round creates tens of thousands of objects that live until its end. With Python's default, a
# collection after each 700, an eighth of a worker's time went into visiting them.
_GC_THRESHOLDS: Final = (50_000, 20, 20)


class WorkerError(Exception):
    """The worker cannot start, or had to stop; the message is one line."""


class WorkerKeys(Protocol):
    """The key that signs jobs, and the trusted keys; `pipeline.signing_keys` reads them."""

    @property
    def jobs(self) -> Ed25519PrivateKey: ...  # noqa: D102
    @property
    def trust(self) -> KeyRing: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlan:
    """Configuration of a worker process.

    `key` signs jobs; `jobs` and `approvals` verify jobs and approvals. With `control` an event of
    operators needs a signature of one of these keys, with `stamps` an event from outside a stamp.
    `keys` returns the keys that are in use from then on, the same object until they change. The
    pages are served on `web`, if given; `/healthz` fails after `stalled_after_s` without progress
    while work is left. The other fields are those of WorkerSettings and ShardConfig.
    """

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
    stamps: Stamps | None = None
    control: PublicKeys | None = None
    keys: Callable[[], WorkerKeys] | None = None
    clock: Clock = field(default=lambda: datetime.now(UTC))


async def serve(plan: WorkerPlan, metrics: Metrics, log: Log, stop: asyncio.Event) -> None:
    """Run the worker until `stop` is set, then stop its parts in reverse order.

    Raises WorkerError if it cannot start or go on; the parts are stopped then too.
    """
    async with contextlib.AsyncExitStack() as stack:
        service = _Service(plan, metrics, log)
        try:
            await service.start(stack)
        except (KafkaError, OSError) as error:
            raise WorkerError(f"no Kafka at {plan.connection.bootstrap}: {error!r}") from error
        await service.run(stop)


async def serve_until_signalled(
    plan: WorkerPlan, metrics: Metrics, log: Log, *, ends_within_s: float = _STOP_TIMEOUT_S
) -> None:
    """Run the worker until SIGTERM or SIGINT. Raises WorkerError if it cannot start or go on.

    If the worker does not stop within `ends_within_s` of the signal, the process exits with code
    70.
    """
    gc.set_threshold(*_GC_THRESHOLDS)
    write_library_logs_as_json()
    stop = asyncio.Event()

    def end() -> None:
        stop.set()
        # faust-streaming 0.15.3 can hang when it is stopped during a rebalance, and the whole group
        # waits for it. Exiting is safe: everything confirmed is in Kafka, the rest is repeated.
        last = threading.Timer(ends_within_s, os._exit, (_HUNG_EXIT_CODE,))
        last.daemon = True
        last.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
    await serve(plan, metrics, log, stop)


class _Service:
    def __init__(self, plan: WorkerPlan, metrics: Metrics, log: Log) -> None:
        self._plan = plan
        self._metrics = metrics
        self._log = log
        self._trusted = LiveKeys(plan.jobs)
        self._approvers = LiveKeys(plan.approvals)
        self._control = None if plan.control is None else LiveKeys(plan.control)
        self._keys = None if plan.keys is None else plan.keys()
        self._config: ShardConfig
        self._broadcast = BroadcastState(self._approvers, plan.stamps, self._control, self._trusted)
        self._skew = ClockSkew(log)
        self._producer = ConfirmedProducer(plan.connection, log, clock=plan.clock, skew=self._skew)
        on_damage = damage_reporter(log, metrics.count_damaged_file)
        self._stores = Stores(plan.data_dir, on_damage, log)
        self._recovery = Recovery(plan.connection, self._stores, log, group=plan.group)
        self._standby_recovery = Recovery(plan.connection, self._stores, log, group=plan.group)
        self._broadcast_reader = BroadcastReader(self._broadcast, plan.connection, log)
        self._progress = ProgressMonitor(plan.stalled_after_s)
        self._assign_task: asyncio.Task[None] | None = None
        self._standby_task: asyncio.Task[None] | None = None
        self._standbys: list[TopicPartition] = []
        self._shortages: BroadcastShortages
        self._gauges = FleetGauges(metrics, self._broadcast.fleet)
        self._topics_at = monotonic()
        self._unassigned_checks = 0
        self._worker: Worker
        self._app: faust.App

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Start all parts; `stack` stops them.

        Raises WorkerError if the data directory cannot be used, a topic is missing, or topics have
        unequal numbers of partitions; KafkaError if Kafka cannot be reached; OSError if a TLS file
        cannot be loaded.
        """
        plan = self._plan
        try:
            plan.data_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkerError(f"cannot use {plan.data_dir}: {error.strerror}") from error
        counts = await fetch_topics(self._plan.connection, self._log)
        wrong = topic_problem(counts)
        if wrong is not None:
            raise WorkerError(wrong)
        await self._producer.start()
        stack.push_async_callback(self._producer.stop)
        await self._broadcast_reader.start()
        stack.push_async_callback(self._broadcast_reader.stop)
        stack.callback(self._stores.close)
        config = self._config = ShardConfig(
            *(plan.key, self._trusted, counts),
            refresh=plan.refresh,
            sweep_every=plan.sweep_every,
            fast_paths=plan.fast_paths,
            stamps=plan.stamps,
        )
        self._worker = Worker(
            *(self._broadcast, config, self._producer, self._stores, self._recovery),
            clock=plan.clock,
            metrics=self._metrics,
            log=self._log,
        )
        stack.callback(self._worker.close)
        self._shortages = BroadcastShortages(
            self._worker.loader.known_broadcast_ends, self._metrics, self._log
        )
        self._set_site_topics(counts)
        self._app = make_app(
            plan.connection,
            self._worker,
            group=plan.group,
            standbys=plan.standbys,
            session_timeout_s=plan.session_timeout_s,
            web=plan.web,
            folder=plan.data_dir,
        )
        self._app.on_partitions_revoked.connect(self._on_revoked)
        self._app.on_partitions_assigned.connect(self._on_assigned)  # type: ignore[arg-type]
        add_pages(self._app, self._metrics.registry, self._health, self._unready_reasons)
        stack.push_async_callback(self._end_tasks)
        await self._app.start()
        stack.push_async_callback(self._app.stop)

    async def run(self, stop: asyncio.Event) -> None:
        """Return when `stop` is set; until then check the parts and update metrics every 2 s.

        Raises WorkerError if a part of the worker fails, or if lost partitions are not assigned
        again.
        """
        waiting = asyncio.create_task(stop.wait())
        try:
            while not stop.is_set():
                self._raise_failures()
                self._refresh_keys()
                await self._recover_dropped()
                await self._update_metrics()
                await asyncio.wait({waiting}, timeout=_WATCH_INTERVAL_S)
        finally:
            waiting.cancel()

    def _refresh_keys(self) -> None:
        """Use changed keys from now on: for signatures that are made or verified later."""
        keys = None if self._plan.keys is None else self._plan.keys()
        if keys is None or keys is self._keys:
            return
        self._keys = keys
        self._config.signing_key = keys.jobs
        self._trusted.replace(keys.trust.jobs)
        self._approvers.replace(keys.trust.approvals)
        if self._control is not None:
            self._control.replace(keys.trust.control)
        self._log.info("keys changed", **{key.COUNT: len(keys.trust.jobs)})

    def _raise_failures(self) -> None:
        """Raise WorkerError if a part has failed, or if lost partitions are not assigned again.

        The limit is _UNASSIGNED_SESSIONS sessions in which assigned partitions are neither ready
        nor recovering.
        """
        if self._app.crashed:
            why = self._app.crash_reason
            raise WorkerError(f"stopped: {why!r}") from why
        for task in (self._assign_task, self._standby_task):
            if task is not None and task.done() and not task.cancelled() and task.exception():
                raise WorkerError(f"stopped: {task.exception()!r}") from task.exception()
        if self._broadcast_reader.error is not None:
            raise WorkerError(
                f"stopped: {self._broadcast_reader.error!r}"
            ) from self._broadcast_reader.error
        is_assigning = self._assign_task is not None and not self._assign_task.done()
        if is_assigning or self._has_all_partitions():
            self._unassigned_checks = 0
            return
        # Checks, not time: while Kafka is away, they wait for it, and nothing can be assigned.
        self._unassigned_checks += 1
        limit_s = _UNASSIGNED_SESSIONS * self._plan.session_timeout_s
        if self._unassigned_checks * _WATCH_INTERVAL_S > limit_s:
            # A new process joins the group again and gets an assignment.
            raise WorkerError(
                "stopped: partitions were lost and not assigned again; start it again"
            )

    # --- rebalances ---

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        # A recovery that went on could make a partition ready after it has another owner.
        await self._end_tasks()
        self._worker.suspend()

    async def _on_assigned(self, _: Any, assigned: set[TP], **__: Any) -> None:
        await self._end_tasks()
        changelogs = {changelog_of(*tp) for tp in assigned}
        self._standbys = sorted(
            {changelog_of(tp.topic, tp.partition) for tp in standby_partitions(self._app)}
            - changelogs
        )
        self._assign_task = asyncio.create_task(
            self._worker.assign(changelogs, self._resume_inputs)
        )
        if self._standbys:
            self._standby_task = asyncio.create_task(self._run_standby(self._assign_task))

    def _resume_inputs(self, changelog: TopicPartition) -> None:
        consumer = consumer_in(self._app)
        consumer.resume_partitions(
            {tp for tp in consumer.assigned() if changelog_of(*tp) == changelog}
        )

    async def _recover_dropped(self) -> None:
        """Start to recover the assigned partitions that a round has dropped from memory.

        Does nothing during a rebalance or a recovery, and if the brokers do not confirm that this
        worker is a member of the group: then its partitions will be assigned again.
        """
        task, consumer = self._assign_task, consumer_in(self._app)
        if task is None or not task.done():
            return
        assigned = {changelog_of(*tp) for tp in consumer.assigned()}
        dropped = assigned - self._worker.partitions.keys()
        # A rebalance may begin during the request; it ends the task.
        if dropped and await consumer.confirm_membership() and self._assign_task is task:
            self._assign_task = asyncio.create_task(
                self._worker.recover(dict.fromkeys(dropped), self._resume_inputs)
            )

    async def _run_standby(self, assigning: asyncio.Task[None]) -> None:
        # The worker's own partitions first: standbys would slow down their recovery.
        await asyncio.wait({assigning})
        await self._standby_recovery.follow_as_standby(self._standbys)

    async def _end_tasks(self) -> None:
        tasks = [task for task in (self._assign_task, self._standby_task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._assign_task = self._standby_task = None

    # --- metrics and health ---

    async def _update_metrics(self) -> None:
        worker = self._worker
        ready = sum(partition.is_ready for partition in worker.partitions.values())
        owned = {changelog_of(tp.topic, tp.partition) for tp in consumer_in(self._app).assigned()}
        self._metrics.set_partitions(
            ready=ready,
            recovering=max(len(owned) - ready, 0),
            standby=len(self._standbys),
            recovering_records=self._recovery.remaining,
        )
        await self._gauges.update(worker.device_shards(), self._plan.clock())
        try:
            await self._update_progress()
            await self._update_site_topics()
        except KafkaError as error:
            self._progress.reset()
            self._unassigned_checks = 0
            self._log.warning("cannot read offsets or topics", **{key.DETAIL: repr(error)})
        self._metrics.set_ready(ready=not self._unready_reasons())
        self._metrics.set_clock_skew(self._skew.seconds)
        for site in worker.sites_without_topic():
            self._log.error("site has no job topic: see `drydock topics`", **{key.SITE: site})

    async def _update_progress(self) -> None:
        """Set the lag of each topic, and record the samples from which `_health` sees a stall.

        Also checks the broadcast topics. Raises KafkaError, and changes nothing, if the offsets
        cannot be read.
        """
        consumer, worker = consumer_in(self._app), self._worker
        assigned = consumer.assigned()
        # Before the ends: the reader continues meanwhile.
        read_ends = dict(self._broadcast.next_offsets)
        ranges = await self._broadcast_reader.log_ranges([TopicPartition(*tp) for tp in assigned])
        self._shortages.update(
            {
                topic: BroadcastLog(*ranges[TopicPartition(topic, 0)], read_end)
                for topic, read_end in read_ends.items()
            }
        )
        lag: dict[str, int] = {topic.name: 0 for topic in SUBSCRIBED}
        samples: dict[Hashable, ProgressSample] = {
            "due": ProgressSample(not worker.is_idle(), worker.rounds),
            "recovery": ProgressSample(self._recovery.remaining, self._recovery.moved_at),
        }
        for tp in assigned:
            position = consumer.position_of(tp) or 0
            begin, end = ranges[TopicPartition(*tp)]
            pending = max(end - max(position, begin), 0)
            lag[tp.topic] += pending
            if worker.is_ready(tp):
                samples[tp] = ProgressSample(pending, position)
        for topic, records in lag.items():
            self._metrics.set_lag(topic, records)
        self._progress.record(samples, monotonic())

    async def _health(self) -> tuple[bool, dict[str, Any]]:
        """Return True if no work is stalled, and the figures of the page `/healthz`."""
        worker, consumer = self._worker, consumer_in(self._app)
        offsets = {
            f"{tp.topic}/{tp.partition}": consumer.position_of(tp)
            for tp in sorted(consumer.assigned())
        }
        figures = {
            "ready": sorted(
                f"{partition.changelog.topic}/{partition.changelog.partition}"
                for partition in worker.partitions.values()
                if partition.is_ready
            ),
            "offsets": offsets,
            "broadcast": self._broadcast.next_offsets,
            "idle": worker.is_idle(),
            "rounds": worker.rounds,
            "recovering": self._recovery.remaining,
            "pending": self._progress.pending,
            "stalled_s": round(self._progress.stalled_s(monotonic()), 1),
            "unready": self._unready_reasons(),
            "gaps": list(worker.gap_reporter.gaps),
            "clock_skew_s": round(self._skew.seconds, 3),
        }
        return self._progress.is_healthy(monotonic()), figures

    def _unready_reasons(self) -> list[str]:
        """Return the reasons for which this worker is not ready; none if it is."""
        reasons = [shortage.detail for shortage in self._shortages.shortages().values()]
        control = self._shortages.logs.get(CONTROL.name)
        if control is None:
            reasons.append("broadcast topics are not checked yet")
        elif self._broadcast.fleet.policy is None and control.begin > 0:
            # A new deployment is ready without a policy: no record of its topic was deleted.
            reasons.append("no policy is in force: `drydock policy publish`")
        if not self._has_all_partitions():
            reasons.append("partitions are recovering")
        return reasons

    def _has_all_partitions(self) -> bool:
        """Return True if all assigned partitions are ready; also if none is assigned."""
        partitions = self._worker.partitions
        owned = {changelog_of(*tp) for tp in consumer_in(self._app).assigned()}
        return all(
            changelog in partitions and partitions[changelog].is_ready for changelog in owned
        )

    # --- topics ---

    async def _update_site_topics(self) -> None:
        """Look for topics of sites, if jobs wait for one; once a minute if queries lack one.

        Raises KafkaError if the topics cannot be read.
        """
        worker, is_late = self._worker, monotonic() >= self._topics_at + _TOPICS_INTERVAL_S
        if worker.sites_without_topic() or (is_late and worker.loader.lacks_query_topic()):
            self._topics_at = monotonic()
            self._set_site_topics(await fetch_topics(self._plan.connection, self._log))

    def _set_site_topics(self, counts: dict[str, int]) -> None:
        loader = self._worker.loader
        for topic, known in ((JOBS, loader.job_topics), (QUERIES, loader.query_topics)):
            start, _, end = topic.name.partition("{site}")
            known.update(
                (name, count)
                for name, count in counts.items()
                if name.startswith(start) and name.endswith(end)
            )
