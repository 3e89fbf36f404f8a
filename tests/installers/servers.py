"""The servers of these tests: versitygw for S3, and an origin of installers."""

import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from agents.installers.bucket import BucketConfig, InstallerBucket
from tests.kafka.brokers import free_ports
from tests.mdm.programs import Program, tool
from tests.toxiproxy import responds

ACCESS_KEY: Final = "drydock-tests"
SECRET_KEY: Final = "the-secret-of-the-bucket"
_NUMBERS: Final = itertools.count(1)


def missing_server() -> str | None:
    """Return how to get versitygw if it is missing, else None."""
    is_there = tool("versitygw").exists()
    return None if is_there else "versitygw: `make tools` builds it (needs go)"


@dataclass
class S3Server:
    """A versitygw on a folder; `url` is its endpoint."""

    program: Program
    url: str

    @classmethod
    def create(cls, folder: Path) -> "S3Server":
        """Return a server that is not started."""
        for name in ("iam", "versions", "data"):
            (folder / name).mkdir(parents=True)
        url = f"http://127.0.0.1:{free_ports(1)[0]}"
        options = ["--port", url.removeprefix("http://"), "--quiet", "--keep-alive"]
        # Without accounts of its own it would respond to a wrong login with another status.
        options += ["--iam-dir", str(folder / "iam"), "posix"]
        options += ["--versioning-dir", str(folder / "versions"), str(folder / "data")]
        login = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
        program = Program([str(tool("versitygw")), *options], folder, lambda: responds(url), login)
        return cls(program, url)

    def bucket(self) -> InstallerBucket:
        """Return a new, empty bucket."""
        config = BucketConfig(
            bucket=f"installers-{next(_NUMBERS)}",
            endpoint=self.url,
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            timeout_s=5.0,
        )
        bucket = InstallerBucket(config)
        bucket.client.create_bucket(Bucket=config.bucket)
        return bucket


def other_way(known: InstallerBucket, endpoint: str | None, **changes: Any) -> InstallerBucket:
    """Return the bucket through another endpoint."""
    return InstallerBucket(
        replace(known.config, endpoint=endpoint or known.config.endpoint, **changes)
    )


@dataclass
class AppleOrigin:
    """Stand-in for Apple's server of installers: HTTP ranges, a strong ETag, cuts at any byte.

    `cuts` are the bytes of body after which the next responses end, one each. `requests` has the
    method and range of each request.
    """

    content: bytes
    etag: str = '"first"'
    cuts: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    url: str = ""
    sent_bytes: int = 0

    def handler(self) -> type[BaseHTTPRequestHandler]:
        """Return the handler of requests."""
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                origin.requests.append("HEAD")
                self._head(200, len(origin.content), {})

            def do_GET(self) -> None:
                wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                if wanted and self.headers.get("If-Range", origin.etag) != origin.etag:
                    wanted = None
                start = int(wanted[1]) if wanted else 0
                origin.requests.append(f"GET {start}")
                size = len(origin.content)
                extra = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if wanted else {}
                self._head(206 if wanted else 200, size - start, extra)
                body = origin.content[start:]
                cut = origin.cuts.pop(0) if origin.cuts else len(body)
                origin.sent_bytes += min(cut, len(body))
                self.wfile.write(body[:cut])
                if cut < len(body):
                    self.close_connection = True

            def _head(self, status: int, size: int, extra: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"ETag": origin.etag, "Content-Length": size, **extra}.items():
                    self.send_header(name, str(value))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        return Handler


@contextmanager
def serving(origin: AppleOrigin) -> Iterator[AppleOrigin]:
    """Serve the origin on a free port; `url` is that of its one file."""
    server = ThreadingHTTPServer(("127.0.0.1", free_ports(1)[0]), origin.handler())
    server.daemon_threads = True
    origin.url = f"http://127.0.0.1:{server.server_address[1]}/InstallAssistant.pkg"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield origin
    finally:
        server.shutdown()
        server.server_close()
