"""The program `drydock query`: reads the topics into the view, and serves the routes that read.

The event loop reads Kafka and HTTP; the thread of the view writes records and serves requests.

| state | `/readyz` and `/v1` | next state |
| --- | --- | --- |
| reading what the topics had at the start | 503 with the number of records left | serving |
| serving | 200 | serving, also without Kafka: the status has the time of the last read |
"""

import asyncio
import socket
from collections.abc import Awaitable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from aiokafka.errors import KafkaError  # type: ignore[import-untyped]
from starlette.applications import Starlette

from pipeline.embedded.read_api import ReadApi
from pipeline.embedded.reads import Read
from pipeline.gateway.authentication import Authenticator
from pipeline.gateway.endpoint import Endpoint, HttpError, operations_routes
from pipeline.gateway.logins import Logins
from pipeline.query.metrics import QueryMetrics
from pipeline.query.time_merge import TopicRecord
from pipeline.query.topic_reader import TopicReader, TopicsError, open_reader
from pipeline.query.view import Trust, View
from pipeline.query.view_thread import ViewThread
from pipeline.server_process import serve_until_stopped, stop_on_signals
from runtime.kafka import KafkaConnection
from runtime.listening import Listen, url_of
from runtime.logs import Log, silence_kafka_clients, write_library_logs_as_json
from runtime.metrics import make_registry
from runtime.retry import RESTART, Backoff
from schemas import logkeys as key

_RETRY_AFTER_S: Final = 5


@dataclass(frozen=True, slots=True)
class QueryPlan:
    """Configuration of the program.

    `token` is required by every route of /v1. Entries of the log that are older than `keep` are
    deleted.
    """

    data_dir: Path
    listen: Listen
    connection: KafkaConnection
    trust: Trust
    token: str
    keep: timedelta
    fast_paths: bool = True


def serve(plan: QueryPlan, log: Log) -> None:
    """Read and serve until SIGTERM or SIGINT.

    Raises StoreError if the directory cannot be used, ValueError if the address cannot be used or a
    topic was created again. Kafka is tried again, without end.
    """
    write_library_logs_as_json()
    silence_kafka_clients()
    metrics = QueryMetrics(make_registry())

    def report(record: TopicRecord, reason: str) -> None:
        metrics.count_unusable(record.topic)
        where = {key.PARTITION: record.partition, key.OFFSET: record.offset}
        log.warning(
            "record without effect", **{key.TOPIC: record.topic, key.DETAIL: reason} | where
        )

    with ExitStack() as stack:
        listener = stack.enter_context(plan.listen.bind())
        thread = stack.enter_context(ViewThread())
        opened = partial(View.open, plan.data_dir, plan.trust, report, plan.keep)
        view = thread.call(lambda: opened(fast_paths=plan.fast_paths))
        stack.callback(lambda: thread.call(view.close))
        asyncio.run(_Query(plan, view, thread, metrics, log).serve(listener))
    log.info("stopped")


class _Query:
    """The running program."""

    def __init__(
        self, plan: QueryPlan, view: View, thread: ViewThread, metrics: QueryMetrics, log: Log
    ) -> None:
        self._plan = plan
        self._view = view
        self._thread = thread
        self._metrics = metrics
        self._log = log
        self._reader: TopicReader | None = None
        self._is_complete = False

    async def serve(self, listener: socket.socket) -> None:
        stopped = asyncio.Event()
        stop_on_signals(stopped)
        reading = asyncio.create_task(self._keep_reading())
        # It ends by itself only with an exception: stop the program.
        reading.add_done_callback(lambda _: stopped.set())
        self._log.info("listening", **{key.ADDRESS: url_of(listener)})
        try:
            await serve_until_stopped([(self._application(), listener)], stopped)
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading

    # --- reading ---

    async def _keep_reading(self) -> NoReturn:
        """Read the topics, with a new client after an error of Kafka.

        Raises StoreError, ValueError: the program must be started again.
        """
        backoff = Backoff(RESTART)
        while True:
            try:
                async with open_reader(
                    self._plan.connection, self._view, self._thread.run
                ) as reader:
                    self._reader = reader
                    self._metrics.count_lost(self._view.lost)
                    self._view.lost.clear()
                    while True:
                        await self._read_once(reader)
            except (KafkaError, TopicsError, OSError) as error:
                self._log.warning("cannot read Kafka; trying again", **{key.DETAIL: repr(error)})
            await backoff.sleep()

    async def _read_once(self, reader: TopicReader) -> None:
        reader.records.clear()
        await reader.read_once()
        self._metrics.count_read(reader.records, reader.lag(), reader.read_at)
        if not reader.is_behind:
            if not self._is_complete:
                self._log.info("view complete")
            self._is_complete = True
            await self._thread.run(lambda: self._view.work(datetime.now(UTC)))

    # --- serving ---

    def _application(self) -> Starlette:
        endpoint = Endpoint(self._metrics, self._log)
        authenticator = Authenticator(Logins, admin_token=self._plan.token)
        api = ReadApi(endpoint, authenticator, self._read_view, self._status_fields)
        operations = operations_routes(endpoint, self._metrics.registry, self._refusal)
        return endpoint.application([*operations, *api.routes()])

    def _refusal(self) -> str | None:
        """Return the reason for which the view is not complete; None if it is."""
        self._metrics.set_ready(ready=self._is_complete)
        if self._is_complete:
            return None
        if self._reader is None:
            return "Kafka was not read yet"
        return f"reading the topics: {sum(self._reader.lag().values())} records left"

    def _status_fields(self) -> dict[str, Any]:
        reader = self._reader
        read_at = None if reader is None else reader.read_at.isoformat()
        records = 0 if reader is None else sum(reader.lag().values())
        return {"lag": {"records": records, "read_at": read_at}}

    def _read_view(self, read: Read) -> Awaitable[Any]:
        async def result() -> Any:
            refusal = self._refusal()
            if refusal is not None:
                raise HttpError(503, refusal, retry_after_s=_RETRY_AFTER_S)
            return await self._thread.serve(lambda: read(self._view, datetime.now(UTC)))

        return result()
