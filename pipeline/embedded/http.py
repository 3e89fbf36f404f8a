"""The HTTP endpoint: webhooks, events and feeds in; health, metrics and status out.

The response is 200 only once the input is durable. The sender of a webhook does not repeat it, so
the unusable part of its payload becomes a durable dead letter and the response is 200. A producer
of events can correct them, so for a bad event the response is 400 and its batch is not accepted.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pipeline.config import ServerSettings
from pipeline.embedded import operator_requests, write_requests
from pipeline.embedded.service_thread import (
    ReadRequest,
    ServiceThread,
    UnavailableError,
    WriteRequest,
)
from pipeline.gateway.authentication import Authenticator
from pipeline.gateway.endpoint import (
    Endpoint,
    Handler,
    HttpError,
    operations_routes,
    read_body,
)
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.sources import FEED_DIFFS, WEBHOOK_SOURCES
from pipeline.metrics import Metrics

# Longer than any fsync. After a timeout the input may still become durable; a repeat is harmless.
_RESPONSE_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ServiceApi:
    """The HTTP API of a service: its routes and the objects that they use.

    Each handler returns a JSON response with status 200, or raises HttpError, InvalidRequestError,
    UnavailableError or TimeoutError: the endpoint converts it to an error response.
    """

    service_thread: ServiceThread
    authenticator: Authenticator
    settings: ServerSettings
    redactor: Redactor
    metrics: Metrics
    log: structlog.typing.FilteringBoundLogger
    poll_feeds: Callable[[], Coroutine[Any, Any, None]] | None = None

    def app(self) -> Starlette:
        """Return the ASGI application of all routes.

        At its start the application calls `poll_feeds`, if that is set; at its end it cancels the
        call and stops the service thread.
        """
        endpoint = Endpoint(self.metrics, self.log, _to_http_error)
        routes = [
            *(endpoint.route(path, handler, method) for method, path, handler in self._handlers()),
            *operations_routes(endpoint, self.metrics.registry, lambda: self.service_thread.ready),
        ]

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            polling = None if self.poll_feeds is None else asyncio.create_task(self.poll_feeds())
            yield
            if polling is not None:
                polling.cancel()
                await asyncio.gather(polling, return_exceptions=True)
            await asyncio.to_thread(self.service_thread.stop)

        return Starlette(routes=routes, lifespan=lifespan)

    def _handlers(self) -> list[tuple[str, str, Handler]]:
        return [
            ("POST", "/webhooks/{source}", self.webhook),
            ("POST", "/v1/events", self.events),
            ("POST", "/v1/feeds/{source}", self.feed),
            ("GET", "/v1/status", self.status),
            ("GET", "/v1/devices/{name:path}", self.device),
            ("POST", "/v1/halts", self.set_halt),
            ("DELETE", "/v1/halts/{scope:path}", self.clear_halt),
            ("POST", "/v1/approvals", self.grant_approval),
            ("POST", "/v1/dead-letters/{seq:int}/replay", self.replay_dead_letter),
        ]

    # --- in ---

    async def webhook(self, request: Request) -> Response:
        """Respond 200 once the payload of a webhook source is durable.

        The body of the response has the numbers of `events` and of `dead_letters`. Raises
        HttpError: 404 (unknown source), 401 or 403 (credentials), 408, 413 or 415 (the body is too
        slow, too large or compressed).
        """
        source = request.path_params["source"]
        if source not in WEBHOOK_SOURCES:
            raise HttpError(404, f"no webhook {source!r}; use one of {', '.join(WEBHOOK_SOURCES)}")
        body = await read_body(request, self.settings.max_webhook_bytes)
        self.authenticator.check_source(source, request.headers, body)
        return await self._submit(write_requests.webhook(source, body, self.redactor))

    async def events(self, request: Request) -> Response:
        """Respond 200 once all CloudEvents of the body are durable.

        Raises HttpError: RejectedError (400) if one event is invalid, then none is accepted; 401 or
        403 (credentials), 408, 413 or 415 (the body is too slow, too large or compressed).
        """
        self.authenticator.check_source("events", request.headers, b"")
        body = await read_body(request, self.settings.max_feed_bytes)
        return await self._submit(write_requests.events(body))

    async def feed(self, request: Request) -> Response:
        """Respond 200 with the outcome of a whole feed document, also if it is refused.

        The outcome is `accepted`, `unchanged`, or for a refused document `unreadable`, `truncated`
        or `stale`.

        `?accept=losses` accepts a document that lacks many earlier entries. Raises HttpError: 404
        (unknown feed), 401 or 403 (credentials), 408, 413 or 415 (the body is too slow, too large
        or compressed).
        """
        named = request.path_params["source"]
        source = next((one for one in FEED_DIFFS if one == named), None)
        if source is None:
            raise HttpError(404, f"no feed {named!r}; use one of {', '.join(FEED_DIFFS)}")
        self.authenticator.check_source("events", request.headers, b"")
        body = await read_body(request, self.settings.max_feed_bytes)
        accept_losses = request.query_params.get("accept") == "losses"
        return await self._submit(write_requests.feed(source, body, accept_losses=accept_losses))

    async def set_halt(self, request: Request) -> Response:
        """Respond 200 once the halt of a scope is durable: no new job starts in it.

        The body of the request is a HaltRequest: 400 if it is invalid. Needs the admin token.
        """
        return await self._submit_body(request, operator_requests.halt)

    async def clear_halt(self, request: Request) -> Response:
        """Respond 200 once the halt of the scope in the path is cleared; 404 if it is not halted.

        The name of the person is in the query as `by`, else `unknown`. 400 for an invalid scope.
        Other halts that cover the same jobs stay in force. Needs the admin token.
        """
        self.authenticator.check_admin(request.headers)
        scope, by = request.path_params["scope"], request.query_params.get("by", "unknown")
        return await self._submit(operator_requests.resume(scope, by))

    async def grant_approval(self, request: Request) -> Response:
        """Respond 200 once a signed approval of one erasing job is durable.

        The body of the request is an ApprovalGranted event: 400 if it is not, 403 if no trusted key
        signed it. Needs the admin token.
        """
        return await self._submit_body(request, operator_requests.approve)

    async def replay_dead_letter(self, request: Request) -> Response:
        """Respond 200 once the events of a dead letter, translated again, are durable.

        404 for an unknown number, 409 if the dead letter was replayed before or is still unusable.
        Needs the admin token.
        """
        self.authenticator.check_admin(request.headers)
        return await self._submit(
            operator_requests.replay(request.path_params["seq"], self.redactor)
        )

    async def _submit_body(
        self, request: Request, read: Callable[[bytes], WriteRequest]
    ) -> Response:
        self.authenticator.check_admin(request.headers)
        return await self._submit(read(await read_body(request, operator_requests.MAX_BYTES)))

    # --- out ---

    async def status(self, request: Request) -> Response:
        """Respond 200 with the status of the fleet (`Status.to_json`). Needs the admin token."""
        self.authenticator.check_admin(request.headers)
        return JSONResponse(await self._ask(operator_requests.status))

    async def device(self, request: Request) -> Response:
        """Respond 200 with the state, jobs and last decision of the Mac in the path.

        Raises HttpError 404 if no Mac has this UDID, serial number or enrollment id. Needs the
        admin token.
        """
        self.authenticator.check_admin(request.headers)
        found = await self._ask(operator_requests.device(request.path_params["name"]))
        if found is None:
            raise HttpError(404, "no Mac has this UDID, serial number or enrollment id")
        return JSONResponse(found)

    async def _submit(self, request: WriteRequest) -> Response:
        return JSONResponse(await _await_result(self.service_thread.submit(request)))

    async def _ask(self, question: ReadRequest) -> Any:
        return await _await_result(self.service_thread.ask(question))


def _to_http_error(error: Exception) -> HttpError | None:
    """Return the HTTP error for an exception of the service; None for an unexpected one."""
    match error:
        case operator_requests.InvalidRequestError():
            return HttpError(error.status, str(error))
        case UnavailableError():
            return HttpError(503, str(error), retry_after_s=1)
        case TimeoutError():
            return HttpError(
                503, "no response within 30 s; the input may be stored; retry", retry_after_s=5
            )
        case _:
            return None


async def _await_result(future: "Future[Any]") -> Any:
    """Return the result of the future or raise its exception; TimeoutError after 30 s."""
    return await asyncio.wait_for(asyncio.wrap_future(future), _RESPONSE_TIMEOUT_S)
