"""Requests of commands to the embedded service: over HTTP if it runs, else in its data directory.

Both ways run the same checks, and the request is durable before the command ends.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.output import fail

if TYPE_CHECKING:
    from pipeline.embedded.service_thread import WriteRequest

DataDir = Annotated[Path, typer.Option("--data-dir", help="The service's data directory.")]
FleetOrDataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Data directory of an embedded service; default: use Kafka."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
_NO_NAME: Final = "unknown"


def _author(given: str) -> str:
    """Return the name of the option or of USER; else the login name, as in a job of cron."""
    import getpass

    if given != _NO_NAME:
        return given
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return given


By = Annotated[
    str,
    typer.Option(
        "--by",
        envvar="USER",
        callback=_author,
        help="Your name, for the record; default: your login name.",
    ),
]
_TIMEOUT_S: Final = 60.0
_NOT_READY: Final = 503


class _UnavailableError(Exception):
    """The service or its data directory cannot be used; the message is the reason."""


def send_request(
    data_dir: Path,
    method: str,
    path: str,
    request: "WriteRequest",
    body: bytes = b"",
    *,
    refusable: bool = False,
    otherwise: Callable[[str], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Make a request durable and return the service's response.

    `request` is used if no service runs; else `method`, `path` and `body` are sent to it. Exit 2 if
    the request is refused, with `refusable` it returns {"error": reason} instead. If the service or
    the data directory cannot be used, returns the response of `otherwise` for the reason; exit 2
    without it.
    """
    try:
        response = _apply_offline(data_dir, request)
        if response is None:
            response = _send_online(data_dir, method, path, body)
    except _UnavailableError as error:
        if otherwise is None:
            fail(str(error))
        response = otherwise(str(error))
    if "error" in response and not refusable:
        fail(str(response["error"]))
    return response


def read_from_service(data_dir: Path, path: str) -> dict[str, Any]:
    """Return the response of the running service to GET. Exit 2 if it refuses or is unreachable."""
    try:
        response = _send_online(data_dir, "GET", path, b"")
    except _UnavailableError as error:
        fail(str(error))
    if "error" in response:
        fail(str(response["error"]))
    return response


def _send_online(data_dir: Path, method: str, path: str, body: bytes) -> dict[str, Any]:
    """Return the response of the running service; {"error": reason} if it refuses.

    Raises _UnavailableError if it cannot be reached or responds that it is not ready. Exit 2 if its
    response is not usable.
    """
    import httpx

    from pipeline.embedded.server import ADDRESS_FILE, ADMIN_TOKEN

    try:
        url = str(json.loads((data_dir / ADDRESS_FILE).read_text("utf-8"))["url"])
        token = (data_dir / "keys" / ADMIN_TOKEN).read_text("ascii").strip()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise _UnavailableError(
            f"{data_dir} is in use, and the address of its service cannot be read: {error}"
        ) from error
    try:
        response = httpx.request(
            method,
            url + path,
            content=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_S,
            trust_env=False,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _UnavailableError(f"the service at {url} cannot be reached: {error}") from error
    if response.status_code == _NOT_READY:
        raise _UnavailableError(f"the service at {url} is not ready: {response.text}")
    try:
        response_fields: dict[str, Any] = response.json()
    except ValueError:
        fail(f"the service at {url} responded {response.status_code} without JSON")
    if response.is_error and "error" not in response_fields:
        fail(f"the service at {url} responded {response.status_code}")
    return response_fields


def _apply_offline(data_dir: Path, request: "WriteRequest") -> dict[str, Any] | None:
    """Return the response, after the request is durable in the data directory.

    {"error": reason} if the request is refused; None if a service is running. Raises
    _UnavailableError if the data directory cannot be used; exit 2 if it is none.
    """
    from datetime import UTC, datetime

    from agents.journal import JournalError
    from pipeline.embedded.log import FILE, InUseError, StoreError
    from pipeline.embedded.operator_requests import InvalidRequestError
    from pipeline.embedded.service import Options, Service
    from pipeline.signing_keys import KeyStore
    from runtime.trusted_keys import KeyRing, KeysError, Purpose

    if not (data_dir / FILE).is_file():
        fail(f"no {FILE} in {data_dir}: is this a data directory of Drydock?")
    now, keys = datetime.now(UTC), data_dir / "keys"
    try:
        service = Service.open(
            data_dir,
            now=now,
            signer=KeyStore(keys).signer(Purpose.JOBS),
            trust=KeyRing.load(keys),
            options=Options(fast_paths=fast_paths_wanted()),
        )
    except InUseError:
        return None
    except (StoreError, JournalError, KeysError) as error:
        raise _UnavailableError(str(error)) from error
    try:
        accepted = request(service, now)
        service.accept(accepted.events, accepted.dead_letters, now, replayed=accepted.replayed)
    except InvalidRequestError as error:
        return {"error": str(error)}
    except StoreError as error:
        raise _UnavailableError(str(error)) from error
    finally:
        service.close()
    response: dict[str, Any] = accepted.response
    return response
