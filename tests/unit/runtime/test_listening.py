"""Addresses to listen on: their forms, their refusals, and the options of their sockets."""

import socket

import pytest

from runtime.listening import ALL_INTERFACES, Listen, url_of


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("[::1]:8080", "::1", 8080),
        ("localhost:0", "localhost", 0),
        (":9464", ALL_INTERFACES, 9464),
    ],
)
def test_address_is_read(text: str, host: str, port: int) -> None:
    assert Listen.parse(text) == Listen(host, port)


def test_empty_host_is_that_of_the_program() -> None:
    assert Listen.parse(":9464", empty_host="127.0.0.1") == Listen("127.0.0.1", 9464)


@pytest.mark.parametrize("text", ["", "127.0.0.1", "host:", "host:http", "host:65536", "host:-1"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        Listen.parse(text)


def test_address_in_use_is_refused_in_one_line() -> None:
    with Listen("127.0.0.1", 0).bind() as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen on 127.0.0.1:{port}: Address already"):
            Listen("127.0.0.1", port).bind()
        assert url_of(listener) == f"http://127.0.0.1:{port}"


def test_accepted_connections_send_without_delay() -> None:
    with (
        Listen("127.0.0.1", 0).bind() as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
