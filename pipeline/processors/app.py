"""The Faust application of a worker: its group, its topics, its web pages.

Faust does membership, assignment with standbys, rebalancing and the web server. Records are read
by `batch_consumer`, state by `recovery`. Importing the module has no effect.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import faust
from faust.tables import TableManager
from faust.types import TP
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from pipeline.processors.batch_consumer import BatchConsumer, BatchHandler
from pipeline.processors.device_shard import DEVICE_TOPICS
from runtime.kafka import KafkaConnection
from runtime.listening import Listen
from runtime.metrics_hosts import REFUSAL, MetricsHosts
from schemas.topics import DISPATCH

SUBSCRIBED: Final = (*DEVICE_TOPICS, DISPATCH)
_FETCH_BYTES: Final = 1024 * 1024
# A topic that was deleted and created again has no owner for this time, and `/readyz` does not show
# it. aiokafka's default is five minutes.
_METADATA_MAX_AGE_MS: Final = 30_000
# Faust requires a port of at least 1, also without a web server.
_NO_PORT: Final = 1


class _NoTables(TableManager):
    """Faust's table manager without its wait of one second before the group is joined.

    Faust waits for declarations of tables; this application has no tables.
    """

    async def on_start(self) -> None:
        """Do what Faust's method does, without the wait."""
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


def make_app(
    connection: KafkaConnection,
    handler: BatchHandler,
    *,
    group: str,
    standbys: int,
    session_timeout_s: float,
    web: Listen | None,
    folder: Path,
) -> faust.App:
    """Return an application, not started, that passes all records to `handler`.

    It serves pages on `web`; None means no web server. `folder` must exist; Faust creates folders
    in it and leaves them empty. Raises OSError or ssl.SSLError if a certificate or key file cannot
    be loaded.
    """
    app = faust.App(
        group,
        broker=[f"kafka://{address}" for address in connection.bootstrap.split(",")],
        broker_credentials=_credentials(connection),
        broker_client_id=connection.client_id,
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=session_timeout_s / 5,
        broker_request_timeout=max(90.0, 2 * session_timeout_s),
        consumer_max_fetch_size=_FETCH_BYTES,
        consumer_metadata_max_age_ms=_METADATA_MAX_AGE_MS,
        # `drydock topics` creates the topics.
        topic_allow_declare=False,
        topic_disable_leader=True,
        # Faust's assignor gives each partition this many standbys, and prefers a standby as the
        # next owner. With 0 Faust does not use it: a Mac's topics could go to several workers.
        table_standby_replicas=standbys,
        store="memory://",
        # By default Faust creates its folders in the working directory.
        datadir=folder / "faust",
        stream_wait_empty=True,
        web_enabled=web is not None,
        web_bind="127.0.0.1" if web is None else web.host,
        web_port=_NO_PORT if web is None else web.port,
        worker_redirect_stdouts=False,
        TableManager=_NoTables,
    )
    app.transport.Consumer = partial(BatchConsumer, handler=handler)  # type: ignore[misc,assignment]
    for topic in SUBSCRIBED:
        app.topics.add(app.topic(topic.name, value_type=bytes, value_serializer="raw"))
    return app


def consumer_in(app: faust.App) -> BatchConsumer:
    """Return the consumer of `app`, an application of `make_app`; one is made if it has none yet.

    Raises AssertionError for any other application.
    """
    consumer = app.consumer
    assert isinstance(consumer, BatchConsumer)
    return consumer


def standby_partitions(app: faust.App) -> set[TP]:
    """Return the input partitions of other workers for which this one keeps a copy of the state.

    The set is empty before the first assignment.
    """
    return {
        tp for tp in app.assignor.assigned_standbys() if tp not in app.assignor.assigned_actives()
    }


def add_pages(
    app: faust.App,
    registry: CollectorRegistry,
    health: Callable[[], Awaitable[tuple[bool, dict[str, Any]]]],
    unready_reasons: Callable[[], list[str]],
) -> None:
    """Add the pages `/healthz`, `/readyz` and `/metrics` to `app`.

    `health` returns a flag and figures: `/healthz` responds 200 if the flag is True, else 503, with
    the figures as JSON. `/readyz` responds 200 if `unready_reasons` returns none, else 503 with the
    reasons. `/metrics` has the metrics of `registry` in Prometheus text format, but responds 403 to
    a name in Host that can be of another's domain.
    """

    @app.page("/healthz")
    async def healthz(web: Any, request: Any) -> Any:  # noqa: ARG001
        healthy, figures = await health()
        return web.json(figures, status=200 if healthy else 503)

    @app.page("/readyz")
    async def readyz(web: Any, request: Any) -> Any:  # noqa: ARG001
        reasons = unready_reasons()
        body = {"ready": not reasons, "reasons": reasons}
        return web.json(body, status=503 if reasons else 200)

    hosts = MetricsHosts()

    @app.page("/metrics")
    async def metrics(web: Any, request: Any) -> Any:
        if not hosts.permits(request.headers.get("host")):
            return web.text(REFUSAL, status=403)
        body = generate_latest(registry)
        return web.bytes(body, content_type=CONTENT_TYPE_LATEST.partition(";")[0])


def _credentials(connection: KafkaConnection) -> Any:
    """Return Faust's SASL or TLS credentials; None if the connection uses neither.

    Raises OSError or ssl.SSLError if a certificate or key file cannot be loaded.
    """
    context = connection.tls_context()
    if connection.uses_sasl:
        password = connection.sasl_password
        return faust.SASLCredentials(
            username=connection.sasl_username,
            password=None if password is None else password.get_secret_value(),
            mechanism=str(connection.sasl_mechanism),
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)
