"""A TCP proxy on loopback that cuts its connections at a chosen piece of their traffic."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


class CutProxy:
    """Forwards connections to `target`, and cuts all of them at the `cut_at`-th piece of data.

    Pieces count from 1, in both directions and over all connections. Later connections work.
    `on_cut` is called just before the cut.
    """

    def __init__(self, target: int, cut_at: int | None, on_cut: Callable[[], None]) -> None:
        self.pieces = 0
        self._on_cut = on_cut
        self._target = target
        self._cut_at = cut_at
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections, and end those that are open."""
        # Closing alone does not wake the thread that accepts.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    self.pieces += 1
                    is_cut = self.pieces == self._cut_at
                if is_cut:
                    self._on_cut()
                    self._cut()
                    return
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def _cut(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open = []


@contextmanager
def cut_proxy(
    target: int, cut_at: int | None = None, on_cut: Callable[[], None] = lambda: None
) -> Iterator[CutProxy]:
    """Run a proxy within the block."""
    proxy = CutProxy(target, cut_at, on_cut)
    try:
        yield proxy
    finally:
        proxy.close()
