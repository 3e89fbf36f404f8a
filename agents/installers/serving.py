"""The HTTP server of a site cache: installers to Macs, reports from Apple's content caches.

| request | response |
| --- | --- |
| GET or HEAD of a link (`agents.installers.links`) | the file or one byte range of it |
| POST or PUT of `/content-cache/<secret>` | 202; the report is kept |

The bytes need no encryption: the Mac gets their SHA-256 over SSH, and compares it and Apple's
signature.
"""

import hmac
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agents.installers.content_cache import ReportError
from agents.installers.links import Link
from runtime.listening import Listen

_TIMEOUT_S: Final = 30.0
_RANGE: Final = re.compile(r"bytes=(\d{0,15})-(\d{0,15})", re.ASCII)
_PIECE: Final = 4 * 1024 * 1024
_LARGEST_REPORT: Final = 1024 * 1024
_MAX_CONNECTIONS: Final = 64
_REPORT_PATH: Final = "/content-cache/"


class InstallerServer:
    """Serves the links that `read_link` accepts from the files that `find` returns.

    `report` takes the body of a report and raises ReportError; None accepts no reports, and nor is
    a report accepted whose path does not end in `report_secret()`. `on_bytes` is called with the
    bytes that were sent. The constructor raises ValueError, with the reason in one line, if the
    address cannot be used.
    """

    def __init__(
        self,
        listen: Listen,
        read_link: Callable[[str], Link | None],
        find: Callable[[Link], tuple[Path, str] | None],
        *,
        on_bytes: Callable[[int], None] = lambda _: None,
        report: Callable[[bytes], None] | None = None,
        report_secret: Callable[[], str | None] = lambda: None,
        max_connections: int = _MAX_CONNECTIONS,
    ) -> None:
        parts = _Parts(read_link, find, on_bytes, report, report_secret)
        handler = type("Handler", (_Handler,), {"parts": parts})
        listener = listen.bind()
        self._server = _LimitedServer(listener.getsockname()[:2], handler, max_connections)
        self._server.socket.close()
        self._server.socket = listener
        self.port: int = listener.getsockname()[1]

    def start(self) -> None:
        """Serve requests in new threads."""
        threading.Thread(
            target=self._server.serve_forever, daemon=True, name="installer-server"
        ).start()

    def stop(self) -> None:
        """Stop serving and close the socket."""
        self._server.shutdown()
        self._server.server_close()


class _LimitedServer(ThreadingHTTPServer):
    """A server that closes connections beyond a limit: Macs repeat the request."""

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], limit: int
    ) -> None:
        super().__init__(address, handler, bind_and_activate=False)
        self._free = threading.BoundedSemaphore(limit)

    def process_request(self, request: object, client_address: object) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)  # type: ignore[arg-type]
        else:
            self.shutdown_request(request)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a Mac that closes its connection."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """The functions of a server; see InstallerServer."""

    read_link: Callable[[str], Link | None]
    find: Callable[[Link], tuple[Path, str] | None]
    on_bytes: Callable[[int], None]
    report: Callable[[bytes], None] | None
    report_secret: Callable[[], str | None]


class _Handler(BaseHTTPRequestHandler):
    parts: _Parts
    protocol_version = "HTTP/1.1"
    server_version = "drydock"
    sys_version = ""
    timeout = _TIMEOUT_S

    def do_GET(self) -> None:
        self._send_file(with_body=True)

    def do_HEAD(self) -> None:
        self._send_file(with_body=False)

    def do_POST(self) -> None:
        self._take_report()

    def do_PUT(self) -> None:
        self._take_report()

    def _send_file(self, *, with_body: bool) -> None:
        link = self.parts.read_link(urlsplit(self.path).path)
        if link is None:
            self._respond(403, "the link is not valid, or no longer")
            return
        found = self.parts.find(link)
        if found is None:
            self._respond(404, "the installer is not here now")
            return
        path, sha256 = found
        with path.open("rb") as file:
            size = path.stat().st_size
            wanted = self._wanted(size, f'"{sha256}"')
            if wanted is None:
                self.send_response(416)
                self._end_headers({"Content-Range": f"bytes */{size}", "Content-Length": "0"})
                return
            start, end = wanted
            headers = {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"}
            headers |= {"Content-Type": "application/octet-stream"}
            headers |= {"Content-Length": str(end - start)}
            if (start, end) == (0, size):
                self.send_response(200)
            else:
                self.send_response(206)
                headers |= {"Content-Range": f"bytes {start}-{end - 1}/{size}"}
            self._end_headers(headers)
            while with_body and start < end:
                sent = self.connection.sendfile(file, start, min(_PIECE, end - start))
                if not sent:
                    self.close_connection = True
                    return
                start += sent
                self.parts.on_bytes(sent)

    def _wanted(self, size: int, etag: str) -> tuple[int, int] | None:
        """Return the first byte and the end that are asked for; None if there are none.

        Several ranges, and a range of another version (`If-Range`), give the whole file.
        """
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        if match is None or match[0] == "bytes=-" or self.headers.get("If-Range", etag) != etag:
            return 0, size
        first, last = match[1], match[2]
        if not first:
            return (max(size - int(last), 0), size) if int(last) else None
        start, end = int(first), min(int(last) + 1, size) if last else size
        return (start, end) if start < end else None

    def _take_report(self) -> None:
        path, secret = urlsplit(self.path).path, self.parts.report_secret()
        report = self.parts.report
        given = path.removeprefix(_REPORT_PATH).encode()
        if report is None or secret is None or not path.startswith(_REPORT_PATH):
            self._refuse(404, "no reports are accepted here")
        elif not hmac.compare_digest(given, secret.encode()):
            self._refuse(403, "the secret in the URL is wrong")
        elif not self.headers.get("Content-Length", "").isdecimal():
            self._refuse(411, "the report has no Content-Length")
        elif (size := int(self.headers["Content-Length"])) > _LARGEST_REPORT:
            self._refuse(413, "the report is larger than 1 MiB")
        else:
            try:
                report(self.rfile.read(size))
            except ReportError as error:
                self._respond(400, str(error))
            else:
                self._respond(202, "accepted")

    def _refuse(self, status: int, text: str) -> None:
        self.close_connection = True  # its body is not read
        self._respond(status, text)

    def _respond(self, status: int, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        self._end_headers({"Content-Type": "text/plain", "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _end_headers(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: a path has the secret of a link."""
