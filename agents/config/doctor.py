"""Weak settings of MDM servers and SSH logins, as far as they can be seen. Nothing is changed.

| request | the login is right | without a right login |
| --- | --- | --- |
| NanoMDM: `GET /v1/pushcert` without a body | 400: no certificate in the body | 401 |
| KMFDDM: `GET /v1/sets` | 200 | 401 |

Both are 404 if the server was started without `-api`. Read in the sources of NanoMDM v0.9.0 and
KMFDDM v0.8.3.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import httpx

from agents.config.check import Read, file_problem, other_secrets, secret_problem
from agents.config.file import AgentConfigDocument
from agents.config.lint import lint
from agents.config.model import MdmServerConfig, SiteConfig, SshConfig, is_loopback
from agents.config.secrets import SecretError, read_erase_pin, read_secret
from agents.config.servers import ServerConfigError, connect
from agents.mdm.http import HttpServer, Login, server_time
from agents.mdm.server import LoginRefusedError, ServerUnavailableError
from runtime.secret_refs import SecretRef, weak_permissions

# A deadline in a declaration, and the order of answers, depend on clocks. The Date header has whole
# seconds.
_MAX_SKEW: Final = timedelta(seconds=30)
_TESTED: Final = {"NanoMDM": "0.9.0", "KMFDDM": "0.8.3"}
_STORAGE: Final = (
    "NanoMDM's storage cannot be seen from here: `filekv` (its default) and `inmem` lose queued"
    " commands and repeat executed ones; run it with `-storage pgsql`"
)
_WEBHOOK: Final = (
    "NanoMDM must send its webhooks to Drydock's gateway (`-webhook-url`, `-webhook-hmac-key`):"
    " without them Drydock never sees that a Mac answered"
)
_OPEN_PROTOCOL: Final = (
    "KMFDDM's endpoints for Macs can be reached over the network and have no login; let only"
    " NanoMDM reach them"
)
_ROOT: Final = (
    "the key is root on every Mac of the site; limit Remote Login to its account and to this"
    " machine's address"
)
_NO_LOGIN: Final = Login("drydock-doctor", lambda: "not-the-key")


class Level(StrEnum):
    """Level of an observation; a `note` cannot be seen from here and is for a person to check."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


class Check(NamedTuple):
    """One observation. `server` is empty for the file itself, `site` also for all sites."""

    level: Level
    site: str
    server: str
    message: str

    def line(self) -> str:
        """Return the text for a person: `london/main: warning: ...`."""
        where = "/".join(part for part in (self.site, self.server) if part)
        mark = "" if self.level is Level.OK else f"{self.level}: "
        return f"{where}: {mark}{self.message}" if where else f"{mark}{self.message}"


_Found = Iterator[tuple[Level, str]]


def examine(
    document: AgentConfigDocument,
    environment: Mapping[str, str],
    now: Callable[[], datetime],
    transport: httpx.BaseTransport | None = None,
) -> Iterator[Check]:
    """Yield what can be seen of the file, its secrets and its servers, site by site.

    `now` returns the present time (aware). `transport` replaces the network.
    """
    for problem in lint(document):
        yield Check(Level.WARNING, "", "", f"line {problem}")
    for name, site in document.config.sites.items():
        for server in site.mdm_servers:
            for level, message in _server(server, environment, now, transport):
                yield Check(level, name, server.name, message)
        if site.ssh is not None:
            for level, message in _ssh(site.ssh, environment):
                yield Check(level, name, "ssh", message)
        for level, message in _site_secrets(site, environment):
            yield Check(level, name, "", message)


def _ssh(config: SshConfig, environment: Mapping[str, str]) -> _Found:
    """Yield the state of the files and secrets of the login; no Mac is contacted."""
    paths = (config.key, config.known_hosts, config.certificate)
    problems = [file_problem(path) for path in paths if path is not None]
    for problem in problems:
        if problem is not None:
            yield Level.ERROR, f"login: {problem}"
    if weak := weak_permissions(SecretRef(source="file", name=config.key)):
        yield Level.WARNING, f"key: {weak}"
    if config.volume_owner is not None:
        yield from _secret("volume owner's login", config.volume_owner.password, environment)
    yield Level.NOTE, _ROOT


def _server(
    config: MdmServerConfig,
    environment: Mapping[str, str],
    now: Callable[[], datetime],
    transport: httpx.BaseTransport | None,
) -> _Found:
    try:
        connection = connect(config, environment, transport)
    except ServerConfigError as error:
        yield Level.ERROR, str(error)
        return
    try:
        yield from _secret("NanoMDM's login", config.login, environment)
        yield from _api("NanoMDM", connection.api, "/v1/pushcert", HTTPStatus.BAD_REQUEST, now)
        yield Level.NOTE, _STORAGE
        yield Level.NOTE, _WEBHOOK
        if config.ddm is not None and connection.ddm is not None:
            yield from _secret("KMFDDM's login", config.ddm.login, environment)
            yield from _api("KMFDDM", connection.ddm, "/v1/sets", HTTPStatus.OK, now)
            if not is_loopback(config.ddm.url):
                yield from _open_protocol(connection.ddm)
    finally:
        connection.close()


def _site_secrets(site: SiteConfig, environment: Mapping[str, str]) -> _Found:
    """Yield the state of the secrets that belong to no server of Macs."""
    if site.erase_pin is not None:
        yield from _secret("PIN for an erase", site.erase_pin, environment, read_erase_pin)
    for name, reference in other_secrets(site).items():
        yield from _secret(name, reference, environment)


def _secret(
    name: str, reference: SecretRef, environment: Mapping[str, str], read: Read = read_secret
) -> _Found:
    if problem := secret_problem(reference, environment, read):
        yield Level.ERROR, f"{name}: {problem}"
    if weak := weak_permissions(reference):
        yield Level.WARNING, f"{name}: {weak}"


def _api(
    product: str, server: HttpServer, path: str, good: HTTPStatus, now: Callable[[], datetime]
) -> _Found:
    """Yield the state of one API: version, clock and login."""
    try:
        response = server.request("GET", "/version", login=_NO_LOGIN)
        yield from _version(product, response)
        yield from _clock(product, response, now())
        status = server.request("GET", path).status_code
    except LoginRefusedError as error:
        yield Level.ERROR, str(error)
    except SecretError:
        return  # reported already
    except ServerUnavailableError as error:
        yield Level.ERROR, f"{product} does not respond: {error}"
    else:
        if status == HTTPStatus.NOT_FOUND:
            yield Level.ERROR, f"{product} has no API at this URL: start it with `-api`"
        elif status != good:
            yield Level.WARNING, f"{product} gave {path} status {status}, not {good}"
        else:
            yield Level.OK, f"{product} accepts the login"
            yield from _login_required(product, server, path)


def _version(product: str, response: httpx.Response) -> _Found:
    """Yield the version; a build without `-ldflags` has the version `unknown`."""
    try:
        body: Any = response.json()
    except ValueError:
        body = None
    version = body.get("version") if isinstance(body, dict) else None
    if not isinstance(version, str) or not version.isprintable():
        yield Level.WARNING, f"/version is not that of {product}: is the URL right?"
        return
    yield Level.OK, f"{product} responds, version {version}"
    if version != "unknown" and version.removeprefix("v") != _TESTED[product]:
        yield Level.WARNING, f"{product} {version} is not tested; v{_TESTED[product]} is"


def _clock(product: str, response: httpx.Response, now: datetime) -> _Found:
    at = server_time(response)
    if at is not None and abs(at - now) > _MAX_SKEW:
        seconds = (at - now).total_seconds()
        side = "ahead of" if seconds > 0 else "behind"
        yield Level.WARNING, f"{product}'s clock is {abs(seconds):.0f} s {side} this machine's"


def _login_required(product: str, server: HttpServer, path: str) -> _Found:
    try:
        status = server.request("GET", path, login=_NO_LOGIN).status_code
    except LoginRefusedError:
        return
    except ServerUnavailableError:
        status = 0
    yield Level.WARNING, f"{product} does not refuse a wrong login (status {status})"


def _open_protocol(server: HttpServer) -> _Found:
    """Yield a warning if KMFDDM's protocol endpoints can be reached: they have no login.

    Who reaches them can read and report the state of any Mac.
    """
    try:
        status = server.request("GET", "/tokens", login=_NO_LOGIN).status_code
    except (LoginRefusedError, ServerUnavailableError):
        return
    if status != HTTPStatus.NOT_FOUND:
        yield Level.WARNING, _OPEN_PROTOCOL
