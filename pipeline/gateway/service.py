"""The program `drydock gateway`: spool, producer, HTTP server and a clean stop."""

import asyncio
import gc
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from pipeline.config import GatewaySettings
from pipeline.gateway.app import HttpApp
from pipeline.gateway.authentication import Authenticator, check_address
from pipeline.gateway.delivery import StoreAndForwardProducer
from pipeline.gateway.kafka import IdempotentProducer
from pipeline.gateway.kafka_sink import KafkaSink
from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.records import SigningKey
from pipeline.gateway.secret_file import REDACTION_KEY, random_key, read_or_make
from pipeline.gateway.senders_file import open_logins
from pipeline.gateway.spool import Replaced, Spool
from pipeline.http_connections import ConnectionLimits
from pipeline.ingest.redaction import Redactor
from pipeline.server_process import serve_until_stopped, stop_on_signals
from pipeline.trust.stamps import Stamps
from runtime.kafka import KafkaConnection
from runtime.listening import Listen, url_of
from runtime.logs import Log, silence_kafka_clients, write_library_logs_as_json
from runtime.metrics import make_registry
from schemas import logkeys as key
from schemas.topics import DEAD_LETTERS, INPUT_TOPICS

TOPICS: Final = tuple(topic.name for topic in (*INPUT_TOPICS, DEAD_LETTERS))


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class GatewayPlan:
    """The data directory, addresses and Kafka connection of a gateway.

    `operations` is a second address for /metrics, /healthz and /readyz. Without it, /metrics is
    served at `listen`; the probes are served there in any case. `insecure_loopback` accepts
    requests from this machine while no sender has a secret. `senders` is the senders file, if any.
    `stamps` are the keys that workers check; without them nothing is stamped. `signing_key` signs
    the records of Macs, for agents; without it they are not signed. `clock` returns the time of
    receipt.
    """

    data_dir: Path
    listen: Listen
    operations: Listen | None
    connection: KafkaConnection
    insecure_loopback: bool = False
    senders: Path | None = None
    stamps: Stamps | None = None
    signing_key: SigningKey | None = None
    clock: Callable[[], datetime] = _now


def serve(plan: GatewayPlan, settings: GatewaySettings, log: Log) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises at the start: ValueError (an address cannot be used, or not without a secret, or the
    redaction key in the file is invalid), SpoolError (the spool cannot be used), OSError (the
    redaction key cannot be read or written).
    """
    logins = open_logins(plan.senders, settings, log)
    check_address(plan.listen, logins(), insecure_loopback=plan.insecure_loopback)
    write_library_logs_as_json()
    silence_kafka_clients()
    metrics = GatewayMetrics(make_registry())
    spool = Spool(
        plan.data_dir,
        max_bytes=settings.spool_max_bytes,
        on_replaced=partial(_report_replaced, metrics, log),
    )
    with ExitStack() as stack:
        stack.callback(spool.close)
        redactor = _load_redactor(plan.data_dir, settings, log)
        listener = stack.enter_context(plan.listen.bind())
        watched = None
        if plan.operations is not None:
            watched = stack.enter_context(plan.operations.bind())
        authenticator = Authenticator(logins, plan.insecure_loopback)
        sockets = (listener, watched)
        asyncio.run(_serve(plan, settings, log, metrics, spool, redactor, authenticator, sockets))
    log.info("stopped")


async def _serve(
    plan: GatewayPlan,
    settings: GatewaySettings,
    log: Log,
    metrics: GatewayMetrics,
    spool: Spool,
    redactor: Redactor,
    authenticator: Authenticator,
    sockets: tuple[socket.socket, socket.socket | None],
) -> None:
    metrics.expose_spool(spool)
    producer = StoreAndForwardProducer(
        partial(IdempotentProducer.connect, plan.connection, TOPICS),
        spool,
        metrics,
        log,
        max_waiting=settings.max_waiting,
        ack_wait_s=settings.ack_wait_s,
    )
    app = HttpApp(
        KafkaSink(producer, metrics, log, plan.stamps, plan.signing_key),
        authenticator,
        settings,
        redactor,
        metrics,
        log,
        plan.clock,
        count_request=metrics.count_request,
    )
    stopped = asyncio.Event()
    stop_on_signals(stopped)
    listener, watched = sockets
    apps = [(app.starlette(with_metrics=watched is None), listener)]
    if watched is not None:
        apps.append((app.operations(), watched))
    running = asyncio.create_task(producer.run())
    fields = {key.ADDRESS: url_of(listener), key.COUNT: spool.depth}
    log.info("listening", **fields)
    # The objects made until here live as long as the process. Without this, each full
    # collection, about every 900 webhooks, scans them and delays all requests by 40 ms.
    gc.collect()
    gc.freeze()
    authenticator.warn_without_secrets(log)
    if plan.signing_key is None:
        log.warning("no --keys: records are not signed, and the agents of live sites ignore them")
    try:
        limits = ConnectionLimits(settings.max_connections, settings.max_connections_per_peer)
        await serve_until_stopped(apps, stopped, limits)
    finally:
        producer.stop()
        await running


def _report_replaced(metrics: GatewayMetrics, log: Log, replaced: Replaced) -> None:
    metrics.count_damaged_spool(replaced.rows.lost)
    log.error(
        "damaged spool replaced: the records that can be read are sent; check the disk, then"
        " delete the renamed file",
        **{
            key.PATH: str(replaced.path),
            key.RENAMED_TO: str(replaced.moved),
            key.COUNT: replaced.rows.saved,
            key.LOST: replaced.rows.lost,
            key.DETAIL: str(replaced.error),
        },
    )


def _load_redactor(data_dir: Path, settings: GatewaySettings, log: Log) -> Redactor:
    """Return the redactor, with the key of the settings or else of a file in `data_dir`.

    The file is used, and a warning logged, if the settings have no key; it is made if it is
    missing. A redactor replaces a secret by a keyed fingerprint, so that a change of the secret is
    visible. Gateways with different keys make different fingerprints of one secret. Raises
    ValueError for an invalid key in the file, OSError if it cannot be read or written.
    """
    if settings.redaction_key is not None:
        return Redactor(settings.redaction_key.get_secret_value().encode())
    log.warning("DRYDOCK_REDACTION_KEY is not set; set the same key on all gateways")
    path = data_dir / REDACTION_KEY
    try:
        return Redactor(read_or_make(path, random_key))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
