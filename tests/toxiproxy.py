"""Toxiproxy between two programs: it cuts, delays and resets connections. With its fixture."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.kafka.brokers import free_ports
from tests.mdm.programs import Program, tool

_NUMBERS: Final = itertools.count(1)


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
        program = Program(command, folder, lambda: responds(f"{url}/version"))
        return cls(program, httpx.Client(base_url=url, timeout=10.0))

    def proxy(self, upstream: str) -> "Proxy":
        """Return a new way to a server's URL or address, without a fault."""
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

    @property
    def address(self) -> str:
        """Host and port, for protocols other than HTTP."""
        return self.url.removeprefix("http://")

    def switch(self, *, enabled: bool) -> None:
        """Refuse all connections and end the open ones, or accept them again."""
        path = f"/proxies/{self.name}"
        self.api.post(path, json={"enabled": enabled}).raise_for_status()

    def add(
        self, kind: str, stream: str = "downstream", toxicity: float = 1.0, **attributes: int
    ) -> None:
        """Add a fault, such as `limit_data` with `bytes`, to this share of the connections."""
        name = f"{kind}-{len(self._toxics)}"
        body = {"name": name, "type": kind, "stream": stream, "attributes": attributes}
        path = f"/proxies/{self.name}/toxics"
        self.api.post(path, json=body | {"toxicity": toxicity}).raise_for_status()
        self._toxics.append(name)

    def clear(self) -> None:
        """Remove all faults."""
        while self._toxics:
            path = f"/proxies/{self.name}/toxics/{self._toxics.pop()}"
            self.api.delete(path).raise_for_status()


def responds(url: str) -> bool:
    """Return True if an HTTP server responds at this URL."""
    try:
        httpx.get(url, timeout=1.0)
    except httpx.HTTPError:
        return False
    return True


@pytest.fixture(scope="session")
def toxiproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toxiproxy]:
    """A running Toxiproxy; if it is missing, the test is skipped, and fails in CI."""
    if not tool("toxiproxy", "server").exists():
        pytest.skip("toxiproxy: `make tools` builds it (needs go)")
    proxy = Toxiproxy.create(tmp_path_factory.mktemp("toxiproxy"))
    proxy.program.start()
    yield proxy
    proxy.api.close()
    proxy.program.stop()
