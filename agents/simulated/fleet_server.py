"""Server of simulated Macs: agents reach them over HTTP, and their events go to a sink.

With a folder the process may be killed at any time: an order is stored before a Mac gets it, the
virtual time continues as if the process had run, and every event reaches the sink at least once.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from agents.clock import Clock, ScaledClock, SteppedClock
from agents.mac import UnreachableError
from agents.simulated.fleet import SimulatedFleet
from agents.simulated.wire import (
    AckResponse,
    Acted,
    ActRequest,
    FleetPlan,
    LookRequest,
    LookResponse,
    TimeLine,
)
from runtime.retry import QUICK, Backoff
from schemas.envelope import DeviceEvent

_PUBLISH_INTERVAL_S: Final = 0.1
_MAX_BATCH: Final = 500
_IDLE_S: Final = 120.0
_JSON: Final = "application/json"
_ACTED: Final = TypeAdapter(list[Acted])
_BEGAN: Final = "began.json"
_PUBLISHED_FILE: Final = "published.json"
_ORDERS: Final = "macs.sqlite"

Sink = Callable[[Sequence[DeviceEvent]], None]


class SinkError(Exception):
    """The sink did not confirm a batch of events; they are published again."""


class SimulatedFleetServer:
    """A simulated fleet with its clock and its unpublished events. Any thread may call.

    With `stepped` the fleet uses that clock instead of one with the plan's speed. Without `folder`
    nothing survives the process; without `sink` `publish_events` drops the events. The constructor
    raises ValueError if the folder has another fleet or another speed.
    """

    def __init__(
        self,
        plan: FleetPlan,
        folder: Path | None,
        sink: Sink | None,
        stepped: SteppedClock | None = None,
    ) -> None:
        self._folder = folder
        self._sink = sink
        self._lock = threading.Lock()
        self._events: deque[DeviceEvent] = deque()
        self._delay_s = 0.0
        self._ending = threading.Event()
        began_s = _load_began_s(folder, plan)
        self.time_line = TimeLine(
            start=plan.start,
            began_s=began_s,
            speed=plan.speed,
            stepped=None if stepped is None else str(stepped.path),
        )
        self._clock: Clock = stepped or ScaledClock(plan.start, began_s, plan.speed)
        given: dict[str, Any] = {"seed": plan.seed, "lines": plan.lines, "releases": plan.releases}
        if folder is None:
            self._fleet = SimulatedFleet(plan.macs, plan.start, **given)
        else:
            since = _load_published_until(folder)
            self._fleet = SimulatedFleet.open(
                folder / _ORDERS, plan.macs, plan.start, since=since, **given
            )

    def look(self, request: LookRequest) -> LookResponse:
        """Return an observation of the job's Mac.

        Raises UnreachableError for an unknown Mac, and for one that installs, waits in Setup
        Assistant or has no network.
        """
        with self._lock:
            self._advance()
            return LookResponse.from_observation(self._fleet.mac_for(request.job).look(request.job))

    def act(self, request: ActRequest) -> AckResponse:
        """Give the job's Mac an order and return its response, after the delay of `set_delay`.

        Raises UnreachableError while the Mac installs, waits in Setup Assistant or has no network,
        or if a fault loses the order or its response. An unknown Mac refuses.
        """
        if self._delay_s:
            time.sleep(self._delay_s)
        with self._lock:
            self._advance()
            mac = self._fleet.mac_for(request.job)
            return AckResponse.from_ack(mac.act(request.step, request.job, request.attempt))

    def acted(self) -> bytes:
        """Return every order that a Mac carried out, by time, as a JSON list of `Acted`."""
        with self._lock:
            done = list(self._fleet.acted)
        actions = [Acted(at=a, udid=u, job_id=j, attempt=n, step=s) for a, u, j, n, s in done]
        return _ACTED.dump_json(actions)

    def macs(self) -> bytes:
        """Return UDID, site, version, build and enrollment of each Mac, as a JSON list."""
        with self._lock:
            self._advance()
            found = [
                {
                    "udid": udid,
                    "site": mac.spec.site,
                    "os_version": str(mac.os_version),
                    "build": str(mac.build),
                    "enrolled": mac.enrolled,
                }
                for udid, mac in self._fleet.macs.items()
            ]
        return json.dumps(found).encode()

    def drain_events(self) -> list[DeviceEvent]:
        """Return the events since the last call, by time.

        For a caller that does not run `publish_events`, which takes events as well.
        """
        with self._lock:
            self._advance()
            events = list(self._events)
            self._events.clear()
        return events

    def set_delay(self, seconds: float) -> None:
        """Delay every later order by so many seconds of system time."""
        self._delay_s = seconds

    def stop(self) -> None:
        """Stop `publish_events` and the virtual time, and close the file."""
        self._ending.set()
        with self._lock:
            self._fleet.close()

    def publish_events(self) -> None:
        """Publish events to the sink until stopped; without a sink drop them.

        A batch that raises SinkError is published again within 1 s.
        """
        backoff = Backoff(QUICK)
        while not self._ending.wait(_PUBLISH_INTERVAL_S):
            with self._lock:
                self._advance()
                if self._sink is None:
                    self._events.clear()
                batch = [self._events[i] for i in range(min(len(self._events), _MAX_BATCH))]
            if not batch or self._sink is None:
                continue
            try:
                self._sink(batch)
            except SinkError:
                backoff.wait(self._ending)
                continue
            with self._lock:
                for _ in batch:
                    self._events.popleft()
                self._save_published_until(batch[-1].time)

    def _advance(self) -> None:
        """Move the fleet to the current virtual time and queue its events, unless stopped."""
        if not self._ending.is_set():
            self._events.extend(self._fleet.advance(self._clock.now()))

    def _save_published_until(self, until: datetime) -> None:
        """Store that the events before `until` are published; nothing without a folder."""
        if self._folder is None:
            return
        # One microsecond less: other events of the same time may be unpublished, and a repeat is
        # better than a loss.
        text = (until - timedelta(microseconds=1)).isoformat()
        temporary = self._folder / f".{_PUBLISHED_FILE}"
        temporary.write_text(json.dumps(text))
        temporary.replace(self._folder / _PUBLISHED_FILE)


class SimulatedFleetHttpServer(ThreadingHTTPServer):
    """HTTP server of a fleet. POST /look, /act, /delay; GET /clock, /acted, /macs.

    A connection that is idle for `idle_s` is closed.
    """

    daemon_threads = True
    # Many executors connect at once; the default queue of 5 is too short.
    request_queue_size = 128

    def __init__(
        self, host: str, port: int, fleet_server: SimulatedFleetServer, *, idle_s: float = _IDLE_S
    ) -> None:
        self.fleet_server = fleet_server
        self.idle_s = idle_s
        super().__init__((host, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: SimulatedFleetHttpServer

    def setup(self) -> None:
        """Close a connection that is idle for longer than the server allows."""
        super().setup()
        self.connection.settimeout(self.server.idle_s)

    def do_GET(self) -> None:
        """Respond to /clock, /acted or /macs with JSON, else with 404."""
        fleet_server = self.server.fleet_server
        responses: dict[str, Callable[[], bytes]] = {
            "/clock": lambda: fleet_server.time_line.model_dump_json().encode(),
            "/acted": fleet_server.acted,
            "/macs": fleet_server.macs,
        }
        make_response = responses.get(self.path)
        if make_response is None:
            self._send(404, b"unknown path")
        else:
            self._send(200, make_response())

    def do_POST(self) -> None:
        """Respond to /look, /act or /delay with JSON, to another path with 404.

        Status 503 means an unreachable Mac, 400 an invalid body or another ValueError.
        """
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fleet_server = self.server.fleet_server
        try:
            if self.path == "/look":
                look = fleet_server.look(LookRequest.model_validate_json(body))
                response = look.model_dump_json()
            elif self.path == "/act":
                response = fleet_server.act(ActRequest.model_validate_json(body)).model_dump_json()
            elif self.path == "/delay":
                fleet_server.set_delay(float(body))
                response = "{}"
            else:
                self._send(404, b"unknown path")
                return
        except UnreachableError as error:
            self._send(503, str(error).encode())
        except (ValidationError, ValueError) as error:
            self._send(400, str(error).encode())
        else:
            self._send(200, response.encode())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", _JSON)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing: executors send a request for each look."""


def _load_began_s(folder: Path | None, plan: FleetPlan) -> float:
    """Return the system time at which the virtual time began, in Unix seconds.

    It is stored in the folder, so that the virtual time continues after a restart. Raises
    ValueError if the folder has a fleet of another speed.
    """
    now_s = time.time()
    if folder is None:
        return now_s
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _BEGAN
    if not path.exists():
        path.write_text(json.dumps({"began_s": now_s, "speed": plan.speed}))
    kept = json.loads(path.read_text())
    if kept["speed"] != plan.speed:
        raise ValueError(f"{folder} has a fleet of speed {kept['speed']:g}")
    return float(kept["began_s"])


def _load_published_until(folder: Path) -> datetime | None:
    """Return the time up to which every event is published, None if it is not stored."""
    path = folder / _PUBLISHED_FILE
    return datetime.fromisoformat(json.loads(path.read_text())) if path.exists() else None
