"""State of the service of a data directory: does it run, and does it accept inputs."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

_TIMEOUT_S: Final = 5.0


class ServiceState(StrEnum):
    """The state of a service.

    `lost`: it has ended, and not by a signal that stops it. `unknown`: its address is unreadable.
    """

    RUNNING = "running"
    NOT_READY = "not_ready"
    STOPPED = "stopped"
    LOST = "lost"
    UNKNOWN = "unknown"


class ServiceReport(NamedTuple):
    """The state of the service of a data directory; `detail` is the reason if it is not ready."""

    state: ServiceState
    url: str | None = None
    detail: str | None = None

    @property
    def problem(self) -> str | None:
        """A sentence for the person who must act; None while the service runs or is stopped."""
        if self.state is ServiceState.LOST:
            return f"the service at {self.url} ended without a stop: see its log, start drydock run"
        if self.state is ServiceState.NOT_READY:
            return f"the service at {self.url} is not ready: {self.detail}; see its log"
        if self.state is ServiceState.UNKNOWN:
            return f"it is unknown if a service runs: {self.detail}; restart drydock run"
        return None

    def to_json(self) -> dict[str, str | None]:
        """Return the report as JSON values."""
        return {"state": self.state.value, "url": self.url, "detail": self.detail}


def read_service_state(data_dir: Path) -> ServiceReport:
    """Return the state of the service; it is asked if it has left its address, within 5 s."""
    from pipeline.embedded.server import ADDRESS_FILE

    try:
        url = str(json.loads((data_dir / ADDRESS_FILE).read_text("utf-8"))["url"])
    except FileNotFoundError:
        return ServiceReport(ServiceState.STOPPED)
    except (OSError, ValueError, LookupError, TypeError) as error:
        # A service whose disk is full leaves an empty file.
        detail = f"{data_dir / ADDRESS_FILE} cannot be read: {error!r}"
        return ServiceReport(ServiceState.UNKNOWN, detail=detail)
    return ask_service(url)


def ask_service(url: str) -> ServiceReport:
    """Return the state of the service at this URL; it is asked, within 5 s."""
    state, detail = _ask(url)
    return ServiceReport(state, url, detail)


def _ask(url: str) -> tuple[ServiceState, str | None]:
    """Return the state of the service at this address, and the reason if it is not ready."""
    import httpx

    try:
        response = httpx.get(url + "/readyz", timeout=_TIMEOUT_S, trust_env=False)
        ready = response.json()
        if ready["ready"]:
            return ServiceState.RUNNING, None
        return ServiceState.NOT_READY, str(ready["reason"])
    except httpx.ConnectError:
        return ServiceState.LOST, None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        return ServiceState.NOT_READY, f"it does not respond: {error!r}"
