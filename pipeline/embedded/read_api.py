"""HTTP routes that only read: those of the embedded service and of `drydock query`."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from pipeline.embedded import reads
from pipeline.embedded.list_selection import COLUMNS, ListName, Selection, SelectionError
from pipeline.embedded.mac_names import UnknownMacError
from pipeline.gateway.authentication import Authenticator
from pipeline.gateway.endpoint import Endpoint, HttpError

# SQLite refuses a larger number with an error of its own.
MAX_SEQ: Final = 2**63 - 1
_SELECTORS: Final = frozenset({"site", "mac", "since", "limit", "after"})
_JSON: Final = "application/json"
_encode: Final = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ReadApi:
    """The handlers of the routes that read.

    Each needs the admin token of `authenticator`. `run_read` returns the result of a request; it
    raises HttpError 429 or 503 if there is none in time. `add_status` are further fields of the
    status. A handler raises HttpError: 401 or 403 (admin token), 400 (parameters), and those that
    it names.
    """

    endpoint: Endpoint
    authenticator: Authenticator
    run_read: Callable[[reads.Read], Awaitable[Any]]
    add_status: Callable[[], dict[str, Any]] = dict

    def routes(self) -> list[Route]:
        """Return the routes, for `Endpoint.application`."""
        route = self.endpoint.route
        return [
            route("/v1/status", self.status, "GET"),
            route("/v1/explanations/{name:path}", self.explanation, "GET"),
            route("/v1/lists/{list}", self.rows, "GET"),
            route("/v1/devices/{name:path}", self.device, "GET"),
            route("/v1/dead-letters", self.dead_letters, "GET"),
            route("/v1/policies", self.policies, "GET"),
        ]

    async def status(self, request: Request) -> Response:
        """Respond 200 with the status of the fleet (`Status.to_json`)."""
        return JSONResponse(
            {**await self._authorize_and_read(request, reads.status), **self.add_status()}
        )

    async def device(self, request: Request) -> Response:
        """Respond 200 with the state, jobs and last decision of the Mac in the path.

        Raises HttpError 404 if no Mac, or more than one, has this UDID, serial number, enrollment
        id or host name.
        """
        try:
            found = await self._authorize_and_read(
                request, reads.device(request.path_params["name"])
            )
        except UnknownMacError as error:
            raise HttpError(404, str(error)) from None
        return JSONResponse(found)

    async def explanation(self, request: Request) -> Response:
        """Respond 200 with the Explanation of the Mac in the path, as `drydock explain` prints it.

        The query has `at` (a time) or `entry` (a number), both as of which it is explained. Raises
        HttpError 404 if the log has no such Mac; a similar name is suggested.
        """
        at, entry = _time(request, "at"), _number(request, "entry")
        name = request.path_params["name"]
        try:
            found = await self._authorize_and_read(request, reads.explanation(name, at, entry))
        except UnknownMacError as error:
            raise HttpError(404, str(error)) from None
        return Response(found, media_type=_JSON)

    async def rows(self, request: Request) -> Response:
        """Respond 200 with the rows of the list in the path: `columns` and `rows`.

        The query selects: `site`, `mac` (repeated), `since`, `limit`, and any column by its value.
        The next page of the Macs is `after` the last UDID of this one. Raises HttpError 404 for
        another list.
        """
        named = request.path_params["list"]
        name = next((one for one in ListName if one == named), None)
        if name is None:
            raise HttpError(404, f"no list {named!r}; there are {', '.join(ListName)}")
        query = request.query_params
        selection = Selection(
            {column: value for column, value in query.items() if column not in _SELECTORS},
            query.get("site"),
            query.getlist("mac"),
            _time(request, "since"),
            _number(request, "limit"),
            query.get("after"),
        )
        read = reads.rows(name, selection)

        def encoded(state: reads.ReadableState, now: datetime) -> bytes:
            # Of all Macs of a large fleet it takes a second: not in the event loop.
            return _encode({"columns": COLUMNS[name], "rows": read(state, now)})

        try:
            found = await self._authorize_and_read(request, encoded)
        except SelectionError as error:
            raise HttpError(400, str(error)) from None
        return Response(found, media_type=_JSON)

    async def dead_letters(self, request: Request) -> Response:
        """Respond 200 with a page of the dead letters, oldest first, with their bytes.

        The query has `seq` for one of them, `open` for those that were not replayed, `code` for
        those with this code, and `limit`. The next page is `after` the last number of this one.
        """
        read = reads.dead_letters(
            seq=_number(request, "seq"),
            open_only="open" in request.query_params,
            code=request.query_params.get("code"),
            after=_number(request, "after") or 0,
            limit=_number(request, "limit"),
        )
        found = await self._authorize_and_read(request, read)
        return Response(found, media_type=_JSON)

    async def policies(self, request: Request) -> Response:
        """Respond 200 with the policies that were put in force, oldest first, with their texts."""
        found = await self._authorize_and_read(request, reads.policies)
        return Response(found, media_type=_JSON)

    async def _authorize_and_read(self, request: Request, read: reads.Read) -> Any:
        self.authenticator.check_admin(request.headers)
        return await self.run_read(read)


def _time(request: Request, name: str) -> datetime | None:
    """Return the time of a parameter, in UTC; None without one.

    Raises HttpError 400 for another text.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    with suppress(ValueError, OverflowError):
        at = datetime.fromisoformat(text)
        if at.tzinfo is not None:
            return at.astimezone(UTC)
    raise HttpError(400, f"{name}: {text!r} is not a time with its zone, in ISO 8601")


def _number(request: Request, name: str) -> int | None:
    """Return the number of a parameter; None without one. Raises HttpError 400 for another text."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:20]) <= MAX_SEQ):
        raise HttpError(400, f"{name}: {text[:40]!r} is not a number from 1 on")
    return int(text)
