"""`drydock run` with two sites: the MDM server of one accepts connections and never responds.

The servers of the other site are those of `tests.fake_mdm`, behind HTTP on loopback.
"""

import json
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from schemas.envelope import CloudEvent, encode
from tests.drydock_process import running
from tests.factories.sites import critical_release
from tests.fake_mdm import FakeMdm
from tests.kafka.brokers import free_ports

LONDON: Final = "11111111-AAAA-4000-8000-000000000001"
TOKYO: Final = "22222222-AAAA-4000-8000-000000000002"
# Of one request to a server, the most that a configuration may have.
TIMEOUT_S: Final = 60.0
ANSWERED_S: Final = 0.25
WITHIN_S: Final = 60.0
WEBHOOKS: Final = 40
SECRETS: Final = {
    "DRYDOCK_NANOMDM_SECRET": "the-secret-of-nanomdm",
    "DRYDOCK_SOFA_SECRET": "the-secret-of-sofa",
}
POLICY: Final = """\
version: 1
blast_radius: {jobs_per_hour: null, confirmed_only: false}
sites:
  london: {time_zone: Europe/London, match: {udids: ["1111*"]}}
  tokyo: {time_zone: Asia/Tokyo, match: {udids: ["2222*"]}}
windows:
  - {from: "00:00", to: "00:00"}
deferrals: {exploited: 0d, critical: 0d, high: 0d, medium: 0d, low: 0d, routine: 0d}
methods: {update: [ddm]}
follow_up: {compliant: false}
"""


def eventually(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


class HangingServer:
    """A server that accepts connections, and reads and sends nothing."""

    def __init__(self, port: int) -> None:
        self.accepted: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                self.accepted.append(self._listener.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for connection in self.accepted:
            connection.close()


@contextmanager
def hanging(port: int) -> Iterator[HangingServer]:
    server = HangingServer(port)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def serving(mdm: FakeMdm, port: int) -> Iterator[None]:
    """Serve NanoMDM and KMFDDM on one port within the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _respond(self) -> None:
            mdm.now = datetime.now(UTC)
            host = "mdm.test" if self.path.startswith("/v1/enqueue/") else "ddm.test"
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            response = mdm._handle(
                httpx.Request(
                    self.command,
                    f"https://{host}{self.path}",
                    content=body,
                    headers={"Authorization": self.headers["Authorization"]},
                )
            )
            self.send_response(response.status_code)
            for name in ("Date", "Last-Modified"):
                if name in response.headers:
                    self.send_header(name, response.headers[name])
            # Go sends no body with 204 and 304.
            if response.status_code not in (204, 304):
                self.send_header("Content-Length", str(len(response.content)))
            self.end_headers()
            if response.status_code not in (204, 304):
                self.wfile.write(response.content)

        do_GET = do_PUT = do_DELETE = _respond  # noqa: N815 - the interface's names

        def log_message(self, *_: object) -> None:
            """Log nothing."""

        def send_response(self, code: int, message: str | None = None) -> None:
            self.send_response_only(code, message)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_config(folder: Path, ports: dict[str, int]) -> Path:
    for name, key in (("nanomdm", "secret-of-nanomdm"), ("kmfddm", "secret-of-kmfddm")):
        (folder / name).write_text(key)
        (folder / name).chmod(0o600)
    sites: dict[str, Any] = {
        site: {
            "time_zone": zone,
            "methods": ["ddm"],
            "mdm_servers": [
                {
                    "name": "main",
                    "kind": "nanomdm",
                    "url": f"http://127.0.0.1:{ports[site]}",
                    "login": f"file:{folder / 'nanomdm'}",
                    "ddm": {
                        "url": f"http://127.0.0.1:{ports[site]}",
                        "login": f"file:{folder / 'kmfddm'}",
                    },
                    "timeout_s": TIMEOUT_S,
                    "max_queries_per_minute": 0,
                }
            ],
        }
        for site, zone in (("london", "Europe/London"), ("tokyo", "Asia/Tokyo"))
    }
    path = folder / "agent.yaml"
    path.write_text(json.dumps({"version": 1, "sites": sites}))
    return path


class Company:
    """A running service; `mdm` has the Macs' check-ins and answers."""

    def __init__(self, url: str, data: Path, mdm: FakeMdm) -> None:
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=TIMEOUT_S)
        self.token = (data / "keys" / "admin.token").read_text().strip()
        self.mdm = mdm

    def __enter__(self) -> "Company":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, *events: CloudEvent) -> None:
        body = b"\n".join(encode(event) for event in events)
        headers = {"X-Drydock-Secret": SECRETS["DRYDOCK_SOFA_SECRET"]}
        response = self.http.post("/v1/events", content=body, headers=headers)
        assert response.is_success, response.text

    def send_webhooks(self) -> list[float]:
        """Post the webhooks of the servers, and return the seconds that each one took."""
        bodies, self.mdm.bodies = self.mdm.bodies, []
        seconds, headers = [], {"X-Drydock-Secret": SECRETS["DRYDOCK_NANOMDM_SECRET"]}
        for body in bodies:
            began = time.monotonic()
            response = self.http.post("/webhooks/nanomdm", content=body, headers=headers)
            response.raise_for_status()
            seconds.append(time.monotonic() - began)
        return seconds

    def outcomes(self, udid: str) -> list[str]:
        headers = {"Authorization": f"Bearer {self.token}"}
        found = self.http.get(f"/v1/devices/{udid}", headers=headers).raise_for_status().json()
        return [job["outcome"] for job in found["jobs"]]

    def enroll(self) -> None:
        """Let both Macs enroll and report, then let a release arrive that both lack."""
        for udid in (LONDON, TOKYO):
            self.mdm.now = datetime.now(UTC)
            self.mdm.enroll(udid, **system_of(udid, "26.1", "25B78"))
            self.report(udid, "26.1", "25B78")
        at = datetime.now(UTC) - timedelta(days=1)
        self.post(critical_release("26.1", "25B78", at), critical_release("26.2", "25C56", at))

    def report(self, udid: str, version: str, build: str) -> None:
        """Let the Mac answer a query of its fields."""
        self.mdm.now = datetime.now(UTC)
        found = system_of(udid, version, build) | {"UDID": udid, "IsSupervised": True}
        self.mdm.report(udid, "Acknowledged", str(uuid.uuid4()), QueryResponses=found)
        self.send_webhooks()

    def webhooks_of_others(self, count: int) -> list[float]:
        """Let other Macs enroll, one after another, and return the seconds of each webhook."""
        seconds = []
        for number in range(count):
            self.mdm.check_in(f"33333333-AAAA-4000-8000-{number:012}", "Authenticate")
            seconds += self.send_webhooks()
        return seconds

    def update(self, udid: str) -> None:
        """Let the Mac fetch its declarations, install the release and report it."""
        command = self.mdm.report(udid, "Idle")
        while command is not None:
            command = self.mdm.report(udid, "Acknowledged", command)
        self.mdm.declaration_items(udid)
        self.report(udid, "26.2", "25C56")


def system_of(udid: str, version: str, build: str) -> dict[str, str]:
    serial = {"SerialNumber": f"C02{udid[:8]}", "DeviceName": "mac"}
    return {"OSVersion": version, "BuildVersion": build, "ProductName": "Mac14,2"} | serial


@pytest.mark.timeout(300)
def test_site_whose_server_hangs_delays_neither_webhooks_nor_another_site(tmp_path: Path) -> None:
    ports = dict(zip(("london", "tokyo"), free_ports(2), strict=True))
    (tmp_path / "policy.yaml").write_text(POLICY)
    config = write_config(tmp_path, ports)
    options = ("--policy", str(tmp_path / "policy.yaml"), "--config", str(config))
    mdm, data = FakeMdm(datetime.now(UTC)), tmp_path / "data"
    with serving(mdm, ports["tokyo"]):
        with (
            hanging(ports["london"]) as server,
            running(data, *options, env=SECRETS) as service,
            Company(service.url, data, mdm) as company,
        ):
            company.enroll()
            eventually(lambda: bool(server.accepted), "London's server has a connection")
            hangs_since = time.monotonic()
            seconds = sorted(company.webhooks_of_others(WEBHOOKS))
            eventually(lambda: bool(mdm.enrollment_sets.get(TOKYO)), "Tokyo's Mac has its update")
            company.update(TOKYO)
            eventually(lambda: company.outcomes(TOKYO) == ["succeeded"], "Tokyo's Mac is patched")
            assert time.monotonic() - hangs_since < TIMEOUT_S, "the server still hangs"
            assert company.outcomes(LONDON) == ["accepted"]
            # The machine can be busy; a webhook behind the server would take TIMEOUT_S.
            assert seconds[len(seconds) * 9 // 10] < ANSWERED_S, seconds
            assert seconds[-1] < TIMEOUT_S / 10, seconds
            service.end(signal.SIGKILL)
        with (
            serving(mdm, ports["london"]),
            running(data, *options, env=SECRETS) as service,
            Company(service.url, data, mdm) as company,
        ):
            eventually(lambda: bool(mdm.enrollment_sets.get(LONDON)), "London's Mac has its update")
            eventually(lambda: company.outcomes(LONDON) == ["started"], "its order is begun")
            assert mdm.queues[LONDON] == [*dict.fromkeys(mdm.queues[LONDON])]
            assert len(mdm.queues[LONDON]) == 1
