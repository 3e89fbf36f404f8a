"""HTTP server of an agent for /metrics and /healthz."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

_TIMEOUT_S: Final = 10.0
_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"

Health = Callable[[], dict[str, Any]]


class Probe:
    """Server of /metrics and /healthz, GET only.

    /healthz responds with `health()` as JSON: status 200 if its `ok` is True, else 503. The
    constructor raises OSError if the address cannot be used.
    """

    def __init__(self, host: str, port: int, metrics: Callable[[], bytes], health: Health) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = _TIMEOUT_S

            def do_GET(self) -> None:
                """Respond to /metrics or /healthz, else with 404."""
                if self.path == "/metrics":
                    self._answer(200, metrics(), _TEXT)
                elif self.path == "/healthz":
                    found = health()
                    status = 200 if found.get("ok") is True else 503
                    self._answer(status, json.dumps(found).encode(), "application/json")
                else:
                    self._answer(404, b"/metrics or /healthz\n", "text/plain")

            def _answer(self, status: int, body: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing: probes come every few seconds."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def start(self) -> None:
        """Serve requests in a new thread."""
        threading.Thread(target=self._server.serve_forever, daemon=True, name="probe").start()

    def stop(self) -> None:
        """Stop serving and close the socket."""
        self._server.shutdown()
        self._server.server_close()
