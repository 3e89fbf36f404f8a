"""Client of simulated Macs in another process, so that several agents can share one fleet."""

import http.client
import threading
import time
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from agents.clock import Clock, ScaledClock, SteppedClock
from agents.mac import Ack, Mac, Observation, UnreachableError
from agents.simulated.wire import (
    AckResponse,
    Acted,
    ActRequest,
    LookRequest,
    LookResponse,
    TimeLine,
)
from schemas.jobs import Job
from schemas.model import WireModel

_TIMEOUT_S: Final = 60.0
# Half of the server's limit: a request on a connection that the server closes would look like an
# unreachable Mac.
_MAX_IDLE_S: Final = 60.0
_ACTED: Final = TypeAdapter(list[Acted])


class SimulatedFleetError(Exception):
    """The server of the simulated Macs did not respond, or responded with an error."""


class SimulatedFleetClient:
    """HTTP client of a simulated fleet. Each thread has its own connection.

    A connection that was idle for more than `quiet_s` is replaced before its next use.
    """

    def __init__(self, host: str, port: int, *, quiet_s: float = _MAX_IDLE_S) -> None:
        self._host, self._port = host, port
        self._quiet_s = quiet_s
        self._local = threading.local()
        self._made: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._made:
            connection.close()

    def mac_for(self, job: Job) -> Mac:
        """Return a Mac that passes each look and order to the fleet; sends no request."""
        return _RemoteMac(self, job.udid)

    def clock(self) -> Clock:
        """Return a clock with the virtual time of the fleet; only this call sends a request.

        Raises SimulatedFleetError if the server does not respond or responds with an error,
        pydantic's ValidationError for an unreadable response.
        """
        line = TimeLine.model_validate_json(self._request("GET", "/clock", b""))
        if line.stepped is not None:
            return SteppedClock(Path(line.stepped))
        return ScaledClock(line.start, line.began_s, line.speed)

    def acted(self) -> list[Acted]:
        """Return every order that a Mac carried out, by time.

        Raises SimulatedFleetError if the server does not respond or responds with an error,
        pydantic's ValidationError for an unreadable response.
        """
        return _ACTED.validate_json(self._request("GET", "/acted", b""))

    def set_delay(self, seconds: float) -> None:
        """Delay every later order by so many seconds of system time.

        Raises SimulatedFleetError if the server does not respond or responds with an error.
        """
        self._request("POST", "/delay", str(seconds).encode())

    def post(self, path: str, order: WireModel) -> bytes:
        """Return the body of the response to a look or an order.

        Raises UnreachableError if the server does not respond or responds with an error.
        """
        try:
            return self._request("POST", path, order.model_dump_json(exclude_none=True).encode())
        except SimulatedFleetError as error:
            raise UnreachableError(str(error)) from error

    def _request(self, method: str, path: str, body: bytes) -> bytes:
        """Return the body of a response with status 200.

        Raises SimulatedFleetError for another status, and if the server does not respond.
        """
        try:
            status, response = self._exchange(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            self._hang_up()
            raise SimulatedFleetError(f"no simulated Macs at {self._host}:{self._port}") from error
        if status != http.HTTPStatus.OK:
            raise SimulatedFleetError(response.decode(errors="replace").strip())
        return response

    def _hang_up(self) -> None:
        connection = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()
            self._made.remove(connection)

    def _exchange(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Return the status and the body of the response to one request, which is sent once.

        Raises OSError or http.client.HTTPException if the server does not respond.
        """
        if time.monotonic() - getattr(self._local, "used_at", 0.0) > self._quiet_s:
            self._hang_up()
        self._local.used_at = time.monotonic()
        connection: Any = getattr(self._local, "connection", None)
        if connection is None:
            # Never repeat a request here: the executor must find out if the order arrived.
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
            self._local.connection = connection
            self._made.append(connection)
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()


class _RemoteMac:
    def __init__(self, macs: SimulatedFleetClient, udid: str) -> None:
        self._macs = macs
        self._udid = udid

    def look(self, job: Job) -> Observation:
        """Return an observation of the Mac.

        Raises UnreachableError if the fleet does not reach the Mac, if the server does not respond
        or responds with an error, and for an unreadable response.
        """
        raw = self._macs.post("/look", LookRequest(job=job))
        try:
            return LookResponse.model_validate_json(raw).to_observation()
        except ValidationError as error:
            raise UnreachableError(f"{self._udid}: unreadable response") from error

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        """Give the Mac an order and return the response.

        Raises UnreachableError if the fleet does not reach the Mac or a fault loses the order or
        its response, if the server does not respond or responds with an error, and for an
        unreadable response.
        """
        raw = self._macs.post("/act", ActRequest(step=step, job=job, attempt=attempt))
        try:
            return AckResponse.model_validate_json(raw).to_ack()
        except ValidationError as error:
            raise UnreachableError(f"{self._udid}: unreadable response") from error
