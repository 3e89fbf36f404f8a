"""The HTTP application for inputs: webhooks, events and feeds in, 200 once they are durable.

Both forms of Drydock serve it, each with its own sink. A form may add routes of its own.

The sender of a webhook does not retry (NanoMDM: a payload with another response than 200 is lost),
so the unusable parts of its payload become durable too, as dead letters, and the response is 200.
A producer of events can correct them: an invalid one gives 400, and no event of its batch is
accepted. Events that its sender may not submit become dead letters too.

A replayed body, with its signature (which carries no time), gives the same events with the same
ids, and folds ignore repeats.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol, TypeVar

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.config import SenderSettings
from pipeline.gateway.authentication import Authenticator, HeaderCheck
from pipeline.gateway.endpoint import (
    Endpoint,
    HttpError,
    RequestMetrics,
    operations_routes,
)
from pipeline.gateway.event_sink import EventSink, FeedSink, NotDurableError, Obstacle
from pipeline.gateway.limits import BUSY_RETRY_AFTER_S, BodyReader
from pipeline.gateway.openapi import openapi_document
from pipeline.gateway.payloads import (
    MAX_EVENTS,
    RejectedError,
    admit_events,
    read_events,
    translate,
)
from pipeline.gateway.records import OversizeError
from pipeline.gateway.request_rate import RequestRate
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import FEED_DIFFS, WEBHOOK_SOURCES
from pipeline.ingest.translation import Translation
from pipeline.trust.senders import EVENTS, Sender
from pipeline.trust.translated import admit_translation
from runtime.logs import Log
from schemas.dead_letters import DeadLetterCode, Problem, make_dead_letter

# Longer than any fsync. After a timeout the input may still become durable; folds ignore repeats.
_DURABLE_TIMEOUT_S: Final = 30.0
# Larger bodies are translated in a thread, so that other requests do not wait for them.
_SMALL_BYTES: Final = 64 * 1024
_STATUS_AND_RETRY_AFTER_S: Final = {
    Obstacle.BUSY: (429, BUSY_RETRY_AFTER_S),
    Obstacle.NO_ROOM: (503, 30),
    Obstacle.UNAVAILABLE: (503, 1),
}

T = TypeVar("T")


class HttpMetrics(RequestMetrics, Protocol):
    """The metrics of a program that serves the application."""

    registry: CollectorRegistry

    def set_ready(self, *, ready: bool) -> None:
        """Set the gauge `drydock_ready`: 1 if inputs are accepted, else 0."""


@dataclass(slots=True)
class HttpApp:
    """The HTTP application over one sink.

    `clock` returns the time of receipt. /v1/feeds exists only with `feeds`. `count_request` gets
    the source (of a webhook, or `events`) and the status of each response. An input that is not
    durable within `durable_timeout_s` gets 503.
    """

    sink: EventSink
    authenticator: Authenticator
    settings: SenderSettings
    redactor: Redactor
    metrics: HttpMetrics
    log: Log
    clock: Callable[[], datetime]
    feeds: FeedSink | None = None
    count_request: Callable[[str, int], None] = lambda *_: None
    durable_timeout_s: float = _DURABLE_TIMEOUT_S
    rate: RequestRate = field(default_factory=RequestRate)
    endpoint: Endpoint = field(init=False)
    bodies: BodyReader = field(init=False)

    def __post_init__(self) -> None:
        self.endpoint = Endpoint(self.metrics, self.log)
        self.bodies = BodyReader(self.settings.max_waiting_bytes)

    def starlette(
        self, *, with_metrics: bool = True, extra_routes: Iterable[Route] = ()
    ) -> Starlette:
        """Return the ASGI application for senders.

        `with_metrics` adds /metrics; `extra_routes` are routes of `endpoint` for one form alone.
        """
        route = self.endpoint.route
        routes = [
            route("/webhooks/{source}", self.webhook, "POST"),
            route("/v1/events", self.events, "POST"),
            route("/openapi.json", self.openapi, "GET"),
            *self._operations_routes(with_metrics=with_metrics),
            *extra_routes,
        ]
        if self.feeds is not None:
            routes.append(route("/v1/feeds/{source}", self.feed, "POST"))
        return self.endpoint.application(routes)

    def operations(self) -> Starlette:
        """Return the ASGI application for operations: /metrics, /healthz, /readyz."""
        return self.endpoint.application(self._operations_routes(with_metrics=True))

    def _operations_routes(self, *, with_metrics: bool) -> list[Route]:
        registry = self.metrics.registry if with_metrics else None
        return operations_routes(self.endpoint, registry, self.refusal)

    def refusal(self) -> str | None:
        """Return the reason for which the sink accepts no inputs; None if it accepts them.

        Also sets the gauge `drydock_ready`.
        """
        reason = self.sink.refusal
        self.metrics.set_ready(ready=reason is None)
        return reason

    async def webhook(self, request: Request) -> Response:
        """Respond 200 once the payload of a webhook source is durable.

        The body of the response has the numbers of `events` and of `dead_letters`. Raises
        HttpError: 404 (unknown source), 401 or 403 (credentials), 408, 413 or 415 (the body is too
        slow, too large or compressed), 429 or 503 (not durable; retry).
        """
        source = request.path_params["source"]
        if source not in WEBHOOK_SOURCES:
            raise HttpError(404, f"no webhook {source!r}; there are {', '.join(WEBHOOK_SOURCES)}")
        with self._counted(source):
            checked = self._check_headers(source, request)
            async with self.bodies.read(
                request, self.settings.max_webhook_bytes, is_proven=checked.is_proven
            ) as body:
                sender = self._sender(checked, request, body)
                return JSONResponse(await self._store_payload(source, sender, body))

    async def events(self, request: Request) -> Response:
        """Respond 200 once all CloudEvents of the body are durable.

        Raises HttpError: 400 if one is invalid or its sender may not submit it, 413 if one is too
        large or there are too many (then none is accepted), 401 or 403 (credentials), 408, 413 or
        415 (the body is too slow, too large or compressed), 429 or 503 (not durable; retry).
        """
        with self._counted(EVENTS):
            checked = self._check_headers(EVENTS, request)
            async with self.bodies.read(
                request, self.settings.max_feed_bytes, is_proven=checked.is_proven
            ) as body:
                sender = self._sender(checked, request, body)
                now, most = self.clock(), sender.limits.events_per_request or MAX_EVENTS
                try:
                    found = await _run_off_loop(
                        body,
                        lambda: admit_events(read_events(body, most), sender, now, self.redactor),
                    )
                except RejectedError as error:
                    if error.dead_letters:
                        await self.await_sink(self.sink.store((), error.dead_letters))
                    raise
                try:
                    await self.await_sink(self.sink.store(found, ()))
                except OversizeError as error:
                    raise HttpError(413, str(error)) from None
            return JSONResponse({"events": len(found), "dead_letters": 0})

    async def feed(self, request: Request) -> Response:
        """Respond 200 with the outcome of a whole feed document, also if it is refused.

        The outcome is `accepted`, `unchanged`, or for a refused document `unreadable`, `truncated`
        or `stale`. `?accept=losses` accepts a document that lacks many earlier entries.

        Raises HttpError: 404 (unknown feed), 401 or 403 (credentials), 408, 413 or 415 (the body is
        too slow, too large or compressed), 429 or 503 (not durable; retry).
        """
        assert self.feeds is not None
        named = request.path_params["source"]
        source = next((one for one in FEED_DIFFS if one == named), None)
        if source is None:
            raise HttpError(404, f"no feed {named!r}; there are {', '.join(FEED_DIFFS)}")
        checked = self._check_headers(source, request)
        accept_losses = request.query_params.get("accept") == "losses"
        async with self.bodies.read(
            request, self.settings.max_feed_bytes, is_proven=checked.is_proven
        ) as document:
            sender = self._sender(checked, request, document)
            stored = self.feeds.store_feed(source, document, sender, accept_losses=accept_losses)
            return JSONResponse(await self.await_sink(stored))

    def _check_headers(self, source: str, request: Request) -> HeaderCheck:
        """Check a request's headers and return the result; a sender that they prove is counted.

        Raises HttpError: 401 or 403 (credentials), 429 (the sender has used up its minute).
        """
        checked = self.authenticator.check_headers(source, request.headers)
        if checked.sender is not None:
            self.rate.count(checked.sender)
        return checked

    def _sender(self, checked: HeaderCheck, request: Request, body: bytes) -> Sender:
        """Return the sender of a request. One that only the body proves is counted.

        Raises HttpError: 401 (wrong HMAC), 429 (the sender has used up its minute).
        """
        sender = self.authenticator.check_body(checked, request.headers, body)
        if checked.sender is None:
            self.rate.count(sender)
        return sender

    async def openapi(self, _: Request) -> Response:
        """Respond 200 with the OpenAPI document."""
        return JSONResponse(openapi_document(with_feeds=self.feeds is not None))

    async def await_sink(
        self, pending: Awaitable[T], *, timeout_detail: str = "not durable in time; retry"
    ) -> T:
        """Return the result of a call of a sink.

        Raises HttpError: 429 or 503 if the sink raises NotDurableError, 503 with the text
        `timeout_detail` after `durable_timeout_s`.
        """
        try:
            async with asyncio.timeout(self.durable_timeout_s):
                return await pending
        except TimeoutError:
            raise HttpError(503, timeout_detail, retry_after_s=BUSY_RETRY_AFTER_S) from None
        except NotDurableError as error:
            status, retry_after_s = _STATUS_AND_RETRY_AFTER_S[error.obstacle]
            raise HttpError(status, str(error), retry_after_s=retry_after_s) from None

    async def _store_payload(self, source: str, sender: Sender, body: bytes) -> dict[str, int]:
        """Return the numbers of `events` and `dead_letters` of a webhook, once all are durable.

        If one event is too large, no event is stored: the whole body becomes one more dead letter.
        """
        origin, now = f"webhook/{source}", self.clock()
        done = await _run_off_loop(
            body,
            lambda: admit_translation(
                translate(source, body, origin, now, self.redactor),
                body,
                sender,
                source=source,
                origin=origin,
                received_at=now,
            ),
        )
        try:
            await self.await_sink(self.sink.store(done.events, done.dead_letters))
        except OversizeError as error:
            oversize = Problem(DeadLetterCode.TOO_LARGE, str(error))
            letter = make_dead_letter(
                *(oversize, body),
                source=source,
                origin=origin,
                received_at=now,
                sender=sender.recorded_name,
            )
            done = Translation(dead_letters=(*done.dead_letters, letter))
            await self.await_sink(self.sink.store((), done.dead_letters))
        return {"events": len(done.events), "dead_letters": len(done.dead_letters)}

    @contextmanager
    def _counted(self, source: str) -> Iterator[None]:
        """Count a request by its source and status: of an HttpError, 500 for others, else 200."""
        status = 500
        try:
            yield
            status = 200
        except HttpError as error:
            status = error.status
            raise
        finally:
            self.count_request(source, status)


async def _run_off_loop(body: bytes, work: Callable[[], T]) -> T:
    """Return the result of `work`, which runs in a thread if `body` is over 64 KiB."""
    return work() if len(body) <= _SMALL_BYTES else await asyncio.to_thread(work)
