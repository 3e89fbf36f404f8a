"""What every server process has: an address, a log, a registry, a way to serve and to stop."""

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
# Longer than a Go client keeps an idle connection (90 s), so that it is the client who closes it.
# The other way round a webhook that is sent at that moment is lost: Go does not repeat a POST.
_KEEP_ALIVE_S: Final = 120

Log = structlog.typing.FilteringBoundLogger


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen; port 0 takes any free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Listen":
        """`127.0.0.1:8080`, `[::1]:8080`, `localhost:0`. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port))  # noqa: S104

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def bind(self) -> socket.socket:
        """The listening socket. Raises ValueError, which says in one line why there is none."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        try:
            listener = socket.create_server((self.host, self.port), family=family)
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ValueError(f"cannot listen on {self.host}:{self.port}: {why}") from error
        # Connections inherit it. asyncio sets it only on sockets that name their protocol, which
        # these do not; an answer's body then waits 40 ms for its head to be acknowledged.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener


def url_of(listener: socket.socket) -> str:
    """Where a bound socket is reached."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_log() -> Log:
    """One JSON line per event on stderr."""
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
    """They call an error what they try again a moment later; what lasts is logged by us."""
    for name in ("aiokafka", "kafka"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def make_registry() -> CollectorRegistry:
    """A registry with what is told of every process."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class _Server(uvicorn.Server):
    """One of several in a process: signals are for who runs them all."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_until_stopped(
    apps: Sequence[tuple[Starlette, socket.socket]], stopped: asyncio.Event
) -> None:
    """Serve each on its socket until `stopped`; requests under way are answered. A server that
    ends by itself ends all."""
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
    """SIGTERM and SIGINT set it."""
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
