"""HTTP requests to an MDM server: one login, one timeout, one limit, each request sent once."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import inf
from time import monotonic
from typing import Any

import httpx

from agents.mdm.rate_limit import RateLimit
from agents.mdm.server import LoginRefusedError, ServerUnavailableError
from runtime.retry import Backoff
from schemas.ids import clean_text

_SERVER_ERRORS = frozenset(
    {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
)
_NOT_FOUND_OF_GO = b"404 page not found"


@dataclass(frozen=True, slots=True)
class Login:
    """User and password of HTTP's basic authentication. Its representation has no password.

    `password` is a function: the secret is read for each request, so a rotation needs no restart.
    """

    user: str
    password: Callable[[], str]

    def __repr__(self) -> str:
        """Return the user only."""
        return f"Login({self.user})"


class HttpServer:
    """A server's HTTP API.

    `verify` is the TLS context, True for the system's certificates. The proxies of the environment
    are not used: a proxy would see the login. After a request without a response, the next one is
    not sent before the delay of `backoff`, if given: the Macs of a server that is away must not
    hold up those of others, each by a timeout.
    """

    def __init__(
        self,
        url: str,
        login: Login,
        *,
        limit: RateLimit,
        timeout_s: float,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._url = url
        self._login = login
        self._limit = limit
        self._backoff = backoff
        self._away_until = -inf
        self._client = httpx.Client(
            timeout=timeout_s,
            verify=verify,
            trust_env=False,
            follow_redirects=False,
            transport=transport,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        content: bytes | None = None,
        login: Login | None = None,
    ) -> httpx.Response:
        """Return the response to one request, which is sent once.

        `path` begins with a slash and is quoted already. `login` replaces the server's. Raises
        LoginRefusedError for the statuses 401 and 403, and ServerUnavailableError if no response of
        the server itself arrives.
        """
        if monotonic() < self._away_until:
            raise ServerUnavailableError(f"{self._url} did not respond, and is not asked again yet")
        self._limit.wait()
        login = login or self._login
        auth = httpx.BasicAuth(login.user, login.password())
        try:
            response = self._client.request(
                method, self._url + path, params=query, content=content, auth=auth
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if self._backoff is not None:
                self._away_until = monotonic() + self._backoff.next_delay_s()
            # The message of httpx can repeat the URL, but neither header nor body.
            detail = clean_text(str(error)) or type(error).__name__
            raise ServerUnavailableError(f"{self._url}: {detail}") from error
        if self._backoff is not None:
            self._backoff.reset()
        if response.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise LoginRefusedError(f"{self._url} refuses the login of {login.user}: check `login`")
        if response.status_code in _SERVER_ERRORS:
            raise ServerUnavailableError(f"{self._url}: status {response.status_code}")
        return response


def is_without_api(response: httpx.Response) -> bool:
    """Return True for Go's own response to an unknown path (net/http, `NotFound`).

    The server itself has no such path. Another 404 is that of a proxy, whose server is away.
    """
    return (
        response.status_code == HTTPStatus.NOT_FOUND
        and response.content.strip() == _NOT_FOUND_OF_GO
    )


def server_time(response: httpx.Response, header: str = "Date") -> datetime | None:
    """Return the time in a header of the response, None without a valid one."""
    try:
        return parsedate_to_datetime(response.headers[header])
    except (KeyError, ValueError):
        return None


def json_object(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of the body. Raises ServerUnavailableError for another body."""
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ServerUnavailableError(f"status {response.status_code} without a JSON object")
    return found
