"""The HTTP server of a site cache: links, byte ranges, reports, limits."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from agents.installers.content_cache import ReportError
from agents.installers.links import Link, LinkSigner
from agents.installers.serving import InstallerServer
from runtime.listening import Listen
from schemas.macos import parse_build
from tests.waiting import wait_until

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)
BUILD = parse_build("25G72")
CONTENT = bytes(range(256)) * 64
SHA256 = "c" * 64


class Server:
    """A running server with one file."""

    def __init__(self, folder: Path) -> None:
        self.now = NOON
        self.sent = 0
        self.reports: list[bytes] = []
        self.asked: list[Link] = []
        self.file: Path | None = folder / "file"
        self.file.write_bytes(CONTENT)
        self.signer = LinkSigner.in_folder(folder)
        self.server = InstallerServer(
            Listen("127.0.0.1", 0),
            lambda path: self.signer.read(path, self.now),
            self.find,
            on_bytes=self.count,
            report=self.report,
            report_secret=lambda: "the-secret",
            max_connections=4,
        )
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.server.port}", timeout=10.0)

    def find(self, link: Link) -> tuple[Path, str] | None:
        self.asked.append(link)
        return None if self.file is None else (self.file, SHA256)

    def count(self, size: int) -> None:
        self.sent += size

    def report(self, document: bytes) -> None:
        if document == b"bad":
            raise ReportError("no report")
        self.reports.append(document)

    def link(self, job_id: str = "job/1 ü") -> str:
        return self.signer.path(job_id, BUILD, NOON + timedelta(hours=1))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    running.server.start()
    yield running
    running.http.close()
    running.server.stop()


def test_link_gives_the_whole_file_and_its_sha256(server: Server) -> None:
    response = server.http.get(server.link())
    assert (response.status_code, response.content) == (200, CONTENT)
    assert response.headers["etag"] == f'"{SHA256}"'
    assert server.asked == [Link("job/1 ü", BUILD, int((NOON + timedelta(hours=1)).timestamp()))]
    # The server counts after it has sent, so the client can be first.
    wait_until(lambda: server.sent == len(CONTENT), 10.0, "the bytes are not counted")


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=16000-", 16000, 16384),
        ("bytes=16000-99999", 16000, 16384),
        ("bytes=-84", 16300, 16384),
    ],
)
def test_byte_range_is_sent_alone(server: Server, wanted: str, start: int, end: int) -> None:
    response = server.http.get(server.link(), headers={"Range": wanted})
    assert (response.status_code, response.content) == (206, CONTENT[start:end])
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/16384"


@pytest.mark.parametrize("wanted", ["bytes=16384-", "bytes=9-5", "bytes=-0"])
def test_range_without_a_byte_is_416(server: Server, wanted: str) -> None:
    response = server.http.get(server.link(), headers={"Range": wanted})
    assert (response.status_code, response.content) == (416, b"")
    assert response.headers["content-range"] == "bytes */16384"


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "bytes=-", "lines=1-2"])
def test_other_ranges_give_the_whole_file(server: Server, wanted: str) -> None:
    assert server.http.get(server.link(), headers={"Range": wanted}).content == CONTENT


def test_range_of_another_version_gives_the_whole_file(server: Server) -> None:
    headers = {"Range": "bytes=5-", "If-Range": '"another"'}
    assert server.http.get(server.link(), headers=headers).status_code == 200
    headers["If-Range"] = f'"{SHA256}"'
    assert server.http.get(server.link(), headers=headers).status_code == 206


def test_head_has_the_size_and_no_body(server: Server) -> None:
    response = server.http.head(server.link())
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == "16384"
    assert server.sent == 0


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda link: link.replace("25G72", "25G71"), id="another-build"),
        pytest.param(lambda link: link.replace("job", "jab"), id="another-job"),
        pytest.param(lambda link: link.replace("/17", "/18", 1), id="another-end"),
        pytest.param(lambda link: link.replace("/Install", "0/Install"), id="another-tag"),
        pytest.param(lambda link: link + "/..", id="more-parts"),
        pytest.param(lambda _: "/", id="root"),
        pytest.param(lambda _: "/installers/25G72/j/9999999999/é/InstallAssistant.pkg", id="text"),
    ],
)
def test_changed_link_is_403(server: Server, change) -> None:  # type: ignore[no-untyped-def]
    link = server.link()
    assert change(link) != link
    assert server.http.get(change(link)).status_code == 403
    assert server.asked == []


def test_link_ends_with_its_job(server: Server) -> None:
    server.now = NOON + timedelta(hours=1)
    assert server.http.get(server.link()).status_code == 403


def test_link_is_valid_after_a_restart_and_its_key_is_private(tmp_path: Path) -> None:
    until = NOON + timedelta(hours=1)
    path = LinkSigner.in_folder(tmp_path).path("job", BUILD, until)
    assert LinkSigner.in_folder(tmp_path).read(path, NOON) is not None
    assert (tmp_path / "links.key").stat().st_mode & 0o777 == 0o600


def test_installer_that_is_gone_is_404(server: Server) -> None:
    server.file = None
    assert server.http.get(server.link()).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_report_with_the_secret_is_accepted(server: Server, method: str) -> None:
    response = server.http.request(method, "/content-cache/the-secret", content=b"{}")
    assert (response.status_code, server.reports) == (202, [b"{}"])


def test_report_without_the_secret_is_refused(server: Server) -> None:
    assert server.http.post("/content-cache/another", content=b"{}").status_code == 403
    assert server.http.post("/content-cache/", content=b"{}").status_code == 403
    assert server.http.post("/elsewhere", content=b"{}").status_code == 404
    assert server.http.post("/content-cache/the-secret", content=b"bad").status_code == 400
    large = server.http.post("/content-cache/the-secret", content=bytes(1024 * 1024 + 1))
    assert large.status_code == 413
    assert server.reports == []


def test_connections_beyond_the_limit_are_closed_and_others_go_on(server: Server) -> None:
    address = ("127.0.0.1", server.server.port)
    held = [socket.create_connection(address) for _ in range(4)]
    try:
        for one in held:  # each is accepted: its first request is answered
            one.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert one.recv(12) == b"HTTP/1.1 403"
        with socket.create_connection(address) as more:
            assert more.recv(1) == b""
    finally:
        for one in held:
            one.close()


def test_log_has_no_link(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    server.http.get(server.link())
    server.http.get("/installers/wrong")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
