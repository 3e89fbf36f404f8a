"""Parts of every server process: listening address, log, registry, serving, stopping."""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import uvicorn
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from starlette.applications import Starlette

GRACE_S: Final = 10
# Longer than a Go client keeps an idle connection (90 s), so that the client closes it first. A
# webhook sent while the server closes it would be lost: Go does not repeat a POST.
_KEEP_ALIVE_S: Final = 120

Log = structlog.typing.FilteringBoundLogger


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on; port 0 selects any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Listen":
        """Return the address of `127.0.0.1:8080`, `[::1]:8080`, `localhost:0` or `:8080`.

        An empty host means all IPv4 interfaces. Raises ValueError if the text is not HOST:PORT or
        the port is above 65535.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))  # noqa: S104

    @property
    def is_loopback(self) -> bool:
        """True if only programs on the same computer can connect: a loopback IP or `localhost`."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def bind(self) -> socket.socket:
        """Return a socket that listens on the address.

        Raises ValueError, with the reason in one line, if the operating system refuses the address.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listener = socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ValueError(f"cannot listen on {self.host}:{self.port}: {why}") from error
        # Accepted connections inherit TCP_NODELAY. asyncio sets it only on sockets that name their
        # protocol, which these do not. Without it the body of a response waits 40 ms for the
        # acknowledgement of its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener


def url_of(listener: socket.socket) -> str:
    """Return the http:// URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_log() -> Log:
    """Return a log that writes one JSON line per event to stderr, from level `info` on."""
    log: Log = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    )
    return log


def silence_kafka_clients() -> None:
    """Hide log lines of the Kafka clients below CRITICAL.

    They log an error for each failure that they retry a moment later. Failures that last are
    logged by the callers.
    """
    for name in ("aiokafka", "kafka"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def make_registry() -> CollectorRegistry:
    """Return a new registry with the metrics of the Python process.

    Also turns off the `_created` series of all registries of the process.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class _Server(uvicorn.Server):
    """One of several servers in a process; it leaves the signal handlers to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_until_stopped(
    apps: Sequence[tuple[Starlette, socket.socket]], stopped: asyncio.Event
) -> None:
    """Serve each application on its socket until `stopped` is set, or until one server ends.

    All servers end before it returns: open requests get up to GRACE_S seconds to finish. The
    exception of a server that failed is raised.
    """
    servers = [_Server(_config(app)) for app, _ in apps]
    serving = [
        asyncio.create_task(server.serve(sockets=[listener]))
        for server, (_, listener) in zip(servers, apps, strict=True)
    ]
    stop = asyncio.create_task(stopped.wait())
    await asyncio.wait([stop, *serving], return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*serving)


def stop_on_signals(stopped: asyncio.Event) -> None:
    """Make the running event loop set `stopped` on SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
