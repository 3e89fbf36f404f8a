"""The frame around every HTTP handler: request ids, limits, errors as JSON, counting."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from schemas import logkeys as key

_MAX_REQUEST_ID: Final = 64
# A body that takes longer is not coming.
_BODY_TIMEOUT_S: Final = 30.0
Handler = Callable[[Request], Awaitable[Response]]


class HttpError(Exception):
    """A request that is answered with an HTTP error; `more` are fields beside `error`."""

    def __init__(
        self, status: int, detail: str, *, retry_after_s: int | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s
        self.more = more


class AuthenticationError(HttpError):
    """The sender did not prove itself."""


class RequestMetrics(Protocol):
    """Who counts answers."""

    def observe_request(self, route: str, status: int, duration_s: float) -> None:
        """A request was answered. `route` is the path's pattern."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What every handler has around it. `known` turns a handler's own errors into answers; what
    it gives None for is a bug of ours."""

    metrics: RequestMetrics
    log: structlog.typing.FilteringBoundLogger
    to_http_error: Callable[[Exception], HttpError | None] = lambda _: None

    def route(self, path: str, handler: Handler, method: str) -> Route:
        """A route of the application."""

        async def endpoint(request: Request) -> Response:
            started = time.perf_counter()
            request_id = _request_id(request)
            response = await self._respond(handler, request, request_id)
            response.headers["x-request-id"] = request_id
            self.metrics.observe_request(path, response.status_code, time.perf_counter() - started)
            return response

        return Route(path, endpoint, methods=[method])

    async def _respond(self, handler: Handler, request: Request, request_id: str) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return _error_response(HttpError(400, "the client disconnected"))
        except Exception as error:
            http_error = error if isinstance(error, HttpError) else self.to_http_error(error)
            if http_error is None:
                self.log.error(
                    "unhandled exception", exc_info=error, **{key.REQUEST_ID: request_id}
                )
                http_error = HttpError(500, "internal error; see the log")
            elif isinstance(http_error, AuthenticationError):
                fields = {key.REQUEST_ID: request_id, key.DETAIL: str(http_error)}
                self.log.warning("refused", **fields)
            return _error_response(http_error)


async def read_body(
    request: Request, max_bytes: int, *, within_s: float = _BODY_TIMEOUT_S
) -> bytes:
    """The whole body. Raises AnswerError: 413, 415, 408."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HttpError(415, "send it without content-encoding")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > max_bytes:
        raise HttpError(413, f"over {max_bytes} bytes")
    parts, size = [], 0
    try:
        async with asyncio.timeout(within_s):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise HttpError(413, f"over {max_bytes} bytes")
                parts.append(part)
    except TimeoutError:
        raise HttpError(408, f"the body did not come within {within_s:.0f} s") from None
    return b"".join(parts)


def metrics_handler(registry: CollectorRegistry) -> Handler:
    """A handler that gives all metrics, in the form that is asked for."""

    async def scrape(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    return scrape


async def healthz(_: Request) -> Response:
    """Whether the process answers."""
    return JSONResponse({"status": "ok"})


def readyz(ready: Callable[[], bool]) -> Handler:
    """A handler that says whether inputs are taken."""

    async def respond(_: Request) -> Response:
        found = ready()
        return JSONResponse({"ready": found}, status_code=200 if found else 503)

    return respond


def operations_routes(
    endpoint: Endpoint, registry: CollectorRegistry | None, ready: Callable[[], bool]
) -> list[Route]:
    """What is asked of every program: /healthz, /readyz, and /metrics if there is a registry."""
    routes = [
        endpoint.route("/healthz", healthz, "GET"),
        endpoint.route("/readyz", readyz(ready), "GET"),
    ]
    if registry is not None:
        routes.append(endpoint.route("/metrics", metrics_handler(registry), "GET"))
    return routes


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    plain = given.isascii() and given.replace("-", "").isalnum()
    return given if plain and len(given) <= _MAX_REQUEST_ID else uuid.uuid4().hex


def _error_response(error: HttpError) -> Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    body = {"error": str(error), **error.more}
    return JSONResponse(body, status_code=error.status, headers=headers)
