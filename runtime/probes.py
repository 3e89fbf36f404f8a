"""HTTP server in a thread for metrics and checks, for programs without an ASGI application."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest

from runtime.listening import Listen
from runtime.metrics_hosts import REFUSAL, MetricsHosts

_TIMEOUT_S: Final = 10.0
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

Health = Callable[[], dict[str, Any]]


class ProbeServer:
    """Server of /metrics, /healthz and /readyz, GET only.

    /metrics responds with the metrics of `registry`, /healthz with `health()` and /readyz with
    `readiness()` as JSON: status 200 if its `ok` is True, else 503. /metrics responds with 403 to a
    name in Host that can be of another's domain. The constructor raises ValueError, with the reason
    in one line, if the address cannot be used.
    """

    def __init__(
        self, listen: Listen, registry: CollectorRegistry, health: Health, readiness: Health
    ) -> None:
        checks = {"/healthz": health, "/readyz": readiness}
        hosts = MetricsHosts()

        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S

            def do_GET(self) -> None:
                """Respond to /metrics, /healthz or /readyz, else with 404."""
                if self.path == "/metrics" and not hosts.permits(self.headers.get("Host")):
                    self._respond(403, f"{REFUSAL}\n".encode(), "text/plain")
                elif self.path == "/metrics":
                    self._respond(200, generate_latest(registry), _TEXT)
                elif self.path in checks:
                    found = checks[self.path]()
                    status = 200 if found.get("ok") is True else 503
                    self._respond(status, json.dumps(found).encode(), "application/json")
                else:
                    self._respond(404, b"/metrics, /healthz or /readyz\n", "text/plain")

            def _respond(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing: probes come every few seconds."""

        listener = listen.bind()
        self._server = ThreadingHTTPServer(
            listener.getsockname()[:2], Handler, bind_and_activate=False
        )
        self._server.socket.close()
        self._server.socket = listener
        self._server.daemon_threads = True
        self.port: int = listener.getsockname()[1]

    def start(self) -> None:
        """Serve requests in a new thread."""
        threading.Thread(target=self._server.serve_forever, daemon=True, name="probe").start()

    def stop(self) -> None:
        """Stop serving and close the socket."""
        self._server.shutdown()
        self._server.server_close()
