"""Names by which /metrics may be read, so that a web page cannot read it through a browser.

A page whose own domain resolves to this server ("DNS rebinding") makes the browser of a person
inside the network send a request with that domain as Host, and may read the response. An address,
a name without a dot, and a name under a suffix that cannot be registered are no such domain.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping
from typing import Final

SETTING: Final = "DRYDOCK_METRICS_HOSTS"
REFUSAL: Final = f"the name in Host is not known; add it to {SETTING}"
# Reserved (RFC 6761, RFC 6762, ICANN 2024-07-29), or used by Kubernetes and not delegated.
_PRIVATE_SUFFIXES: Final = (".localhost", ".local", ".internal", ".svc")


class MetricsHosts:
    """The names that a request for /metrics may have as Host."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        given = environment.get(SETTING, "").split(",")
        self._names = {name.strip().lower() for name in (*given, socket.gethostname())} - {""}

    def permits(self, host: str | None) -> bool:
        """Return True if this is the value of the header Host of a permitted request.

        Without the header too: every browser sends it.
        """
        if host is None:
            return True
        name = _without_port(host.strip().lower()).removesuffix(".")
        return (
            name in self._names
            or "." not in name
            or name.endswith(_PRIVATE_SUFFIXES)
            or _is_address(name)
        )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
