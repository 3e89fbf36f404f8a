"""Serving of ASGI applications until the process is stopped."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import uvicorn
from starlette.applications import Starlette

from pipeline.http_connections import (
    BACKLOG,
    BoundedConnection,
    ConnectionLimits,
    ConnectionPool,
)

GRACE_S: Final = 10
# Longer than a Go client keeps an idle connection (90 s), so that the client closes it first. A
# webhook sent while the server closes it would be lost: Go does not repeat a POST.
_KEEP_ALIVE_S: Final = 120


class _Server(uvicorn.Server):
    """One of several servers in a process; it leaves the signal handlers to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_until_stopped(
    apps: Sequence[tuple[Starlette, socket.socket]],
    stopped: asyncio.Event,
    limits: ConnectionLimits | None = None,
) -> None:
    """Serve each application on its socket until `stopped` is set, or until one server ends.

    Each server has `limits`, and at most as many connections as the process may open files. All
    servers end before it returns: open requests get up to GRACE_S seconds to finish. The
    exception of a server that failed is raised.
    """
    chosen = (limits or ConnectionLimits()).within_open_files()
    servers = [_Server(_config(app, ConnectionPool(chosen))) for app, _ in apps]
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


def _config(app: Starlette, pool: ConnectionPool) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        # uvicorn calls it to make the protocol of each connection.
        http=partial(BoundedConnection, pool=pool),  # type: ignore[arg-type]
        ws="none",
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
    )
