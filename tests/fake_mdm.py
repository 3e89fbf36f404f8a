"""A NanoMDM with KMFDDM in this process, behind the real adapters, and the Macs enrolled in it.

It keeps to the contract of v0.9.0 and v0.8.3 as the tests of the real servers show it
(tests/contracts/mdm_server.py runs on both). A message of a Mac becomes the events that ingest
makes of NanoMDM's webhook; after `lose_webhooks` it becomes none, as in an outage of the gateway.
"""

import base64
import json
import plistlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from itertools import count
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import httpx

from agents.mdm.http import HttpServer, Login
from agents.mdm.kmfddm import Kmfddm
from agents.mdm.nanomdm import NanoMdmServer
from agents.mdm.rate_limit import RateLimit
from agents.mdm.server import ServerLimits
from pipeline.ingest import nanomdm
from pipeline.ingest.redaction import Redactor
from schemas.envelope import Event

NANOMDM_KEY: Final = "secret-of-nanomdm"
KMFDDM_KEY: Final = "secret-of-kmfddm"
SECRETS: Final = (NANOMDM_KEY, KMFDDM_KEY)
LIMITS: Final = ServerLimits(max_requests_per_s=1e6, max_open_commands=500)
_REDACTOR: Final = Redactor(b"a key of the tests only")
_TERMINAL: Final = ("Idle", "NotNow")


@dataclass
class FakeMdm:
    """The two servers. `now` is the servers' clock; the tests set it.

    `queues` are the commands that each enrollment has not answered, in order. `delivered` are the
    CommandUUIDs in the order in which Macs got them. `push_error` is the error of every push, ""
    for none. With `is_down` no request gets a response; with `breaks_after` a request is carried
    out and its response is lost. `failing` has the status with which the requests of a method to a
    host end, without any effect, and `failing_text` the body.
    """

    now: datetime
    push_error: str = ""
    is_down: bool = False
    breaks_after: bool = False
    knows_all_ids: bool = True
    failing: dict[tuple[str, str], int] = field(default_factory=dict)
    failing_text: str = "an error"
    queues: dict[str, list[str]] = field(default_factory=dict)
    delivered: list[tuple[str, str]] = field(default_factory=list)
    commands: dict[str, dict[str, Any]] = field(default_factory=dict)
    declarations: dict[str, dict[str, Any]] = field(default_factory=dict)
    sets: dict[str, list[str]] = field(default_factory=dict)
    enrollment_sets: dict[str, list[str]] = field(default_factory=dict)
    reports: dict[str, list[tuple[datetime, bytes]]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    lose_webhooks: bool = False
    _hooks: Iterator[int] = field(default_factory=count)

    def server(self, *, key: str = NANOMDM_KEY, ddm: bool = True) -> NanoMdmServer:
        """Return the adapter for these servers, with this API key."""
        kmfddm = Kmfddm(self._http("https://ddm.test", "kmfddm", KMFDDM_KEY)) if ddm else None
        api = self._http("https://mdm.test", "nanomdm", key)
        return NanoMdmServer("mdm", api, LIMITS, kmfddm)

    def take_events(self) -> list[Event]:
        """Return the events since the last call."""
        found, self.events = self.events, []
        return found

    # --- a Mac's messages ---

    def check_in(self, udid: str, kind: str, **more: Any) -> None:
        """Handle a check-in. An Authenticate clears the queue."""
        if kind == "Authenticate":
            self.queues[udid] = []
        tally = {"token_update_tally": more.pop("tally")} if "tally" in more else {}
        message = {"MessageType": kind, "UDID": udid, "Topic": "com.apple.mgmt.x", **more}
        self._hook(udid, kind, "checkin_event", message, **tally)

    def enroll(self, udid: str, **facts: Any) -> None:
        """Handle the two messages of a complete enrollment."""
        self.check_in(udid, "Authenticate", **facts)
        self.check_in(udid, "TokenUpdate", tally=1, Token=b"t", PushMagic="m")

    def report(self, udid: str, status: str, uuid: str | None = None, **more: Any) -> str | None:
        """Handle a report and return the CommandUUID of the next command, None without one."""
        message = {"UDID": udid, "Status": status, **more}
        if uuid is not None:
            message["CommandUUID"] = uuid
        queue = self.queues.setdefault(udid, [])
        if uuid is not None and status not in _TERMINAL and uuid in queue:
            queue.remove(uuid)
        given = {} if uuid is None else {"command_uuid": uuid}
        self._hook(udid, "Connect", "acknowledge_event", message, status=status, **given)
        waiting = [one for one in queue if not (status == "NotNow" and one == uuid)]
        if not waiting:
            return None
        self.delivered.append((udid, waiting[0]))
        return waiting[0]

    def declaration_items(self, udid: str) -> dict[str, str]:
        """Return the identifiers and server tokens of the Mac's declarations."""
        found = {
            identifier
            for name in self.enrollment_sets.get(udid, ())
            for identifier in self.sets.get(name, ())
        }
        self._ddm_hook(udid, "declaration-items")
        return {one: json.dumps(self.declarations[one], sort_keys=True) for one in sorted(found)}

    def send_status(self, udid: str, report: dict[str, Any]) -> None:
        """Keep a status report."""
        data = json.dumps(report).encode()
        self.reports.setdefault(udid, []).append((self.now, data))
        self._ddm_hook(udid, "status", Data=data)

    def lose(self, udid: str) -> None:
        """Forget the queue of an enrollment, as the default storage does after a NotNow."""
        self.queues[udid] = []

    def _ddm_hook(self, udid: str, endpoint: str, **more: Any) -> None:
        kind = "DeclarativeManagement"
        message = {"MessageType": kind, "UDID": udid, "Endpoint": endpoint, **more}
        self._hook(udid, kind, "checkin_event", message)

    def _hook(self, udid: str, kind: str, name: str, message: dict[str, Any], **own: Any) -> None:
        """Add the events of the webhook about a message."""
        if self.lose_webhooks:
            return
        about = {
            "udid": udid,
            "ids": {"id": udid, "type": "Device"},
            "raw_payload": base64.b64encode(plistlib.dumps(message)).decode(),
            **own,
        }
        # Each webhook has a time of its own, as on a real server.
        at = self.now + timedelta(microseconds=next(self._hooks))
        body = {
            "topic": f"mdm.{kind}",
            "event_id": f"{next(self._hooks):016x}",
            "created_at": at.isoformat(),
            name: about,
        }
        self.bodies.append(json.dumps(body).encode())
        translated = nanomdm.translate(
            self.bodies[-1], origin="test", received_at=at, redactor=_REDACTOR
        )
        assert not translated.dead_letters, translated.dead_letters
        self.events += translated.events

    # --- HTTP ---

    def _http(self, url: str, user: str, key: str) -> HttpServer:
        limit = RateLimit(LIMITS.max_requests_per_s)
        login = Login(user, lambda: key)
        return HttpServer(url, login, limit=limit, timeout_s=1, transport=self.transport)

    @property
    def transport(self) -> httpx.BaseTransport:
        """The network in which these servers are `https://mdm.test` and `https://ddm.test`."""
        return httpx.MockTransport(self._handle)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        if self.is_down:
            raise httpx.ConnectError("connection refused")
        path = unquote(request.url.raw_path.decode().partition("?")[0])
        self.requests.append((request.method, path))
        host = request.url.host
        if (status := self.failing.get((host, request.method))) is not None:
            return httpx.Response(status, text=self.failing_text)
        user, key = ("nanomdm", NANOMDM_KEY) if host == "mdm.test" else ("kmfddm", KMFDDM_KEY)
        expected = b"Basic " + base64.b64encode(f"{user}:{key}".encode())
        if request.headers["Authorization"].encode() != expected:
            return httpx.Response(401, text="Unauthorized")
        query = {name: values[0] for name, values in parse_qs(request.url.query.decode()).items()}
        handle = self._nanomdm if host == "mdm.test" else self._kmfddm
        response = handle(request.method, path, request.content, query)
        response.headers["Date"] = format_datetime(self.now, usegmt=True)
        if self.breaks_after:
            raise httpx.ReadTimeout("no response")
        return response

    def _nanomdm(
        self, method: str, path: str, content: bytes, query: dict[str, str]
    ) -> httpx.Response:
        assert (method, query) == ("PUT", {})
        udid = path.removeprefix("/v1/enqueue/")
        try:
            command = plistlib.loads(content)
        except plistlib.InvalidFileException:
            return httpx.Response(400, text="Bad Request")
        uuid, kind = command["CommandUUID"], command["Command"]["RequestType"]
        body: dict[str, Any] = {"command_uuid": uuid, "request_type": kind}
        if uuid in self.commands:
            error = f"command already exists: {uuid}"
            return httpx.Response(500, json=body | {"command_error": error})
        if not self.knows_all_ids and udid not in self.queues:
            error = 'ERROR: insert or update on table "enrollment_queue" violates foreign key'
            return httpx.Response(500, json=body | {"command_error": error})
        self.commands[uuid] = command["Command"]
        self.queues.setdefault(udid, []).append(uuid)
        if self.push_error:
            status = {udid: {"push_error": self.push_error}}
            return httpx.Response(500, json=body | {"status": status})
        return httpx.Response(200, json=body | {"status": {udid: {"push_result": "APNS-1"}}})

    def _kmfddm(
        self, method: str, path: str, content: bytes, query: dict[str, str]
    ) -> httpx.Response:
        if method != "GET":
            assert query.get("nonotify") or "/declarations/" in path
        part, _, resource = path.removeprefix("/v1/").partition("/")
        handlers: dict[tuple[str, str], Callable[[], httpx.Response]] = {
            ("PUT", "declarations"): lambda: self._put_declaration(json.loads(content)),
            ("DELETE", "declarations"): lambda: self._delete_declaration(resource),
            ("GET", "set-declarations"): lambda: _listed(self.sets.get(resource)),
            ("PUT", "set-declarations"): lambda: self._add_to_set(resource, query["declaration"]),
            ("DELETE", "set-declarations"): lambda: _removed(
                self.sets, resource, query["declaration"]
            ),
            ("GET", "enrollment-sets"): lambda: _listed(self.enrollment_sets.get(resource)),
            ("PUT", "enrollment-sets"): lambda: _added(
                self.enrollment_sets, resource, query["set"]
            ),
            ("DELETE", "enrollment-sets"): lambda: _removed(
                self.enrollment_sets, resource, query["set"]
            ),
            ("GET", "status-report"): lambda: self._report(resource),
        }
        return handlers[method, part]()

    def _put_declaration(self, declaration: dict[str, Any]) -> httpx.Response:
        name = declaration["Identifier"]
        unchanged = self.declarations.get(name) == declaration
        self.declarations[name] = declaration
        return httpx.Response(304 if unchanged else 204)

    def _delete_declaration(self, name: str) -> httpx.Response:
        if any(name in members for members in self.sets.values()):
            return httpx.Response(500, json={"error": "declaration in a set"})
        return httpx.Response(204 if self.declarations.pop(name, None) else 304)

    def _add_to_set(self, name: str, declaration: str) -> httpx.Response:
        if declaration not in self.declarations:
            return httpx.Response(500, json={"error": "declaration not found"})
        return _added(self.sets, name, declaration)

    def _report(self, udid: str) -> httpx.Response:
        kept = self.reports.get(udid)
        if not kept:
            return httpx.Response(500, json={"error": "index out of range: too high (0)"})
        at, data = kept[-1]
        headers = {"Last-Modified": format_datetime(at, usegmt=True)}
        return httpx.Response(200, content=data, headers=headers)


def _listed(names: list[str] | None) -> httpx.Response:
    """Return a list; KMFDDM's empty list is `null`."""
    return httpx.Response(200, content=json.dumps(names or None).encode())


def _added(table: dict[str, list[str]], name: str, member: str) -> httpx.Response:
    members = table.setdefault(name, [])
    if member in members:
        return httpx.Response(304)
    members.append(member)
    return httpx.Response(204)


def _removed(table: dict[str, list[str]], name: str, member: str) -> httpx.Response:
    members = table.get(name, [])
    if member not in members:
        return httpx.Response(304)
    members.remove(member)
    return httpx.Response(204)
