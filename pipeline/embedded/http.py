"""The HTTP endpoint: webhooks, events and feeds in; health, metrics and status out.

200 is answered only once the input is durable. A webhook's sender does not try again, so what
cannot be used of its payload is durable too, as a dead letter, and answered 200; a producer of
events can mend them, so a bad one there is answered 400 and nothing of its batch is taken.
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

from pipeline.config import WEBHOOK_SOURCES, ServerSettings
from pipeline.embedded import intake, steering
from pipeline.embedded.worker import BusyError, Prepare, Question, Worker
from pipeline.gateway.endpoint import (
    AnswerError,
    Endpoint,
    Handler,
    operations_routes,
    read_body,
)
from pipeline.gateway.senders import Senders
from pipeline.ingest.judging import FOLLOWERS
from pipeline.ingest.redaction import Redactor
from pipeline.metrics import Metrics

# Longer than any fsync; what was not durable by then may still become so, and repeats are known.
_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Gateway:
    """What the handlers need."""

    worker: Worker
    senders: Senders
    settings: ServerSettings
    redactor: Redactor
    metrics: Metrics
    log: structlog.typing.FilteringBoundLogger
    poll: Callable[[], Coroutine[Any, Any, None]] | None = None

    def app(self) -> Starlette:
        """The ASGI application. It polls feeds if it has any; the worker is stopped when it
        ends."""
        endpoint = Endpoint(self.metrics, self.log, _known)
        routes = [
            *(endpoint.route(path, handler, method) for method, path, handler in self._handlers()),
            *operations_routes(endpoint, self.metrics.registry, lambda: self.worker.ready),
        ]

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            polling = None if self.poll is None else asyncio.create_task(self.poll())
            yield
            if polling is not None:
                polling.cancel()
                await asyncio.gather(polling, return_exceptions=True)
            await asyncio.to_thread(self.worker.stop)

        return Starlette(routes=routes, lifespan=lifespan)

    def _handlers(self) -> list[tuple[str, str, Handler]]:
        return [
            ("POST", "/webhooks/{source}", self.webhook),
            ("POST", "/v1/events", self.events),
            ("POST", "/v1/feeds/{source}", self.feed),
            ("GET", "/v1/status", self.status),
            ("GET", "/v1/devices/{name:path}", self.device),
            ("POST", "/v1/halts", self.halts),
            ("DELETE", "/v1/halts/{scope:path}", self.halt_cleared),
            ("POST", "/v1/approvals", self.approvals),
            ("POST", "/v1/dead-letters/{seq:int}/replay", self.replay),
        ]

    # --- in ---

    async def webhook(self, request: Request) -> Response:
        """A payload of a source that tells of Macs."""
        source = request.path_params["source"]
        if source not in WEBHOOK_SOURCES:
            raise AnswerError(404, f"no webhook {source!r}; there are {', '.join(WEBHOOK_SOURCES)}")
        body = await read_body(request, self.settings.max_webhook_bytes)
        self.senders.check_source(source, request.headers, body)
        return await self._submit(intake.webhook(source, body, self.redactor))

    async def events(self, request: Request) -> Response:
        """CloudEvents: all or none."""
        self.senders.check_source("events", request.headers, b"")
        body = await read_body(request, self.settings.max_feed_bytes)
        return await self._submit(intake.events(body))

    async def feed(self, request: Request) -> Response:
        """A whole advisory feed."""
        named = request.path_params["source"]
        source = next((one for one in FOLLOWERS if one == named), None)
        if source is None:
            raise AnswerError(404, f"no such feed; there are {', '.join(FOLLOWERS)}")
        self.senders.check_source("events", request.headers, b"")
        body = await read_body(request, self.settings.max_feed_bytes)
        accept_losses = request.query_params.get("accept") == "losses"
        return await self._submit(intake.feed(source, body, accept_losses=accept_losses))

    async def halts(self, request: Request) -> Response:
        """Start no new work in a scope."""
        return await self._steer(request, steering.halt)

    async def halt_cleared(self, request: Request) -> Response:
        """Let work start again in a scope."""
        self.senders.check_admin(request.headers)
        scope, by = request.path_params["scope"], request.query_params.get("by", "unknown")
        return await self._submit(steering.resume(scope, by))

    async def approvals(self, request: Request) -> Response:
        """A signed approval of one erasing job."""
        return await self._steer(request, steering.approve)

    async def replay(self, request: Request) -> Response:
        """Translate a dead letter again."""
        self.senders.check_admin(request.headers)
        return await self._submit(steering.replay(request.path_params["seq"], self.redactor))

    async def _steer(self, request: Request, read: Callable[[bytes], Prepare]) -> Response:
        self.senders.check_admin(request.headers)
        return await self._submit(read(await read_body(request, steering.MAX_BYTES)))

    # --- out ---

    async def status(self, request: Request) -> Response:
        """How the fleet stands."""
        self.senders.check_admin(request.headers)
        return JSONResponse(await self._ask(steering.status))

    async def device(self, request: Request) -> Response:
        """All that is known of one Mac."""
        self.senders.check_admin(request.headers)
        found = await self._ask(steering.device(request.path_params["name"]))
        if found is None:
            raise AnswerError(404, "no such Mac")
        return JSONResponse(found)

    async def _submit(self, prepare: Prepare) -> Response:
        return JSONResponse(await _outcome(self.worker.submit(prepare)))

    async def _ask(self, question: Question) -> Any:
        return await _outcome(self.worker.ask(question))


def _known(error: Exception) -> AnswerError | None:
    """What went wrong in the service, as an answer."""
    match error:
        case steering.InvalidOrderError():
            return AnswerError(error.status, str(error))
        case BusyError():
            return AnswerError(503, str(error), retry_after_s=1)
        case TimeoutError():
            return AnswerError(503, "it takes too long", retry_after_s=5)
        case _:
            return None


async def _outcome(future: "Future[Any]") -> Any:
    return await asyncio.wait_for(asyncio.wrap_future(future), _TIMEOUT_S)
