"""KMFDDM, a server of declarations beside NanoMDM (github.com/jessepeterson/kmfddm, v0.8.3).

An order has a set of its own, and the enrollment gets the set last: the Mac never sees a part of
it. Every change has `nonotify=1`. KMFDDM's own notification has a CommandUUID that it does not
return, and its status 204 does not mean that the notification was queued; the caller queues the
DeclarativeManagement command itself.

Traps of its storages: it builds keys with dots and looks them up by prefix, so our names have none;
a declaration that is still in a set cannot be deleted (500); and `filekv` lists keys by walking a
folder, so a list can be incomplete while another key is deleted (diskv v3.0.1, `walker`). Then a
Mac fetches no declaration of ours, with status 200 (`observation.delivered`).

The tokens are not used: on the storages `filekv` and `inmem` they change without a change of a
declaration. `softwareupdate` items are only in the raw status report, not in `status-values`.
"""

import json
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

import httpx

from agents.mdm.declarations import is_order, is_ours
from agents.mdm.http import HttpServer, is_without_api, server_time
from agents.mdm.server import (
    Declaration,
    DeclarationSet,
    ServerRefusedError,
    ServerUnavailableError,
    ServerView,
    StatusReport,
)
from agents.mdm.status_report import read_declarations, read_status
from schemas.ids import clean_text

USER: Final = "kmfddm"
_UNCHANGED: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED, HTTPStatus.OK})
_NO_NOTIFY: Final = {"nonotify": "1"}


class Kmfddm:
    """The API of one KMFDDM. The methods raise the errors of `agents.mdm.server.MdmServer`."""

    def __init__(self, api: HttpServer) -> None:
        self._api = api

    def close(self) -> None:
        """Close the connections."""
        self._api.close()

    def owns(self, name: str) -> bool:
        """Return True for the name of the set of an order, False for any other text."""
        return is_order(name)

    def declare(self, enrollment_id: str, declarations: DeclarationSet) -> None:
        """Give the enrollment these declarations; a repeat changes nothing."""
        for declaration in declarations.declarations:
            self._put_declaration(declaration)
            self._change(
                "PUT",
                "/v1/set-declarations/" + quote(declarations.name, safe=""),
                declaration=declaration.identifier,
            )
        path = "/v1/enrollment-sets/" + quote(enrollment_id, safe="")
        self._change("PUT", path, set=declarations.name)

    def withdraw(self, enrollment_id: str, name: str) -> None:
        """Remove the set from the enrollment, then the set and its declarations.

        Nothing happens if the server does not have them. Raises ServerRefusedError for a set that
        is not that of an order.
        """
        if not is_order(name):
            raise ServerRefusedError(f"{name} is no set of an order: it is not changed")
        path = "/v1/enrollment-sets/" + quote(enrollment_id, safe="")
        self._change("DELETE", path, set=name)
        set_path = "/v1/set-declarations/" + quote(name, safe="")
        for identifier in self._names(set_path):
            self._change("DELETE", set_path, declaration=identifier)
            if is_ours(identifier):
                self._change("DELETE", "/v1/declarations/" + quote(identifier, safe=""))

    def observe(self, enrollment_id: str) -> ServerView:
        """Return the enrollment's sets of orders, and its newest status report."""
        names = self._names("/v1/enrollment-sets/" + quote(enrollment_id, safe=""))
        return ServerView(frozenset(filter(is_order, names)), self._newest_report(enrollment_id))

    def _newest_report(self, enrollment_id: str) -> StatusReport | None:
        """Return the newest status report; None without one, and if it cannot be read.

        Without a report, KMFDDM responds with 404 or 500, by its storage.
        """
        path = "/v1/status-report/" + quote(enrollment_id, safe="")
        response = self._api.request("GET", path, {"index": "0"})
        if response.status_code != HTTPStatus.OK:
            return None
        try:
            report = response.json()
        except ValueError:
            return None
        status = read_status(report, enrollment_id)
        if status is None:
            return None
        at = server_time(response, "Last-Modified") or datetime.fromtimestamp(0, UTC)
        return StatusReport(at, status, read_declarations(report))

    def _put_declaration(self, declaration: Declaration) -> None:
        body = {
            "Type": declaration.type,
            "Identifier": declaration.identifier,
            "Payload": declaration.payload,
        }
        content = json.dumps(body).encode()
        self._check(self._api.request("PUT", "/v1/declarations", _NO_NOTIFY, content=content))

    def _change(self, method: str, path: str, **query: str) -> None:
        self._check(self._api.request(method, path, query | _NO_NOTIFY))

    def _check(self, response: httpx.Response) -> None:
        """Raise ServerRefusedError or ServerUnavailableError unless the change is made."""
        if response.status_code in _UNCHANGED:
            return
        detail = f"KMFDDM: status {response.status_code}: {clean_text(response.text)[:200]}"
        of_proxy = response.status_code == HTTPStatus.NOT_FOUND and not is_without_api(response)
        if of_proxy or response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise ServerUnavailableError(detail)
        raise ServerRefusedError(detail)

    def _names(self, path: str) -> list[str]:
        """Return the list of names at this path; [] for `null`, KMFDDM's empty list."""
        response = self._api.request("GET", path)
        if response.status_code == HTTPStatus.NO_CONTENT:
            return []
        if is_without_api(response):
            raise ServerRefusedError(
                "KMFDDM has no API at its URL: start it with `-api`, or correct the URL"
            )
        try:
            found: Any = response.json()
        except ValueError:
            found = ""
        if response.status_code != HTTPStatus.OK or not isinstance(found, list | None):
            raise ServerUnavailableError(f"KMFDDM: status {response.status_code} without a list")
        return [name for name in found or () if isinstance(name, str)]
