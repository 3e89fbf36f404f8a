"""Connections to the MDM servers of a configuration."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from agents.config.model import MdmServerConfig
from agents.config.secrets import read_secret
from agents.mdm import kmfddm, nanomdm
from agents.mdm.http import HttpServer, Login
from agents.mdm.rate_limit import RateLimit
from agents.mdm.server import ServerLimits
from runtime.retry import BROKER, Backoff
from runtime.secret_refs import SecretRef


class ServerConfigError(Exception):
    """A server cannot be used as configured; the message is one line without a secret."""


@dataclass(frozen=True, slots=True)
class ServerConnection:
    """HTTP connections of one server: to its API, and to its server of declarations, if any."""

    api: HttpServer
    ddm: HttpServer | None

    def close(self) -> None:
        """Close both."""
        self.api.close()
        if self.ddm is not None:
            self.ddm.close()


def connect(
    config: MdmServerConfig,
    environment: Mapping[str, str],
    transport: httpx.BaseTransport | None = None,
) -> ServerConnection:
    """Return the connections of a server, which share one limit of requests; nothing is sent yet.

    Secrets are read for each request, so a new one needs no restart; a request raises
    SecretError while its secret cannot be read. `transport` replaces the network. Raises
    ServerConfigError if `ca_file` cannot be used.
    """
    limit, verify = RateLimit(config.max_requests_per_s), _tls(config.ca_file)

    def http(url: str, user: str, reference: SecretRef) -> HttpServer:
        return HttpServer(
            url,
            Login(user, lambda: read_secret(reference, environment).get_secret_value()),
            limit=limit,
            timeout_s=config.timeout_s,
            verify=verify,
            transport=transport,
            backoff=Backoff(BROKER),
        )

    ddm = config.ddm
    return ServerConnection(
        http(config.url, nanomdm.USER, config.login),
        None if ddm is None else http(ddm.url, kmfddm.USER, ddm.login),
    )


def open_server(
    config: MdmServerConfig,
    environment: Mapping[str, str],
    transport: httpx.BaseTransport | None = None,
) -> nanomdm.NanoMdmServer:
    """Return the adapter of a server. Raises ServerConfigError, as `connect`."""
    connection = connect(config, environment, transport)
    limits = ServerLimits(config.max_requests_per_s, config.max_open_commands)
    ddm = None if connection.ddm is None else kmfddm.Kmfddm(connection.ddm)
    return nanomdm.NanoMdmServer(config.name, connection.api, limits, ddm)


def _tls(ca_file: str | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ServerConfigError(f"ca_file {ca_file}: {error.strerror or error}") from error
