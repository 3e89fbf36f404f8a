"""Code around every HTTP handler: request ids, errors as JSON, metrics.

A path without a route, and a method that its route lacks, get the same kind of response.
"""

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.logs import Log, LogRate
from runtime.metrics_hosts import REFUSAL, MetricsHosts
from schemas import logkeys as key

_MAX_REQUEST_ID: Final = 64
_NO_ROUTE: Final = "none"
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

    def add_route(self, route: str) -> None:
        """Create the series of a route, as zeros."""

    def observe_request(self, route: str, status: int, duration_s: float) -> None:
        """Count one response. `route` is the pattern of the path, not the path."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Wraps handlers into routes, and routes into an application.

    An exception of a handler that is no HttpError is a bug: it is logged with its traceback, and
    the response is 500.
    """

    metrics: RequestMetrics
    log: Log
    log_rate: LogRate = field(default_factory=LogRate)

    def route(self, path: str, handler: Handler, method: str) -> Route:
        """Return a route of the application whose responses carry a request id and are counted."""

        return Route(path, self._wrapped(path, handler), methods=[method])

    def application(self, routes: Iterable[Route]) -> Starlette:
        """Return the ASGI application of routes that `route` made."""

        self.metrics.add_route(_NO_ROUTE)

        async def refuse(request: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)  # raised by the router: 404 or 405
            status, allowed = error.status_code, error.headers or {}

            async def handler(_: Request) -> Response:
                raise HttpError(status, f"no route for {request.method} {request.url.path}")

            response = await self._wrapped(_NO_ROUTE, handler)(request)
            response.headers.update(allowed)
            return response

        return Starlette(routes=[*routes], exception_handlers={HTTPException: refuse})

    def _wrapped(self, path: str, handler: Handler) -> Handler:
        """Return the handler with a request id in its response, which is counted under `path`."""
        self.metrics.add_route(path)

        async def endpoint(request: Request) -> Response:
            started = time.perf_counter()
            request_id = _request_id(request)
            response = await self._respond(handler, request, request_id)
            response.headers["x-request-id"] = request_id
            self.metrics.observe_request(path, response.status_code, time.perf_counter() - started)
            return response

        return endpoint

    async def _respond(self, handler: Handler, request: Request, request_id: str) -> Response:
        if "content-length" in request.headers and "transfer-encoding" in request.headers:
            # A proxy in front may believe the other one, and then see two requests in these bytes
            # (RFC 9112, 6.3).
            refused = _error_response(HttpError(400, "two lengths: send one of them"))
            refused.headers["connection"] = "close"
            return refused
        try:
            return await handler(request)
        except ClientDisconnect:
            return _error_response(HttpError(400, "the client disconnected"))
        except AuthenticationError as error:
            self._log_refusal(request_id, str(error))
            return _error_response(error)
        except HttpError as error:
            return _error_response(error)
        except Exception as error:  # the handler's top: the server continues
            self.log.error("unhandled exception", exc_info=error, **{key.REQUEST_ID: request_id})
            return _error_response(HttpError(500, "internal error; see the log"))

    def _log_refusal(self, request_id: str, detail: str) -> None:
        """Log a refused request, unless many are refused for this reason."""
        suppressed = self.log_rate.suppressed(("request refused", logging.WARNING, detail))
        if suppressed is not None:
            fields: dict[str, Any] = {key.REQUEST_ID: request_id, key.DETAIL: detail}
            if suppressed:
                fields[key.SUPPRESSED] = suppressed
            self.log.warning("request refused", **fields)


def metrics_handler(registry: CollectorRegistry) -> Handler:
    """Return a handler that responds with all metrics, in the format of the Accept header.

    It raises HttpError (403) for a name in Host that can be of another's domain.
    """
    hosts = MetricsHosts()

    async def scrape(request: Request) -> Response:
        if not hosts.permits(request.headers.get("host")):
            raise HttpError(403, REFUSAL)
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    return scrape


async def healthz(_: Request) -> Response:
    """Respond 200: the process runs and its event loop responds."""
    return JSONResponse({"status": "ok"})


def readyz(refusal: Callable[[], str | None]) -> Handler:
    """Return a handler that responds 200 while `refusal()` is None, else 503.

    The JSON body is {"ready": true}, or {"ready": false, "reason": ...} with the refusal.
    """

    async def respond(_: Request) -> Response:
        reason = refusal()
        if reason is None:
            return JSONResponse({"ready": True})
        return JSONResponse({"ready": False, "reason": reason}, status_code=503)

    return respond


def operations_routes(
    endpoint: Endpoint, registry: CollectorRegistry | None, refusal: Callable[[], str | None]
) -> list[Route]:
    """Return the routes of every program: /healthz, /readyz, with `registry` also /metrics.

    `refusal` returns the reason for which the program is not ready; None if it is.
    """
    routes = [
        endpoint.route("/healthz", healthz, "GET"),
        endpoint.route("/readyz", readyz(refusal), "GET"),
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
