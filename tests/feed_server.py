"""A web server on loopback that serves feeds with ETags, as the real servers do, or with faults."""

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FeedServer:
    """The behavior of the server, and the counts of its responses.

    - `documents`: the bodies, by path.
    - `statuses`: statuses that a path responds with, in order, before its document.
    - `declared`: a false Content-Length, by path.
    - `location`: the target of a redirect, by path.
    - `codings`: the Content-Encoding of a path; its document is sent as it is.
    - `responses`: the number of responses, by path and status.
    - `served`: called with the path after each whole response.
    - `hangs`: keep each connection open after its response, until the server ends.
    """

    url: str
    documents: dict[str, bytes] = field(default_factory=dict)
    statuses: dict[str, list[int]] = field(default_factory=dict)
    declared: dict[str, int] = field(default_factory=dict)
    location: dict[str, str] = field(default_factory=dict)
    codings: dict[str, str] = field(default_factory=dict)
    responses: Counter[tuple[str, int]] = field(default_factory=Counter)
    served: Callable[[str], None] = lambda _: None
    hangs: bool = False

    def respond_with(self, path: str, etag: str | None) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body for a client with this ETag, and count the response."""
        status, headers, body = self._respond(path, etag)
        self.responses[path, status] += 1
        return status, headers | {"Content-Length": str(self.declared.get(path, len(body)))}, body

    def _respond(self, path: str, etag: str | None) -> tuple[int, dict[str, str], bytes]:
        waiting = self.statuses.get(path)
        if waiting:
            return waiting.pop(0), {}, b""
        if path in self.location:
            return 302, {"Location": self.location[path]}, b""
        document = self.documents.get(path)
        if document is None:
            return 404, {}, b""
        if etag == etag_of(document):
            return 304, {}, b""
        coding = self.codings.get(path)
        headers = {} if coding is None else {"Content-Encoding": coding}
        return 200, {"ETag": etag_of(document), **headers}, document


@contextmanager
def feed_server() -> Iterator[FeedServer]:
    """Run a server until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = served.respond_with(
                self.path, self.headers.get("If-None-Match")
            )
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            with suppress(ConnectionError):  # the client has closed the connection
                self.end_headers()
                self.wfile.write(body)
                self.wfile.flush()
            served.served(self.path)
            if served.hangs:
                ending.wait(30)

        def log_message(self, *_: object) -> None:
            pass

    ending = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = FeedServer(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield served
        finally:
            ending.set()
            server.shutdown()
            thread.join()


def etag_of(document: bytes) -> str:
    """Return the ETag of a document: its SHA-256."""
    return f'"{hashlib.sha256(document).hexdigest()}"'
