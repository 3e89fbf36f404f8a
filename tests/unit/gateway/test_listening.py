"""Options of the listening socket of every server."""

import socket

from pipeline.server_process import Listen


def test_accepted_connections_send_without_delay() -> None:
    with (
        Listen("127.0.0.1", 0).bind() as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
