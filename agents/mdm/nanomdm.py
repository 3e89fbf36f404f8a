"""Adapter for NanoMDM (github.com/micromdm/nanomdm, v0.9.0), with KMFDDM for declarations.

    PUT /v1/enqueue/ID    body: the command as a property list

| response | the command is |
| --- | --- |
| 200 | queued; also for an unknown id, on the storages `filekv` and `inmem` |
| 207, 500 with only `push_error` | queued; the Mac was not woken |
| 500 with `command_error`: the CommandUUID exists | queued before; it may be answered already |
| 500 with another `command_error` | not queued |
| 400 | not queued: the property list is invalid |
| 401 | not queued: the login is wrong |
| 404 with Go's `404 page not found` | not queued: started without `-api`, or a wrong URL |
| anything else, or no response | perhaps queued |

"Queued" never means that it will be delivered: those two storages lose commands after a NotNow and
after a repeated answer, and can deliver an answered command again. The server has no request that
lists or removes queued commands.
"""

from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from agents.mdm.commands import Command
from agents.mdm.http import HttpServer, is_without_api, json_object, server_time
from agents.mdm.kmfddm import Kmfddm
from agents.mdm.server import (
    DeclarationSet,
    Enqueued,
    ServerLimits,
    ServerRefusedError,
    ServerUnavailableError,
    ServerView,
    Withdrawal,
)
from schemas.ids import clean_text

USER: Final = "nanomdm"
# NanoMDM has no code for it. The texts are those of its storages: filekv and inmem (storage/kv),
# PostgreSQL (SQLSTATE 23505) and MySQL (error 1062).
_KNOWN_BEFORE: Final = ("command already exists", "duplicate key", "Duplicate entry")


class NanoMdmServer:
    """A NanoMDM, and its KMFDDM if it has one."""

    def __init__(
        self, name: str, api: HttpServer, limits: ServerLimits, ddm: Kmfddm | None = None
    ) -> None:
        self._name = name
        self._api = api
        self._limits = limits
        self._ddm = ddm

    @property
    def name(self) -> str:
        """Name of the server in the configuration."""
        return self._name

    @property
    def limits(self) -> ServerLimits:
        """Limits of the server."""
        return self._limits

    @property
    def takes_declarations(self) -> bool:
        """True if it has a KMFDDM."""
        return self._ddm is not None

    def close(self) -> None:
        """Close the connections."""
        self._api.close()
        if self._ddm is not None:
            self._ddm.close()

    def enqueue(self, enrollment_id: str, command: Command) -> Enqueued:
        """Queue a command once, and wake the Mac; the table of the module has the responses."""
        path = f"/v1/enqueue/{quote(enrollment_id, safe='')}"
        response = self._api.request("PUT", path, content=command.plist)
        if response.status_code == HTTPStatus.BAD_REQUEST:
            raise ServerRefusedError(f"{self._name} cannot read the {command.request_type}")
        if is_without_api(response):
            raise ServerRefusedError(
                f"{self._name} has no API at its URL: start it with `-api`, or correct the URL"
            )
        body = json_object(response)
        # v0.9.0 has the error of one enrollment under its id, on `filekv` under the CommandUUID.
        parts = [body, *_groups(body.get("status"))]
        refused = _first_text(parts, "command_error")
        at = server_time(response)
        if refused:
            if any(known in refused for known in _KNOWN_BEFORE):
                return Enqueued(at, known_before=True)
            raise ServerRefusedError(f"{self._name} did not queue the command: {refused}")
        if body.get("command_uuid") != command.uuid:
            raise ServerUnavailableError(
                f"{self._name}: status {response.status_code} without the command's id"
            )
        return Enqueued(at, push_error=_first_text(parts, "push_error"))

    def declare(self, enrollment_id: str, declarations: DeclarationSet) -> None:
        """Give the enrollment these declarations. Raises ServerRefusedError without a KMFDDM."""
        if self._ddm is None:
            raise ServerRefusedError(f"{self._name} has no server of declarations")
        self._ddm.declare(enrollment_id, declarations)

    def withdraw(self, enrollment_id: str, order: str) -> Withdrawal:
        """Withdraw a declaration set; a queued command cannot be withdrawn."""
        if self._ddm is None or not self._ddm.owns(order):
            return Withdrawal.MAY_STILL_BE_DELIVERED
        self._ddm.withdraw(enrollment_id, order)
        return Withdrawal.WITHDRAWN

    def observe(self, enrollment_id: str) -> ServerView:
        """Return the declaration sets and the newest status report; NanoMDM itself shows nothing.

        Without a KMFDDM both are empty.
        """
        return ServerView() if self._ddm is None else self._ddm.observe(enrollment_id)


def _groups(found: Any) -> list[dict[str, Any]]:
    """Return the objects in an object, [] for anything else."""
    values = found.values() if isinstance(found, dict) else ()
    return [value for value in values if isinstance(value, dict)]


def _first_text(parts: list[dict[str, Any]], name: str) -> str:
    """Return the first text of this name, "" without one."""
    return next((clean_text(part[name]) for part in parts if isinstance(part.get(name), str)), "")
