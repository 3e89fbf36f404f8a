"""The process of `drydock run`: builds keys, service, executors and HTTP, serves, and stops."""

import asyncio
import json
import os
import secrets
import socket
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

from agents.config.model import AgentConfig
from agents.configured_sites import ConfiguredSites, finding_reporter
from agents.installers.metrics import InstallerMetrics
from agents.mdm.metrics import MdmMetrics
from pipeline.config import FeedsSettings, ServerSettings
from pipeline.embedded.configured_macs import ConfiguredMacs
from pipeline.embedded.feeds import poll_feeds
from pipeline.embedded.http_metrics import ServiceHttpMetrics
from pipeline.embedded.log import StoreError
from pipeline.embedded.metrics_log import MetricsLog
from pipeline.embedded.operator_api import OperatorApi
from pipeline.embedded.service import Options, Service
from pipeline.embedded.service_thread import MacSource, ServiceThread
from pipeline.embedded.site_thread import SiteThreads
from pipeline.embedded.sqlite_sink import SqliteSink
from pipeline.feeds.metrics import FeedPollMetrics
from pipeline.feeds.poller import make_poller
from pipeline.gateway.app import HttpApp
from pipeline.gateway.authentication import Authenticator, check_address
from pipeline.gateway.event_sink import NotDurableError
from pipeline.gateway.secret_file import REDACTION_KEY, random_key, read_or_make
from pipeline.gateway.senders_file import open_logins
from pipeline.http_connections import ConnectionLimits
from pipeline.ingest.redaction import Redactor
from pipeline.metrics import Metrics
from pipeline.server_process import serve_until_stopped, stop_on_signals
from pipeline.signing_keys import KeyStore, WatchedSigningKeys
from runtime.free_space import SpaceReserve
from runtime.listening import Listen, url_of
from runtime.logs import Log, write_library_logs_as_json
from runtime.metrics import make_registry
from runtime.private_files import make_private
from runtime.trusted_keys import Purpose
from schemas import logkeys as key

ADDRESS_FILE: Final = "run.json"
ADMIN_TOKEN: Final = "admin.token"
FEED_COPIES: Final = "feeds"

_ADDRESS_RETRY_S: Final = 1.0
# Executors of simulated Macs must not hold up senders, which wait for the same thread.
_TICK_BUDGET_S: Final = 0.05

Poll = Callable[[], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """The configuration of one run.

    `policy_text` is put in force at the start; None keeps the stored policy. `open_macs` is called
    with the time and returns simulated Macs. `config` has the live sites; without both no Mac is
    touched. `feeds` are polled, if any. Without `fast_paths` the plain functions run.
    `insecure_loopback` accepts requests from this machine while no sender has a secret.
    `senders` is the senders file, if any.
    """

    data_dir: Path
    listen: Listen
    policy_text: str | None = None
    open_macs: Callable[[datetime], MacSource] | None = None
    config: AgentConfig | None = None
    feeds: FeedsSettings | None = None
    fast_paths: bool = True
    insecure_loopback: bool = False
    senders: Path | None = None


def serve(plan: ServicePlan, settings: ServerSettings, log: Log) -> None:
    """Serve until SIGTERM or SIGINT.

    If the service cannot start, raises StoreError (the data directory cannot be used),
    JournalError, KeysError, PolicyError, or ValueError (the redaction key or the address cannot be
    used, or the address not without a secret).
    """
    logins = open_logins(plan.senders, settings, log)
    check_address(plan.listen, logins(), insecure_loopback=plan.insecure_loopback)
    write_library_logs_as_json()
    keys = plan.data_dir / "keys"
    try:
        plan.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _protect(plan.data_dir)
        _make_signing_keys(keys)
        admin_token = read_or_make(keys / ADMIN_TOKEN, _random_token).decode("ascii").strip()
        redactor = Redactor(read_or_make(keys / REDACTION_KEY, random_key))
    except OSError as error:
        raise StoreError(f"cannot use {plan.data_dir}: {error.strerror}") from error
    metrics = Metrics(make_registry())
    metrics_log = MetricsLog(metrics, log)
    mac_metrics = MdmMetrics(metrics.registry), InstallerMetrics(metrics.registry)
    space = SpaceReserve(plan.data_dir)
    metrics.watch_volume(lambda: space.shortage() is not None)

    def wake_service() -> None:
        service_thread.wake()

    threads = SiteThreads(
        now=lambda: datetime.now(UTC),
        notify=wake_service,
        is_held=lambda: space.shortage() is not None,
    )
    options = _options(plan, settings, threads)
    service_thread = ServiceThread(
        _service_opener(plan, options, keys, metrics_log, mac_metrics, log),
        log,
        max_waiting=settings.max_waiting,
        on_ready=lambda ready: metrics.set_ready(ready=ready),
        space=space,
        on_turn=metrics_log.update_if_late,
    )
    sink = SqliteSink(service_thread)
    http_metrics = ServiceHttpMetrics(metrics)
    app = HttpApp(
        sink,
        Authenticator(logins, plan.insecure_loopback, admin_token),
        settings,
        redactor,
        http_metrics,
        log,
        lambda: datetime.now(UTC),
        feeds=sink,
        count_request=http_metrics.count_request,
    )
    poll = _feed_poller(plan, sink, metrics, log)
    with plan.listen.bind() as listener:
        service_thread.start()
        asyncio.run(_serve_http(app, sink, listener, plan, poll))
    log.info("stopped")


def _feed_poller(plan: ServicePlan, sink: SqliteSink, metrics: Metrics, log: Log) -> Poll | None:
    if plan.feeds is None:
        return None
    folder = plan.data_dir / FEED_COPIES
    poller = make_poller(plan.feeds, folder, FeedPollMetrics(metrics.registry), log)
    return partial(poll_feeds, poller, sink, log)


async def _serve_http(
    app: HttpApp, sink: SqliteSink, listener: socket.socket, plan: ServicePlan, poll: Poll | None
) -> None:
    """Serve and poll feeds until SIGTERM or SIGINT, then stop the service thread."""
    address, url = plan.data_dir / ADDRESS_FILE, url_of(listener)
    naming = asyncio.create_task(_write_address(address, url))
    stopped = asyncio.Event()
    stop_on_signals(stopped)
    polling = None if poll is None else asyncio.create_task(poll())
    try:
        await _log_startup(app, sink, plan, url)
        asgi = app.starlette(extra_routes=OperatorApi(app, sink).routes())
        settings = app.settings
        limits = ConnectionLimits(settings.max_connections, settings.max_connections_per_peer)
        await serve_until_stopped([(asgi, listener)], stopped, limits)
    finally:
        background = [naming] if polling is None else [naming, polling]
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await asyncio.to_thread(sink.service_thread.stop)
        address.unlink(missing_ok=True)


async def _write_address(path: Path, url: str) -> None:
    """Write the file by which the commands find the service; again until the disk accepts it."""
    while True:
        with suppress(OSError):
            path.write_text(json.dumps({"url": url, "pid": os.getpid()}))
            return
        await asyncio.sleep(_ADDRESS_RETRY_S)


async def _log_startup(app: HttpApp, sink: SqliteSink, plan: ServicePlan, url: str) -> None:
    log = app.log
    try:
        digest = await sink.ask(lambda service, _: service.reconciler.policy_digest)
    except NotDurableError as error:
        log.info("listening", **{key.ADDRESS: url, key.DETAIL: f"not ready: {error}"})
    else:
        log.info("listening", **{key.ADDRESS: url, key.DETAIL: f"policy {digest}"})
        if digest is None:
            log.warning("no policy is in force: nothing is decided; start with --policy FILE")
    if plan.config is not None:
        log.info("live sites; every other site is in dry run", **{key.SITE: [*plan.config.sites]})
    elif plan.open_macs is None:
        log.warning("dry run: jobs are decided, signed and recorded; no Mac is touched")
    app.authenticator.warn_without_secrets(log)


def _open_macs(
    plan: ServicePlan,
    mdm_metrics: MdmMetrics,
    installer_metrics: InstallerMetrics,
    log: Log,
    now: datetime,
) -> MacSource | None:
    """Return the Macs to act on; None if no Mac is touched.

    Raises ServerConfigError for a server that cannot be used as configured.
    """
    if plan.open_macs is not None:
        return plan.open_macs(now)
    if plan.config is None:
        return None
    sites = ConfiguredSites(
        plan.config,
        plan.data_dir,
        now=lambda: datetime.now(UTC),
        on_finding=finding_reporter(log, mdm_metrics),
        on_query_answer=mdm_metrics.count_query_answer,
    )
    sites.start_caches(installer_metrics, log)
    macs = ConfiguredMacs(sites, mdm_metrics.count_query, log)
    mdm_metrics.watch_waiting(macs.waiting_queries)
    return macs


def _options(plan: ServicePlan, settings: ServerSettings, threads: SiteThreads) -> Options:
    """Return the options of the service: simulated Macs belong to its thread, real ones do not."""
    return Options(
        slots=settings.slots,
        sweep_every=timedelta(hours=settings.sweep_hours),
        fast_paths=plan.fast_paths,
        tick_budget_s=_TICK_BUDGET_S,
        threads=None if plan.open_macs is not None else threads,
        keep=None if settings.keep_days is None else timedelta(days=settings.keep_days),
    )


def _service_opener(
    plan: ServicePlan,
    options: Options,
    keys: Path,
    metrics_log: MetricsLog,
    mac_metrics: tuple[MdmMetrics, InstallerMetrics],
    log: Log,
) -> Callable[[datetime], tuple[Service, MacSource | None]]:
    watched = WatchedSigningKeys(
        keys, lambda problem: log.error("keys: correct the directory", **{key.DETAIL: problem})
    )

    def open_service(now: datetime) -> tuple[Service, MacSource | None]:
        with ExitStack() as undo:
            macs = _open_macs(plan, *mac_metrics, log, now)
            if macs is not None:
                undo.callback(macs.close)
            own = watched.current()
            service = Service.open(
                plan.data_dir,
                now=now,
                signer=own.jobs,
                trust=own.trust,
                keys=watched.current,
                policy_text=plan.policy_text,
                access=(lambda _: None) if macs is None else macs.access,
                on_commit=metrics_log.record_commit,
                options=options,
            )
            undo.callback(service.close)
            if macs is not None and macs.answers is not None:
                service.feed_answers(macs.answers, now)
            if isinstance(macs, ConfiguredMacs):
                service.query_macs(macs.is_queried, metrics_log.counting(macs.ask), now)
            undo.pop_all()
        metrics_log.record_lost_entries(service.store.lost_entries)
        metrics_log.record_doubts(service.doubts)
        for site, error in service.executors.unusable.items():
            log.error(
                "journal cannot be read: its site gets no orders",
                **{key.SITE: site, key.DETAIL: str(error)},
            )
        metrics_log.update_fleet(service.reconciler, now)
        return service, macs

    return open_service


def _make_signing_keys(keys: Path) -> None:
    """Make the key that signs jobs if it is missing.

    None for approvals: who has it can permit an erase, so a person makes it, apart from the service
    (`drydock keys make --purpose approvals`).
    """
    store = KeyStore(keys)
    if store.current(Purpose.JOBS) is None:
        store.make(Purpose.JOBS)


def _protect(data_dir: Path) -> None:
    """Take the rights of others from a data directory that exists. Raises OSError.

    An earlier version, or a copy, may have left files with reports of Macs open to all users. Keys
    and tokens are not corrected: one that was open is refused, because others may have read it.
    """
    make_private(data_dir)
    for path in data_dir.rglob("*"):
        is_key = data_dir / "keys" in path.parents
        if path.is_file() and not path.is_symlink() and not is_key:
            make_private(path)


def _random_token() -> bytes:
    return secrets.token_urlsafe(32).encode()
