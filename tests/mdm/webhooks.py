"""A receiver of NanoMDM's webhooks on loopback, for tests without Drydock."""

import base64
import json
import plistlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhooks:
    """The webhooks that arrived, decoded from JSON, in no certain order."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)

    def messages(self, topic: str, udid: str) -> list[dict[str, Any]]:
        """Return the messages of a Mac in the webhooks of a topic such as `mdm.Connect`."""
        return [
            payload(body) for body in self.bodies if body["topic"] == topic and udid in str(body)
        ]


def payload(body: dict[str, Any]) -> dict[str, Any]:
    """Return the Mac's message that a webhook holds."""
    event = body.get("checkin_event") or body["acknowledge_event"]
    message: dict[str, Any] = plistlib.loads(base64.b64decode(event["raw_payload"]))
    return message


@contextmanager
def webhook_receiver() -> Iterator[Webhooks]:
    """Run a receiver within the block; it responds with 200."""
    received = Webhooks()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            received.bodies.append(json.loads(self.rfile.read(length)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        received.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()
