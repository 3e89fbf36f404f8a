"""The program `drydock feeds`: group, state store, poller, HTTP server and a clean stop."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from starlette.applications import Starlette

from pipeline.config import FeedsSettings
from pipeline.feeds.leadership import PollerGroupMember
from pipeline.feeds.metrics import FeedsMetrics
from pipeline.feeds.poller import Poller, make_poller
from pipeline.feeds.state_store import FeedStateStore, FeedStateStoreError
from pipeline.gateway.endpoint import Endpoint, operations_routes
from pipeline.ingest.feed_review import REFUSALS, FeedOutcome
from pipeline.server_process import serve_until_stopped, stop_on_signals
from pipeline.trust.stamps import Stamps
from runtime.kafka import KafkaConnection
from runtime.listening import Listen, url_of
from runtime.logs import Log, silence_kafka_clients, write_library_logs_as_json
from runtime.metrics import make_registry
from runtime.retry import RESTART, Backoff, async_retrying
from schemas import logkeys as key
from schemas.feeds import FeedSource


@dataclass(frozen=True, slots=True)
class FeedsPlan:
    """The data directory, Kafka connection and optional address of /metrics and probes.

    Without `listen` no HTTP server runs. `stamps` are the keys that workers check; without them
    nothing is stamped.
    """

    data_dir: Path
    listen: Listen | None
    connection: KafkaConnection
    stamps: Stamps | None = None


def serve(plan: FeedsPlan, settings: FeedsSettings, log: Log) -> None:
    """Poll, while this replica is the leader, until SIGTERM or SIGINT.

    Raises ValueError if `listen` cannot be used, or this replica becomes the leader and no feed has
    a location; OSError if a TLS file cannot be loaded. Any other exception that is not retried ends
    the program too, and is raised.
    """
    write_library_logs_as_json()
    silence_kafka_clients()
    with ExitStack() as stack:
        listener = None if plan.listen is None else stack.enter_context(plan.listen.bind())
        asyncio.run(_serve(plan, settings, log, listener))
    log.info("stopped")


def poll_once(
    plan: FeedsPlan, settings: FeedsSettings, log: Log, accept_losses: Collection[FeedSource]
) -> bool:
    """Poll each feed once; return True if every document was accepted or unchanged.

    False if one document was refused or not received. For the feeds in `accept_losses` a document
    that lacks many earlier entries is accepted. Raises FeedStateStoreError if the state store
    cannot be opened or written. Replicas may run meanwhile: the one that polls loses its right to
    write and opens the state store again.
    """
    silence_kafka_clients()
    metrics = FeedsMetrics(make_registry())
    poller = make_poller(settings, plan.data_dir, metrics, log)

    async def once() -> bool:
        asyncio.get_running_loop().set_exception_handler(_ignore_kafka_error)
        store = await FeedStateStore.open(plan.connection, metrics, log, _now, plan.stamps)
        try:
            outcomes = await poller.poll(store, accept_losses=accept_losses)
        finally:
            await store.close()
        return not any(
            one in REFUSALS or one is FeedOutcome.UNREACHABLE for one in outcomes.values()
        )

    return asyncio.run(once())


async def _serve(
    plan: FeedsPlan, settings: FeedsSettings, log: Log, listener: socket.socket | None
) -> None:
    asyncio.get_running_loop().set_exception_handler(_ignore_kafka_error)
    metrics = FeedsMetrics(make_registry())
    member = PollerGroupMember(plan.connection, settings.group, settings.session_timeout_s, log)
    stopped = asyncio.Event()
    stop_on_signals(stopped)
    apps = []
    if listener is not None:
        apps.append((_operations(metrics, member, log), listener))
        log.info("listening", **{key.ADDRESS: url_of(listener)})
    poller = make_poller(settings, plan.data_dir, metrics, log)
    work = partial(_work, plan, metrics, poller, log)
    running = [
        asyncio.create_task(member.run()),
        asyncio.create_task(_lead(member, work, metrics, log)),
    ]
    for task in running:
        # A task that ends by itself has failed: stop the program.
        task.add_done_callback(lambda _: stopped.set())
    try:
        await serve_until_stopped(apps, stopped)
    finally:
        for task in running:
            task.cancel()
        for task in running:
            with suppress(asyncio.CancelledError):
                await task


def _operations(metrics: FeedsMetrics, member: PollerGroupMember, log: Log) -> Starlette:
    def refusal() -> str | None:
        metrics.set_ready(ready=member.joined)
        return None if member.joined else "not in the group of the pollers"

    endpoint = Endpoint(metrics, log)
    return endpoint.application(operations_routes(endpoint, metrics.registry, refusal))


async def _lead(
    member: PollerGroupMember, work: Callable[[], Awaitable[None]], metrics: FeedsMetrics, log: Log
) -> None:
    """Do the work whenever `member` is the leader, without end; show it in metrics and log."""

    async def leading() -> None:
        metrics.set_leading(leading=True)
        log.info("polling started")
        try:
            await work()
        finally:
            metrics.set_leading(leading=False)
            log.info("polling stopped")

    while True:
        await member.while_leading(leading)


async def _work(plan: FeedsPlan, metrics: FeedsMetrics, poller: Poller, log: Log) -> None:
    """Open the state store and poll into it, without end.

    After a FeedStateStoreError the store is closed and opened again within 30 s. The delay is
    random: two pollers that fence each other do not go on in step.
    """
    backoff = Backoff(RESTART)
    while True:
        store = await _open_store(plan, metrics, log)
        try:
            await poller.run(store)
        except FeedStateStoreError as error:
            log.warning("feed state store lost", **{key.DETAIL: str(error)})
        finally:
            await store.close()
        await backoff.sleep()


async def _open_store(plan: FeedsPlan, metrics: FeedsMetrics, log: Log) -> FeedStateStore:
    """Return the open state store.

    Each FeedStateStoreError, also for a missing topic or invalid settings, is logged and followed
    by another attempt, without end.
    """

    def warn(error: Exception) -> None:
        log.warning("feed state store unavailable", **{key.DETAIL: str(error)})

    retry = async_retrying(RESTART, FeedStateStoreError, on_failure=warn)
    return await retry(FeedStateStore.open, plan.connection, metrics, log, _now, plan.stamps)


def _ignore_kafka_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Ignore Kafka errors of futures that no code awaits; aiokafka 0.14.0 leaves such futures.

    Other errors go to the default handler of the loop.
    """
    if not isinstance(context.get("exception"), KafkaError):
        loop.default_exception_handler(context)


def _now() -> datetime:
    return datetime.now(UTC)
