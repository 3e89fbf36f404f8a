"""Addresses to listen on: HOST:PORT, and their sockets."""

import ipaddress
import os
import socket
from dataclasses import dataclass
from typing import Final, Self

ALL_INTERFACES: Final = "0.0.0.0"  # noqa: S104 - all IPv4 interfaces


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on; port 0 selects any free port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, empty_host: str = ALL_INTERFACES) -> Self:
        """Return the address of `127.0.0.1:8080`, `[::1]:8080`, `localhost:0` or `:8080`.

        `:8080` gets the host `empty_host`. Raises ValueError if the text is not HOST:PORT or the
        port is above 65535.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host.removeprefix("[").removesuffix("]") or empty_host, int(port))

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
            reason = _reason(error)
            raise ValueError(f"cannot listen on {self.host}:{self.port}: {reason}") from error
        # Accepted connections inherit TCP_NODELAY. asyncio sets it only on sockets that name their
        # protocol, which these do not. Without it the body of a response waits 40 ms for the
        # acknowledgement of its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener


def _reason(error: OSError) -> str:
    """Return the reason alone: `create_server` adds the address to the error's own text."""
    if isinstance(error, socket.gaierror):
        return str(error.strerror)
    return os.strerror(error.errno) if error.errno else str(error)


def url_of(listener: socket.socket) -> str:
    """Return the http:// URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
