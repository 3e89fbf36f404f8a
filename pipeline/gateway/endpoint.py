"""Code around every HTTP handler: request ids, limits, errors as JSON, metrics."""

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
# A sender that needs longer for its body is assumed to hang.
_BODY_TIMEOUT_S: Final = 30.0
Handler = Callable[[Request], Awaitable[Response]]


class HttpError(Exception):
    """An HTTP error response. Its JSON body holds `detail` as `error`, and the fields of `more`.

    `retry_after_s` is sent as the header Retry-After, if it is given.
    """

    def __init__(
        self, status: int, detail: str, *, retry_after_s: int | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s
        self.more = more


class AuthenticationError(HttpError):
    """The credentials of a request are missing or wrong."""


class RequestMetrics(Protocol):
    """Counts HTTP responses."""

    def observe_request(self, route: str, status: int, duration_s: float) -> None:
        """Count one response. `route` is the pattern of the path, not the path."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Wraps handlers into routes.

    `to_http_error` converts an exception of a handler to a response. Where it returns None, the
    exception is a bug: it is logged with its traceback, and the response is 500.
    """

    metrics: RequestMetrics
    log: structlog.typing.FilteringBoundLogger
    to_http_error: Callable[[Exception], HttpError | None] = lambda _: None

    def route(self, path: str, handler: Handler, method: str) -> Route:
        """Return a route of the application whose responses carry a request id and are counted."""

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
                self.log.warning("request refused", **fields)
            return _error_response(http_error)


async def read_body(
    request: Request, max_bytes: int, *, within_s: float = _BODY_TIMEOUT_S
) -> bytes:
    """Return the whole body of a request.

    Raises HttpError: 408 (longer than `within_s`), 413 (over `max_bytes`), 415 (any
    Content-Encoding: a small compressed body could expand over any limit). Raises ClientDisconnect
    if the client disconnects before the end.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise HttpError(415, "the body has a content-encoding; send it without")
    length = request.headers.get("content-length", "0")
    if length.isdigit() and int(length) > max_bytes:
        raise HttpError(413, f"the body is over the limit of {max_bytes} bytes")
    parts, size = [], 0
    try:
        async with asyncio.timeout(within_s):
            async for part in request.stream():
                size += len(part)
                if size > max_bytes:
                    raise HttpError(413, f"the body is over the limit of {max_bytes} bytes")
                parts.append(part)
    except TimeoutError:
        raise HttpError(408, f"the body was not complete within {within_s:.0f} s") from None
    return b"".join(parts)


def metrics_handler(registry: CollectorRegistry) -> Handler:
    """Return a handler that responds with all metrics, in the format of the Accept header."""

    async def scrape(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    return scrape


async def healthz(_: Request) -> Response:
    """Respond 200: the process runs and its event loop responds."""
    return JSONResponse({"status": "ok"})


def readyz(ready: Callable[[], bool]) -> Handler:
    """Return a handler that responds 200 while `ready()` is True, else 503.

    The JSON body is {"ready": true} or {"ready": false}.
    """

    async def respond(_: Request) -> Response:
        found = ready()
        return JSONResponse({"ready": found}, status_code=200 if found else 503)

    return respond


def operations_routes(
    endpoint: Endpoint, registry: CollectorRegistry | None, ready: Callable[[], bool]
) -> list[Route]:
    """Return the routes of every program: /healthz, /readyz, with `registry` also /metrics."""
    routes = [
        endpoint.route("/healthz", healthz, "GET"),
        endpoint.route("/readyz", readyz(ready), "GET"),
    ]
    if registry is not None:
        routes.append(endpoint.route("/metrics", metrics_handler(registry), "GET"))
    return routes


def _request_id(request: Request) -> str:
    """Return the sender's X-Request-Id, or a new random id.

    A new one is made unless the sender's has only ASCII letters, digits and hyphens, at most 64,
    and not hyphens alone.
    """
    given = request.headers.get("x-request-id", "")
    plain = given.isascii() and given.replace("-", "").isalnum()
    return given if plain and len(given) <= _MAX_REQUEST_ID else uuid.uuid4().hex


def _error_response(error: HttpError) -> Response:
    headers = {} if error.retry_after_s is None else {"Retry-After": str(error.retry_after_s)}
    body = {"error": str(error), **error.more}
    return JSONResponse(body, status_code=error.status, headers=headers)
