"""HTTP routes for operators, which only the embedded form has."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.embedded import (
    description_requests,
    operator_requests,
    settlement_requests,
    strike_requests,
)
from pipeline.embedded.read_api import ReadApi
from pipeline.embedded.reads import Read
from pipeline.embedded.service_thread import ReadRequest, WriteRequest
from pipeline.embedded.sqlite_sink import SqliteSink
from pipeline.gateway.app import HttpApp
from pipeline.gateway.endpoint import HttpError


@dataclass(frozen=True, slots=True)
class OperatorApi:
    """The handlers of the routes for operators; `app` has their authentication and limits.

    Each handler needs the admin token. It returns a JSON response with status 200, or raises
    HttpError: 401 or 403 (admin token), 429 or 503 (retry), and the errors that it names.
    """

    app: HttpApp
    sink: SqliteSink

    def routes(self) -> list[Route]:
        """Return the routes, for `HttpApp.starlette`."""
        route = self.app.endpoint.route
        return [
            *ReadApi(self.app.endpoint, self.app.authenticator, self._read_from_sink).routes(),
            route("/v1/journals/{site}", self.journal, "GET"),
            route("/v1/halts", self.set_halt, "POST"),
            route("/v1/halts/{scope:path}", self.clear_halt, "DELETE"),
            route("/v1/attempts/resets", self.reset_attempts, "POST"),
            route(settlement_requests.PATH, self.settle_identity, "POST"),
            route(strike_requests.PATH, self.strike, "POST"),
            route(strike_requests.CLEARED_PATH, self.restore, "POST"),
            route(description_requests.PATH, self.describe, "POST"),
            route("/v1/approvals", self.grant_approval, "POST"),
            route("/v1/dead-letters/{seq:int}/replay", self.replay_dead_letter, "POST"),
        ]

    async def journal(self, request: Request) -> Response:
        """Respond 200 with a copy of the journal of the site in the path, for `drydock backup`.

        Raises HttpError 404 if the site has no journal.
        """
        site = request.path_params["site"]
        copied = await self._authorize_and_read(request, operator_requests.journal(site))
        if copied is None:
            raise HttpError(404, "the site has no journal")
        return JSONResponse(copied)

    async def set_halt(self, request: Request) -> Response:
        """Respond 200 once the halt of a scope is durable: no new job starts in it.

        The body of the request is a HaltRequest: 400 if it is invalid.
        """
        return await self._submit_body(request, operator_requests.halt)

    async def clear_halt(self, request: Request) -> Response:
        """Respond 200 once the halt of the scope in the path is cleared; 404 if it is not halted.

        The name of the person is in the query as `by`, else `unknown`, and the reason as `why`. 400
        for an invalid scope or text.
        Other halts that cover the same jobs stay in force.
        """
        self.app.authenticator.check_admin(request.headers)
        scope, by = request.path_params["scope"], request.query_params.get("by", "unknown")
        why = request.query_params.get("why")
        return await self._submit(operator_requests.resume(scope, by, why))

    async def reset_attempts(self, request: Request) -> Response:
        """Respond 200 once the reset of failed attempts is durable.

        The body of the request is a ResetRequest: 400 if it is invalid, 404 for an unknown site or
        Mac.
        """
        return await self._submit_body(request, operator_requests.reset_attempts)

    async def settle_identity(self, request: Request) -> Response:
        """Respond 200 once the settlement of an identity is durable.

        The body of the request is a SettlementRequest: 400 if it is invalid, 404 for an unknown
        Mac, 409 for a serial number of several Macs.
        """
        return await self._submit_body(request, settlement_requests.settle)

    async def strike(self, request: Request) -> Response:
        """Respond 200 once the strike of statements about advisories is durable.

        The body of the request is a StrikeRequest: 400 if it is invalid, 404 if no source states
        such a thing.
        """
        return await self._submit_body(request, strike_requests.strike)

    async def restore(self, request: Request) -> Response:
        """Respond 200 once the end of strikes is durable.

        The body of the request is a StrikeRequest: 400 if it is invalid, 404 if nothing of that is
        struck.
        """
        return await self._submit_body(request, strike_requests.restore)

    async def describe(self, request: Request) -> Response:
        """Respond 200 once an operator's statements about a Mac are durable.

        The body of the request is a DescriptionRequest: 400 if it is invalid, 404 for an unknown
        Mac, 409 for a serial number of several Macs.
        """
        return await self._submit_body(request, description_requests.describe)

    async def grant_approval(self, request: Request) -> Response:
        """Respond 200 once a signed approval of one erasing job is durable.

        The body of the request is an ApprovalGranted event: 400 if it is not, 403 if no trusted key
        signed it, 409 if it is not for a job that waits now.
        """
        return await self._submit_body(request, operator_requests.approve)

    async def replay_dead_letter(self, request: Request) -> Response:
        """Respond 200 once the events of a dead letter, translated again, are durable.

        404 for an unknown number, 409 if the dead letter was replayed before or is still unusable.
        """
        self.app.authenticator.check_admin(request.headers)
        seq = request.path_params["seq"]
        sender_of = self.app.authenticator.logins().sender
        return await self._submit(operator_requests.replay(seq, self.app.redactor, sender_of))

    async def _submit_body(
        self, request: Request, read: Callable[[bytes], WriteRequest]
    ) -> Response:
        self.app.authenticator.check_admin(request.headers)
        async with self.app.bodies.read(request, operator_requests.MAX_BYTES) as body:
            return await self._submit(read(body))

    async def _submit(self, write: WriteRequest) -> Response:
        return JSONResponse(await self.app.await_sink(self.sink.submit(write)))

    async def _authorize_and_read(self, request: Request, read: ReadRequest) -> Any:
        self.app.authenticator.check_admin(request.headers)
        return await self._read_from_sink(read)

    async def _read_from_sink(self, read: ReadRequest | Read) -> Any:
        return await self.app.await_sink(
            self.sink.ask(read), timeout_detail="no response in time; retry"
        )
