"""The servers of these tests: versitygw for S3, Toxiproxy for cuts and latency, and an origin."""

import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx

from agents.installers.bucket import BucketConfig, InstallerBucket
from tests.kafka.brokers import free_ports
from tests.mdm.programs import Program, tool

ACCESS_KEY: Final = "drydock-tests"
SECRET_KEY: Final = "the-secret-of-the-bucket"
_NUMBERS: Final = itertools.count(1)


def missing_servers() -> str | None:
    """Return the missing servers and how to get them; None if none is missing."""
    files = {"versitygw": tool("versitygw"), "toxiproxy": tool("toxiproxy", "server")}
    missing = [name for name, file in files.items() if not file.exists()]
    return f"{', '.join(missing)}: `make tools` builds them (needs go)" if missing else None


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
        program = Program([str(tool("versitygw")), *options], folder, lambda: _responds(url), login)
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
class Toxiproxy:
    """A Toxiproxy; `api` is the client of its HTTP API."""

    program: Program
    api: httpx.Client

    @classmethod
    def create(cls, folder: Path) -> "Toxiproxy":
        """Return a proxy that is not started."""
        port = free_ports(1)[0]
        url = f"http://127.0.0.1:{port}"
        command = [str(tool("toxiproxy", "server")), "-host", "127.0.0.1", "-port", str(port)]
        program = Program(command, folder, lambda: _responds(f"{url}/version"))
        return cls(program, httpx.Client(base_url=url, timeout=10.0))

    def proxy(self, upstream: str) -> "Proxy":
        """Return a new way to a server's URL, without a fault."""
        name, port = f"way-{next(_NUMBERS)}", free_ports(1)[0]
        listen = f"127.0.0.1:{port}"
        body = {"name": name, "listen": listen, "upstream": upstream.removeprefix("http://")}
        self.api.post("/proxies", json=body | {"enabled": True}).raise_for_status()
        return Proxy(self.api, name, f"http://{listen}")


@dataclass
class Proxy:
    """One way through Toxiproxy."""

    api: httpx.Client
    name: str
    url: str
    _toxics: list[str] = field(default_factory=list)

    def switch(self, *, enabled: bool) -> None:
        """Refuse all connections and end the open ones, or accept them again."""
        path = f"/proxies/{self.name}"
        self.api.post(path, json={"enabled": enabled}).raise_for_status()

    def add(self, kind: str, stream: str = "downstream", **attributes: int) -> None:
        """Add a fault, such as `limit_data` with `bytes`, to each connection."""
        name = f"{kind}-{len(self._toxics)}"
        body = {"name": name, "type": kind, "stream": stream, "attributes": attributes}
        self.api.post(f"/proxies/{self.name}/toxics", json=body).raise_for_status()
        self._toxics.append(name)

    def clear(self) -> None:
        """Remove all faults."""
        while self._toxics:
            path = f"/proxies/{self.name}/toxics/{self._toxics.pop()}"
            self.api.delete(path).raise_for_status()


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


def _responds(url: str) -> bool:
    try:
        httpx.get(url, timeout=1.0)
    except httpx.HTTPError:
        return False
    return True
