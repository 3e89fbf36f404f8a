"""Requests to a server that is away."""

import httpx
import pytest

from agents.mdm.http import HttpServer, Login
from agents.mdm.rate_limit import RateLimit
from agents.mdm.server import ServerUnavailableError
from runtime.retry import Backoff, RetryPolicy

AT_ONCE = RetryPolicy(first_s=0.0, max_s=0.0)
MUCH_LATER = RetryPolicy(first_s=1e6, max_s=1e6)


class Network(httpx.BaseTransport):
    """A network that counts requests, and loses them while it is down."""

    def __init__(self) -> None:
        self.is_down = True
        self.requests = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        if self.is_down:
            raise httpx.ReadTimeout("no response", request=request)
        return httpx.Response(200)


def a_server(network: Network, policy: RetryPolicy | None) -> HttpServer:
    return HttpServer(
        "https://mdm.test",
        Login("nanomdm", lambda: "key"),
        limit=RateLimit(1e6),
        timeout_s=1,
        transport=network,
        backoff=None if policy is None else Backoff(policy),
    )


def fails(server: HttpServer, message: str) -> None:
    with pytest.raises(ServerUnavailableError, match=message):
        server.request("GET", "/version")


def test_server_that_is_away_is_not_asked_again_before_the_delay() -> None:
    network = Network()
    server = a_server(network, MUCH_LATER)
    fails(server, "no response")
    network.is_down = False
    fails(server, "is not asked again yet")
    assert network.requests == 1


@pytest.mark.parametrize("policy", [AT_ONCE, None], ids=["delay is over", "no delay"])
def test_server_is_asked_again_after_the_delay(policy: RetryPolicy | None) -> None:
    network = Network()
    server = a_server(network, policy)
    fails(server, "no response")
    network.is_down = False
    assert server.request("GET", "/version").status_code == 200
    assert network.requests == 2


def test_other_servers_are_asked_meanwhile() -> None:
    down, up = Network(), Network()
    up.is_down = False
    away, other = a_server(down, MUCH_LATER), a_server(up, MUCH_LATER)
    fails(away, "no response")
    assert other.request("GET", "/version").status_code == 200
