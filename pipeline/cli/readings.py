"""The source of the reading commands: a data directory, or a service at a URL.

The service is `drydock run`, or `drydock query` of a fleet on Kafka. The results are equal.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, Protocol, TypeVar
from urllib.parse import quote

import typer

from pipeline.cli.fast_paths import fast_paths_wanted
from pipeline.cli.log_options import open_log
from pipeline.cli.output import fail

if TYPE_CHECKING:
    import httpx

    from pipeline.embedded.list_selection import ListName, Selection
    from pipeline.embedded.lists import Row
    from pipeline.embedded.log import Log, StoredDeadLetter
    from pipeline.embedded.status import Status
    from pipeline.replay.explain import Explanation
    from pipeline.replay.operator_steps import PutInForce
    from pipeline.state.device import Device
    from schemas.decisions import Decision

_Given = TypeVar("_Given", Path | None, str | None)


def _refuse_two_sources(context: typer.Context, given: _Given) -> _Given:
    """Return the value of --data-dir or --server. Exit 2 if the command line has both.

    The URL of DRYDOCK_SERVER is no second source: an option counts more.
    """
    named = [
        name
        for name in ("data_dir", "server")
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    ]
    if len(named) > 1:
        fail("--data-dir and --server exclude each other: give one")
    return given


ReadDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", callback=_refuse_two_sources, help="The data directory of `drydock run`."
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="DRYDOCK_SERVER",
        callback=_refuse_two_sources,
        metavar="URL",
        help="Ask the service at this URL instead: `drydock run`, or `drydock query` of a fleet.",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        envvar="DRYDOCK_TOKEN_FILE",
        help="The file with the service's admin token; default: DRYDOCK_ADMIN_TOKEN.",
    ),
]
TOKEN_VARIABLE: Final = "DRYDOCK_ADMIN_TOKEN"
_TIMEOUT_S: Final = 60.0


class Readings(Protocol):
    """The readings of a data directory or a service. Each one exits 2 if it cannot be read."""

    def last_at(self) -> datetime | None:
        """Return the latest time of a log entry; None for an empty log."""

    def status(self) -> "Status":
        """Return the status of the fleet now."""

    def explanation(self, name: str, at: datetime | None, last_seq: int | None) -> "Explanation":
        """Return the log's content about one Mac; exit 2 for an unknown Mac."""

    def rows(self, name: "ListName", selection: "Selection") -> "list[Row]":
        """Return the selected rows of a list; exit 2 for a name that does not exist."""

    def dead_letters(
        self,
        *,
        seq: int | None = None,
        open_only: bool = False,
        code: str | None = None,
        limit: int | None = None,
    ) -> "list[StoredDeadLetter]":
        """Return the dead letters, oldest first, as `Log.dead_letters`."""

    def policies(self) -> "list[PutInForce]":
        """Return the policies that were put in force, oldest first."""


@contextmanager
def open_readings(
    data_dir: Path | None, server: str | None, token_file: Path | None
) -> Iterator[Readings]:
    """Yield the readings of a data directory, or of a service; exit 2 unless one is given."""
    if data_dir is not None:  # an option counts more than DRYDOCK_SERVER
        with open_log(data_dir) as log:
            yield _LocalReadings(data_dir, log)
    elif server is not None:
        with open_service(server, token_file) as service:
            yield service
    else:
        fail("give --data-dir for a data directory, or --server for the service at a URL")


@contextmanager
def open_service(server: str, token_file: Path | None) -> "Iterator[ServiceReadings]":
    """Yield the readings of the service at a URL. Exit 2 if the token cannot be read."""
    import httpx

    url = server.rstrip("/")
    if not url.startswith(("http://", "https://")):
        fail(f"--server: {server!r} is not a URL such as http://127.0.0.1:8080")
    token = _token(token_file)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    with httpx.Client(headers=headers, timeout=_TIMEOUT_S, trust_env=False) as client:
        yield ServiceReadings(url, client)


def _token(token_file: Path | None) -> str | None:
    import os

    place = f"in {TOKEN_VARIABLE}" if token_file is None else f"in {token_file}"
    try:
        text = (
            os.environ.get(TOKEN_VARIABLE) if token_file is None else token_file.read_text("utf-8")
        )
    except (OSError, ValueError) as error:
        fail(f"cannot read the token {place}: {error}")
    if text is None:
        return None
    token = text.strip()
    # The text of no error may have a part of the token.
    if not (token.isascii() and token.isprintable()):
        fail(f"cannot read the token {place}: it has characters that are not printable ASCII")
    return token


def find_by_hostname(log: "Log", name: str) -> str:
    """Return the UDID of the Mac with this host name. Exit 2 if none or several have it."""
    from pipeline.embedded.mac_names import UnknownMacError, udid_of
    from pipeline.embedded.transaction import load_state

    try:
        return udid_of(load_state(log, fast_paths=fast_paths_wanted()).fleet, name)
    except UnknownMacError as error:
        fail(str(error))


@dataclass(frozen=True, slots=True)
class _LocalReadings:
    data_dir: Path
    log: "Log"

    def last_at(self) -> datetime | None:
        return self.log.last_at()

    def status(self) -> "Status":
        import sqlite3

        from pipeline.embedded.status import read_status

        try:
            return read_status(self.log, datetime.now(UTC))
        except (ValueError, KeyError, sqlite3.Error) as error:
            fail(
                f"cannot read the state in {self.data_dir}: {error}; use the Drydock version that"
                " wrote it, or restore a backup"
            )

    def explanation(self, name: str, at: datetime | None, last_seq: int | None) -> "Explanation":
        from pipeline.replay.explain import explain

        found = explain(self.log, name, at=at, last_seq=last_seq)
        if found is None:
            udid = find_by_hostname(self.log, name)
            found = explain(self.log, udid, at=at, last_seq=last_seq)
        if found is None:
            fail(f"the log has no entry of {name!r}")
        return found

    def rows(self, name: "ListName", selection: "Selection") -> "list[Row]":
        from pipeline.embedded.list_selection import SelectionError, selected_rows
        from pipeline.embedded.transaction import load_state

        reconciler = load_state(self.log, fast_paths=fast_paths_wanted())
        try:
            return list(selected_rows(name, reconciler, datetime.now(UTC), selection))
        except SelectionError as error:
            fail(str(error))

    def dead_letters(
        self,
        *,
        seq: int | None = None,
        open_only: bool = False,
        code: str | None = None,
        limit: int | None = None,
    ) -> "list[StoredDeadLetter]":
        return self.log.dead_letters(seq=seq, open_only=open_only, code=code, limit=limit)

    def policies(self) -> "list[PutInForce]":
        from pipeline.replay.operator_steps import read_policies

        return read_policies(self.log)


@dataclass(frozen=True, slots=True)
class ServiceReadings:
    """The readings of the service at `url`."""

    url: str
    client: "httpx.Client"

    def last_at(self) -> datetime | None:
        """Return the latest time of a log entry; None for an empty log."""
        return self.status().last_at

    def status(self) -> "Status":
        """Return the status of the fleet now."""
        from pipeline.embedded.status import Status

        try:
            return Status.from_json(self._get("/v1/status").json())
        except (ValueError, LookupError, TypeError) as error:
            self._fail_unreadable(error)

    def lag(self) -> Mapping[str, Any] | None:
        """Return the lag of `drydock query` behind Kafka: `records`; None from `drydock run`."""
        found: Mapping[str, Any] | None = self._get("/v1/status").json().get("lag")
        return found

    def explanation(self, name: str, at: datetime | None, last_seq: int | None) -> "Explanation":
        """Return the log's content about one Mac; exit 2 for an unknown Mac."""
        from pipeline.embedded.reads import read_explanation

        query = {"at": None if at is None else at.isoformat(), "entry": last_seq}
        response = self._get(f"/v1/explanations/{quote(name, safe='')}", query)
        try:
            return read_explanation(response.content)
        except ValueError as error:
            self._fail_unreadable(error)

    def rows(self, name: "ListName", selection: "Selection") -> "list[Row]":
        """Return the selected rows of a list; exit 2 for a name that does not exist."""
        since = selection.since
        query: dict[str, Any] = {
            **selection.values,
            "site": selection.site,
            "mac": list(selection.macs),
            "since": None if since is None else since.isoformat(),
            "limit": selection.limit,
            "after": selection.after,
        }
        try:
            found: list[Row] = self._get(f"/v1/lists/{name}", query).json()["rows"]
        except (ValueError, LookupError, TypeError) as error:
            self._fail_unreadable(error)
        return found

    def device(self, name: str) -> "tuple[Device, Decision | None]":
        """Return a Mac and its last decision; exit 2 if none, or more than one, has the name."""
        from pipeline.state.device import Device
        from schemas.decisions import Decision

        response = self._get(f"/v1/devices/{quote(name, safe='')}")
        try:
            found = response.json()
            decided = found["decision"]
            decision = (
                None if decided is None else Decision.model_validate_json(json.dumps(decided))
            )
            return Device.from_wire(found["device"]), decision
        except (ValueError, LookupError, TypeError) as error:
            self._fail_unreadable(error)

    def dead_letters(
        self,
        *,
        seq: int | None = None,
        open_only: bool = False,
        code: str | None = None,
        limit: int | None = None,
    ) -> "list[StoredDeadLetter]":
        """Return the dead letters, oldest first, page by page."""
        found: list[StoredDeadLetter] = []
        query = {"seq": seq, "open": "1" if open_only else None, "code": code}
        while limit is None or len(found) < limit:
            last = found[-1].seq if found else None
            page = self._page_of_letters({**query, "after": last, "limit": limit})
            # A service of an older version knows no pages, and repeats the first one.
            newer = [one for one in page if last is None or one.seq > last]
            if not newer:
                break
            found += newer
        return found[:limit]

    def _page_of_letters(self, query: Mapping[str, Any]) -> "list[StoredDeadLetter]":
        from pipeline.embedded.reads import read_dead_letters

        try:
            return read_dead_letters(self._get("/v1/dead-letters", query).content)
        except ValueError as error:
            self._fail_unreadable(error)

    def policies(self) -> "list[PutInForce]":
        """Return the policies that were put in force, oldest first."""
        from pipeline.embedded.reads import read_policies_of

        try:
            return read_policies_of(self._get("/v1/policies").content)
        except ValueError as error:
            self._fail_unreadable(error)

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> "httpx.Response":
        """Return the response to GET. Exit 2 for an error."""
        import httpx

        given = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            response = self.client.get(self.url + path, params=given)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            fail(f"the service at {self.url} cannot be reached: {error}")
        if not response.is_success:
            self._fail_refused(response)
        return response

    def _fail_refused(self, response: "httpx.Response") -> NoReturn:
        import httpx

        try:
            detail = str(response.json()["error"])
        except (ValueError, LookupError, TypeError):
            detail = f"it responded {response.status_code}"
        if response.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            detail += f"; give --token-file, or set {TOKEN_VARIABLE}"
        # An invalid value of an option has the same text as with a data directory.
        is_ours = response.status_code in {httpx.codes.BAD_REQUEST, httpx.codes.NOT_FOUND}
        fail(detail if is_ours else f"the service at {self.url}: {detail}")

    def _fail_unreadable(self, error: Exception) -> NoReturn:
        fail(f"the response of the service at {self.url} cannot be read: {error}")
