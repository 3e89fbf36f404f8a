"""The HTTP receiver of the fleet: webhooks and events in, 200 once they are durable.

A webhook's sender does not try again (NanoMDM: one request, any answer but exactly 200 is lost),
so the unusable parts of its payload become durable too, as dead letters, and the response is 200.
A producer of events can correct them: an invalid one gives 400, and no event of its batch is
accepted.

A replayed body, with its signature (which carries no time), gives the same events with the same
ids, and folds ignore repeats.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeVar

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pipeline.config import GatewaySettings
from pipeline.gateway.authentication import Authenticator
from pipeline.gateway.delivery import StoreAndForwardProducer
from pipeline.gateway.endpoint import (
    Endpoint,
    HttpError,
    operations_routes,
    read_body,
)
from pipeline.gateway.metrics import EVENTS, GatewayMetrics
from pipeline.gateway.openapi import gateway_document
from pipeline.gateway.payloads import read_events, translate
from pipeline.gateway.producer import BackpressureError
from pipeline.gateway.records import OversizeError, Record, event_records, letter_record
from pipeline.gateway.spool import SpoolError
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import WEBHOOK_SOURCES
from pipeline.ingest.translation import Translation
from schemas import logkeys as key
from schemas.dead_letters import DeadLetterCode, Problem, make_dead_letter

# Longer than any fsync. After a timeout the records may still become durable; folds ignore repeats.
_DURABLE_TIMEOUT_S: Final = 30.0
# Larger bodies are translated beside the event loop, lest others wait for them.
_SMALL_BYTES: Final = 64 * 1024
_BUSY_RETRY_AFTER_S: Final = 1
_NO_ROOM_RETRY_AFTER_S: Final = 30

T = TypeVar("T")
Accept = Callable[[Request], Awaitable[dict[str, int]]]


@dataclass(slots=True)
class Receiver:
    """The handlers of the gateway's HTTP routes. `clock` returns the time of receipt."""

    producer: StoreAndForwardProducer
    authenticator: Authenticator
    settings: GatewaySettings
    redactor: Redactor
    metrics: GatewayMetrics
    log: structlog.typing.FilteringBoundLogger
    clock: Callable[[], datetime]
    _buffered_bytes: int = field(default=0, init=False)

    def app(self, *, with_metrics: bool) -> Starlette:
        """Return the ASGI application for senders; `with_metrics` adds /metrics."""
        endpoint = Endpoint(self.metrics, self.log)
        return Starlette(
            routes=[
                endpoint.route("/webhooks/{source}", self.webhook, "POST"),
                endpoint.route("/v1/events", self.events, "POST"),
                endpoint.route("/openapi.json", _openapi, "GET"),
                *operations_routes(
                    endpoint, self.metrics.registry if with_metrics else None, self.is_ready
                ),
            ]
        )

    def operations(self) -> Starlette:
        """Return the ASGI application for operations: /metrics, /healthz, /readyz."""
        endpoint = Endpoint(self.metrics, self.log)
        return Starlette(routes=operations_routes(endpoint, self.metrics.registry, self.is_ready))

    def is_ready(self) -> bool:
        """Return True if inputs are accepted: Kafka acknowledges, or the spool has room.

        False once delivery stops. Also sets the gauge `drydock_ready`.
        """
        is_accepting = self.producer.is_accepting
        self.metrics.set_ready(ready=is_accepting)
        return is_accepting

    async def webhook(self, request: Request) -> Response:
        """Respond 200 once the payload of a webhook source is durable.

        The body of the response has the numbers of `events` and of `dead_letters`. Raises
        HttpError: 404 (unknown source), 401 or 403 (credentials), 408, 413 or 415 (the body is too
        slow, too large or compressed), 429 or 503 (not durable; retry).
        """
        source = request.path_params["source"]
        if source not in WEBHOOK_SOURCES:
            raise HttpError(404, f"no webhook {source!r}; there are {', '.join(WEBHOOK_SOURCES)}")
        return await self._respond_counted(source, request, self._webhook_acceptor(source))

    async def events(self, request: Request) -> Response:
        """Respond 200 once all CloudEvents of the body are durable.

        Raises HttpError: 400 if one is invalid, 413 if one is too large (then none is accepted),
        401 or 403 (credentials), 408, 413 or 415 (the body is too slow, too large or compressed),
        429 or 503 (not durable; retry).
        """
        return await self._respond_counted(EVENTS, request, self._accept_events)

    def _webhook_acceptor(self, source: str) -> Accept:
        """Return a function that makes a webhook of this source durable.

        It returns the numbers of `events` and `dead_letters`, or raises HttpError.
        """

        async def accept(request: Request) -> dict[str, int]:
            self.authenticator.check_before_body(source, request.headers)
            async with self._body(request, self.settings.max_webhook_bytes) as body:
                self.authenticator.check_source(source, request.headers, body)
                done = await self._translate(source, body)
                await self._make_durable(self._records(source, body, done))
            for letter in done.dead_letters:
                self.metrics.count_dead_letter(letter.code)
                fields = {
                    key.ERROR_CODE: letter.code,
                    key.SOURCE: source,
                    key.DETAIL: letter.detail,
                }
                (self.log.error if letter.code is DeadLetterCode.BUG else self.log.warning)(
                    "input dead-lettered", **fields
                )
            return {"events": len(done.events), "dead_letters": len(done.dead_letters)}

        return accept

    async def _accept_events(self, request: Request) -> dict[str, int]:
        """Return the number of `events` once all are durable; `dead_letters` is always 0."""
        self.authenticator.check_source(EVENTS, request.headers, b"")
        async with self._body(request, self.settings.max_feed_bytes) as body:
            found = await self._run_off_loop(body, lambda: read_events(body))
            try:
                records = event_records(found)
            except OversizeError as error:
                raise HttpError(413, str(error)) from None
            await self._make_durable(records)
        return {"events": len(found), "dead_letters": 0}

    async def _respond_counted(self, source: str, request: Request, accept: Accept) -> Response:
        """Return the result of `accept` as a 200 response, and count the request by its source.

        An exception of `accept` is raised again: an HttpError is counted by its status, any other
        one as status 500.
        """
        status = 500
        try:
            response = JSONResponse(await accept(request))
            status = 200
        except HttpError as error:
            status = error.status
            raise
        finally:
            self.metrics.count_request(source, status)
        return response

    @asynccontextmanager
    async def _body(self, request: Request, max_bytes: int) -> AsyncIterator[bytes]:
        """Yield the body of a request; its size counts as used memory until the block ends.

        Raises HttpError: 429 if the bodies in progress would be over `max_waiting_bytes` (one body
        alone is always read); 408, 413 or 415 if the body is too slow, over `max_bytes` or
        compressed.
        """
        length = request.headers.get("content-length", "")
        size = min(int(length), max_bytes) if length.isdigit() else max_bytes
        if self._buffered_bytes and self._buffered_bytes + size > self.settings.max_waiting_bytes:
            raise HttpError(429, "too many requests in progress", retry_after_s=_BUSY_RETRY_AFTER_S)
        self._buffered_bytes += size
        try:
            yield await read_body(request, max_bytes)
        finally:
            self._buffered_bytes -= size

    async def _translate(self, source: str, body: bytes) -> Translation:
        now, origin = self.clock(), f"webhook/{source}"
        return await self._run_off_loop(
            body, lambda: translate(source, body, origin, now, self.redactor)
        )

    async def _run_off_loop(self, body: bytes, work: Callable[[], T]) -> T:
        """Return the result of `work`, which runs in a thread if `body` is over 64 KiB."""
        return work() if len(body) <= _SMALL_BYTES else await asyncio.to_thread(work)

    def _records(self, source: str, body: bytes, done: Translation) -> list[Record]:
        """Return the Kafka records of the events, then of the dead letters.

        If one event is too large, no event is sent: the whole body becomes one more dead letter.
        """
        letters = list(done.dead_letters)
        try:
            records = event_records(done.events)
        except OversizeError as error:
            oversize = Problem(DeadLetterCode.TOO_LARGE, str(error))
            origin = f"webhook/{source}"
            letters.append(
                make_dead_letter(
                    oversize, body, source=source, origin=origin, received_at=self.clock()
                )
            )
            records = []
        return [*records, *map(letter_record, letters)]

    async def _make_durable(self, records: list[Record]) -> None:
        """Return once all records are durable.

        Raises HttpError: 429 (too many wait), 503 (the spool is full or fails, or 30 s have
        passed).
        """
        try:
            async with asyncio.timeout(_DURABLE_TIMEOUT_S):
                await self.producer.put(records)
        except TimeoutError:
            raise HttpError(
                503, "not durable in time; retry", retry_after_s=_BUSY_RETRY_AFTER_S
            ) from None
        except BackpressureError as error:
            raise HttpError(429, str(error), retry_after_s=_BUSY_RETRY_AFTER_S) from None
        except SpoolError as error:
            raise HttpError(503, str(error), retry_after_s=_NO_ROOM_RETRY_AFTER_S) from None


async def _openapi(_: Request) -> Response:
    return JSONResponse(gateway_document())
