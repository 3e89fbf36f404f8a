"""The interface of an MDM server, as an executor needs it. tests/contracts checks every adapter.

A server keeps commands in a queue for each enrollment, and offers them when the Mac asks. Its
acceptance never proves that a command will be delivered. Answers come back in another way: as
events (`agents.mdm.answers`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from agents.mdm.commands import Command
from schemas.events.checkin import DdmStatusReported


class ServerUnavailableError(Exception):
    """The server did not respond, or not with a verdict: a change may have been made or not."""


class ServerRefusedError(Exception):
    """The server refused: nothing was changed. The message has the reason, without a secret."""


class LoginRefusedError(ServerRefusedError):
    """The server does not accept Drydock's login."""


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A command is in the server's queue, or was there before.

    `at` is the server's own time, as in the times of its webhooks; None if it sent none.
    `known_before` is True if the server had this CommandUUID already: the command was queued, or
    answered, or removed from the queue. `push_error` is the reason for which the Mac was not woken,
    "" if it was: the command then waits until the Mac asks by itself.
    """

    at: datetime | None = None
    known_before: bool = False
    push_error: str = ""


class Withdrawal(StrEnum):
    """Outcome of the withdrawal of an order from a server."""

    WITHDRAWN = "withdrawn"
    MAY_STILL_BE_DELIVERED = "may_still_be_delivered"


@dataclass(frozen=True, slots=True)
class Declaration:
    """A declaration of Apple's declarative management."""

    identifier: str
    type: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeclarationSet:
    """Declarations of one order, or of one other purpose, under its name.

    The name is also in their identifiers.
    """

    name: str
    declarations: Sequence[Declaration]


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The newest status report that the server keeps, and the server's time of its receipt.

    `declarations` are those that the Mac listed in the report, by identifier; None if the report
    does not list them.
    """

    at: datetime
    status: DdmStatusReported
    declarations: "dict[str, DeclarationStatus] | None" = None


@dataclass(frozen=True, slots=True)
class DeclarationStatus:
    """The Mac's own verdict on a declaration. `reasons` is its text, "" without one."""

    active: bool
    valid: str
    reasons: str = ""


@dataclass(frozen=True, slots=True)
class ServerView:
    """State of one enrollment at the server.

    `sets` are the names of the declaration sets of orders that the enrollment has. `report` is None
    without a status report.
    """

    sets: frozenset[str] = frozenset()
    report: StatusReport | None = None


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """Requests per second to the server, and commands of ours in its queues at once."""

    max_requests_per_s: float
    max_open_commands: int


class MdmServer(Protocol):
    """One MDM server, with its server of declarations if it has one.

    Every method raises LoginRefusedError for a login that the server does not accept,
    ServerRefusedError if the server refused and changed nothing, and ServerUnavailableError if the
    outcome is unknown. Each call is short: a request has a timeout and is sent once.
    """

    @property
    def name(self) -> str:
        """Name of the server in the configuration."""
        ...

    @property
    def limits(self) -> ServerLimits:
        """Limits of the server; the adapter itself keeps to the requests per second."""
        ...

    @property
    def takes_declarations(self) -> bool:
        """True if `declare` can be used."""
        ...

    def enqueue(self, enrollment_id: str, command: Command) -> Enqueued:
        """Queue a command once: a repeat with one CommandUUID changes nothing."""
        ...

    def declare(self, enrollment_id: str, declarations: DeclarationSet) -> None:
        """Give the enrollment these declarations; a repeat changes nothing.

        The Mac learns of them with its next DeclarativeManagement command, which is not sent here.
        """
        ...

    def withdraw(self, enrollment_id: str, order: str) -> Withdrawal:
        """Withdraw the part of this order that the server has; a repeat changes nothing.

        `order` is the name of a declaration set, or a CommandUUID. Declarations of other programs
        are never changed. A Mac that has fetched a declaration keeps it until its next
        DeclarativeManagement command, which is not sent here.
        """
        ...

    def observe(self, enrollment_id: str) -> ServerView:
        """Return the state of one enrollment; changes nothing."""
        ...
