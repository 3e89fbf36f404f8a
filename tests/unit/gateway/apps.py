"""The HTTP application over each sink: Kafka with its spool, and SQLite."""

import asyncio
import base64
import hashlib
import hmac
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import structlog
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from pipeline.config import GatewaySettings, ServerSettings
from pipeline.embedded.http_metrics import ServiceHttpMetrics
from pipeline.embedded.log import Log
from pipeline.embedded.metrics_log import MetricsLog
from pipeline.embedded.operator_api import OperatorApi
from pipeline.embedded.service import Service
from pipeline.embedded.service_thread import MacSource, ServiceThread
from pipeline.embedded.sqlite_sink import SqliteSink
from pipeline.gateway.app import HttpApp
from pipeline.gateway.authentication import Authenticator
from pipeline.gateway.delivery import StoreAndForwardProducer
from pipeline.gateway.kafka_sink import KafkaSink
from pipeline.gateway.logins import environment_logins
from pipeline.gateway.metrics import GatewayMetrics
from pipeline.gateway.spool import Spool
from pipeline.ingest.redaction import Redactor
from pipeline.metrics import Metrics
from runtime.free_space import SpaceReserve
from schemas.dead_letters import DeadLetter
from schemas.envelope import AdvisoryEvent, DeviceEvent, Event, decode
from schemas.topics import DEAD_LETTERS
from tests.factories.sites import JOBS_KEY, KEYS
from tests.unit.gateway.fakes import ACK_WAIT_S, TIMEOUT_S, FakeKafka, until

NOW: Final = datetime(2026, 11, 20, 12, tzinfo=UTC)
HMAC_KEY: Final = "wh-hmac-secret"
ADMIN_TOKEN: Final = "admin-token"
REDACTOR: Final = Redactor(b"0123456789abcdef")
SECRETS: Final[dict[str, Any]] = {
    f"{kind}_secret": SecretStr(f"secret-of-{kind}") for kind in ("nanomdm", "sofa", "events")
}


def login(kind: str) -> dict[str, str]:
    """Return the header with the secret of SECRETS for senders of this kind."""
    secret: SecretStr = SECRETS[f"{kind}_secret"]
    return {"X-Drydock-Secret": secret.get_secret_value()}


def signed(body: bytes) -> dict[str, str]:
    """Return the header with NanoMDM's HMAC of a body under HMAC_KEY."""
    digest = hmac.new(HMAC_KEY.encode(), body, hashlib.sha256).digest()
    return {"X-Hmac-Signature": base64.b64encode(digest).decode()}


@dataclass
class RunningApp:
    """The application with an HTTP client, its metrics and its log."""

    app: HttpApp
    client: httpx.AsyncClient
    registry: CollectorRegistry
    captured: structlog.testing.LogCapture

    async def post(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        return await self.client.post(path, content=body, headers=headers)

    def events(self) -> list[Event]:
        """Return the durable events from senders, in order."""
        raise NotImplementedError

    def dead_letters(self) -> list[DeadLetter]:
        """Return the durable dead letters, in order."""
        raise NotImplementedError

    def hold(self) -> None:
        """Let nothing become durable until `release`."""
        raise NotImplementedError

    def release(self) -> None:
        """End `hold`."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Stop the sink; the HTTP application continues."""
        raise NotImplementedError


@dataclass
class KafkaApp(RunningApp):
    """The application over Kafka in memory and a real spool."""

    kafka: FakeKafka
    spool: Spool
    producer: StoreAndForwardProducer
    released: threading.Event = field(default_factory=threading.Event)

    def count(self, source: str, outcome: str) -> float | None:
        labels = {"source": source, "outcome": outcome}
        return self.registry.get_sample_value("drydock_gateway_requests_total", labels)

    def events(self) -> list[Event]:
        return [decode(one.value) for one in self.kafka.log if one.topic != DEAD_LETTERS.name]

    def dead_letters(self) -> list[DeadLetter]:
        return [
            DeadLetter.model_validate_json(one.value)
            for one in self.kafka.log
            if one.topic == DEAD_LETTERS.name
        ]

    def hold(self) -> None:
        append = self.spool.append

        def wait_then_append(*args: Any) -> Any:
            self.released.wait(TIMEOUT_S)
            return append(*args)

        self.spool.append = wait_then_append  # type: ignore[method-assign,assignment]
        self.kafka.go_away()

    def release(self) -> None:
        self.kafka.come_back()
        self.released.set()

    async def stop(self) -> None:
        self.producer.stop()


@dataclass
class SqliteApp(RunningApp):
    """The application over the SQLite file of a service, with the routes for operators."""

    data_dir: Path
    service_thread: ServiceThread
    released: threading.Event = field(default_factory=threading.Event)

    def logged(self) -> list[str]:
        """Return the keys of all events in the log."""
        with Log.open(self.data_dir) as log:
            return [row.key for row in log.entries(kind="event")]

    def events(self) -> list[Event]:
        with Log.open(self.data_dir) as log:
            found = [decode(row.body) for row in log.entries(kind="event")]
        return [event for event in found if isinstance(event, DeviceEvent | AdvisoryEvent)]

    def dead_letters(self) -> list[DeadLetter]:
        with Log.open(self.data_dir) as log:
            return [DeadLetter.model_validate_json(one.body) for one in log.dead_letters()]

    def hold(self) -> None:
        entered = threading.Event()

        def wait(*_: Any) -> None:
            entered.set()
            self.released.wait(TIMEOUT_S)

        self.service_thread.ask(wait)
        assert entered.wait(TIMEOUT_S)

    def release(self) -> None:
        self.released.set()

    async def stop(self) -> None:
        await asyncio.to_thread(self.service_thread.stop)


def _capture() -> tuple[Any, structlog.testing.LogCapture]:
    captured = structlog.testing.LogCapture()
    log = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[structlog.processors.add_log_level, captured],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    return log, captured


def _client(asgi: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(asgi), base_url="http://drydock")


@asynccontextmanager
async def kafka_app(
    folder: Path, *, kafka: FakeKafka | None = None, loopback: bool = True, **settings: Any
) -> AsyncIterator[KafkaApp]:
    kafka = kafka or FakeKafka()
    chosen = GatewaySettings(**settings)
    registry = CollectorRegistry()
    metrics = GatewayMetrics(registry)
    log, captured = _capture()
    spool = Spool(folder, max_bytes=chosen.spool_max_bytes)
    metrics.expose_spool(spool)
    producer = StoreAndForwardProducer(
        kafka.connect,
        spool,
        metrics,
        log,
        max_waiting=chosen.max_waiting,
        ack_wait_s=ACK_WAIT_S,
    )
    app = HttpApp(
        KafkaSink(producer, metrics, log),
        Authenticator(lambda: environment_logins(chosen), loopback),
        chosen,
        REDACTOR,
        metrics,
        log,
        lambda: NOW,
        count_request=metrics.count_request,
    )
    task = asyncio.create_task(producer.run())
    async with _client(app.starlette()) as client:
        if not kafka.away:
            await until(lambda: not producer.spooling)
        try:
            yield KafkaApp(app, client, registry, captured, kafka, spool, producer)
        finally:
            producer.stop()
            await task


@asynccontextmanager
async def sqlite_app(
    folder: Path,
    *,
    policy: str | None = None,
    loopback: bool = True,
    clock: Callable[[], datetime] = lambda: NOW,
    **settings: Any,
) -> AsyncIterator[SqliteApp]:
    chosen = ServerSettings(**settings)
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    log, captured = _capture()
    observer = MetricsLog(metrics, log)

    def open_service(now: datetime) -> tuple[Service, MacSource | None]:
        service = Service.open(
            folder,
            now=now,
            signer=JOBS_KEY,
            trust=KEYS,
            policy_text=policy,
            on_commit=observer.record_commit,
        )
        return service, None

    thread = ServiceThread(
        open_service,
        log,
        max_waiting=chosen.max_waiting,
        on_ready=lambda ready: metrics.set_ready(ready=ready),
        space=SpaceReserve(folder),
    )
    sink = SqliteSink(thread)
    http_metrics = ServiceHttpMetrics(metrics)
    app = HttpApp(
        sink,
        Authenticator(lambda: environment_logins(chosen), loopback, ADMIN_TOKEN),
        chosen,
        REDACTOR,
        http_metrics,
        log,
        clock,
        feeds=sink,
        count_request=http_metrics.count_request,
    )
    thread.start()
    try:
        async with _client(app.starlette(extra_routes=OperatorApi(app, sink).routes())) as client:
            yield SqliteApp(app, client, registry, captured, folder, thread)
    finally:
        await asyncio.to_thread(thread.stop)


FORMS: Final[dict[str, Callable[..., AbstractAsyncContextManager[RunningApp]]]] = {
    "kafka": kafka_app,
    "sqlite": sqlite_app,
}
