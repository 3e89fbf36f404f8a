"""What every server's listening socket is like."""

import socket

from pipeline.server_process import Listen


def test_answers_do_not_wait_for_their_heads_to_be_acknowledged() -> None:
    with (
        Listen("127.0.0.1", 0).bind() as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
