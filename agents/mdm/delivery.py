"""State of a command that was queued: delivered, waiting or lost. Pure.

A server's acceptance proves nothing, so the state follows from the Mac's later messages:

| the Mac's messages since the command was queued | state |
| --- | --- |
| Acknowledged | DONE |
| Acknowledged, with an install action `Error` | FAILED |
| any other status but NotNow | FAILED |
| NotNow | NOT_NOW: the server keeps the command and offers it again |
| Authenticate | CLEARED: the server emptied its queue |
| Idle twice, or Idle and then nothing for LOST_AFTER | LOST |
| anything else | QUEUED; UNCONFIRMED if the server did not respond when it got the command |

The first row that fits counts; of two final answers the first. An answer to another command resets
the count of Idle: the Mac worked through a longer queue. LOST can also mean that only the
answer was lost, for a webhook is sent once: so it permits a repeat only of a command that is safe.
A command that ends the enrollment is never LOST: the Mac may not answer it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from agents.mdm.commands import EFFECTS, RequestType
from schemas.events.checkin import CommandError
from schemas.ids import clean_text
from schemas.results import ErrorCode

ACKNOWLEDGED: Final = "Acknowledged"
NOT_NOW: Final = "NotNow"
IDLE: Final = "Idle"
# The orders of queries of the inventory begin with it.
QUERY_PREFIX: Final = "query/"
# A Mac answers a command within seconds, but one that only begins a long task can take minutes.
LOST_AFTER: Final = timedelta(minutes=10)

_MDM_ERRORS: Final = "MCMDMErrorDomain"
# "Unknown command": what macOS answers to a command that it does not have.
_UNKNOWN_COMMAND: Final = 12021
# Apple's status of an update in ScheduleOSUpdate's answer (mdm/commands/system.update.schedule).
_UPDATE_ERRORS: Final = {
    "DownloadFailed": ErrorCode.DOWNLOAD_FAILED,
    "DownloadInsufficientSpace": ErrorCode.NO_DISK_SPACE,
    "DownloadInsufficientPower": ErrorCode.LOW_POWER,
    "DownloadInsufficientNetwork": ErrorCode.DOWNLOAD_FAILED,
    "InstallInsufficientSpace": ErrorCode.NO_DISK_SPACE,
    "InstallInsufficientPower": ErrorCode.LOW_POWER,
    "InstallFailed": ErrorCode.INSTALL_FAILED,
    "InstallPhoneCallInProgress": ErrorCode.COMMAND_REJECTED,
}


class State(StrEnum):
    """State of a queued command; the table of the module has the rules."""

    QUEUED = "queued"
    NOT_NOW = "not_now"
    DONE = "done"
    FAILED = "failed"
    CLEARED = "cleared"
    LOST = "lost"
    UNCONFIRMED = "unconfirmed"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a Mac to a command. `at` is the server's time of its webhook."""

    event_id: str
    at: datetime
    status: str
    errors: tuple[CommandError, ...] = ()
    install_actions: tuple[tuple[str, str, str], ...] = ()

    @property
    def is_final(self) -> bool:
        """True if the server removes the command from its queue: for every status but NotNow."""
        return self.status != NOT_NOW

    @property
    def content(self) -> tuple[object, ...]:
        """Everything but time and id: equal for a repeat of the answer."""
        return self.status, self.errors, self.install_actions

    @property
    def error(self) -> tuple[ErrorCode, str] | None:
        """Code and text of a failure, None for a success and for NotNow."""
        if self.status == NOT_NOW:
            return None
        if self.status != ACKNOWLEDGED:
            unknown = any(
                (one.domain, one.code) == (_MDM_ERRORS, _UNKNOWN_COMMAND) for one in self.errors
            )
            texts = [f"{one.domain} {one.code} {one.description}" for one in self.errors]
            rejected = ErrorCode.UNSUPPORTED if unknown else ErrorCode.COMMAND_REJECTED
            return rejected, clean_text("; ".join([self.status, *texts]))
        for product, action, status in self.install_actions:
            # The status can be followed by its error chain, in brackets.
            code = _UPDATE_ERRORS.get(status.partition(" ")[0])
            if action == "Error" or code is not None:
                return code or ErrorCode.COMMAND_REJECTED, clean_text(
                    f"{product}: {action} {status}"
                )
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class SentCommand:
    """A command that was given to a server.

    `order` is the order's name, of which it is command `number`. `sent_at` is the server's time.
    `idle_at` and `second_idle_at` are the Mac's first Idle after it, and the next one, without an
    answer to another command between them; None if there was none. `idle_seen_at` is the time of
    this computer at which the first one arrived: the two clocks can differ. `confirmed` is False
    if the server may not have the command. `closed` is True if its job has ended.
    """

    uuid: str
    order: str
    number: int
    udid: str
    server: str
    request_type: RequestType
    sent_at: datetime
    push_error: str = ""
    idle_at: datetime | None = None
    idle_seen_at: datetime | None = None
    second_idle_at: datetime | None = None
    confirmed: bool = True
    closed: bool = False

    @property
    def job_id(self) -> str:
        """Id of the job to which the order belongs."""
        return self.order.partition("/")[0]

    @property
    def is_query(self) -> bool:
        """True if it is a query of the inventory, of no job."""
        return self.order.startswith(QUERY_PREFIX)

    @property
    def is_safe(self) -> bool:
        """True if the Mac may get the command twice."""
        return EFFECTS[self.request_type].safe_to_repeat

    @property
    def erases(self) -> bool:
        """True if the command erases the Mac."""
        return EFFECTS[self.request_type].destroys


@dataclass(frozen=True, slots=True)
class Delivery:
    """State of a command since `at`, and the error of a failed, cleared or lost one."""

    state: State
    at: datetime
    error_code: ErrorCode | None = None
    detail: str = ""

    @property
    def is_open(self) -> bool:
        """True if the server has the command and will offer it, as far as is known."""
        return self.state in (State.QUEUED, State.NOT_NOW)

    @property
    def may_arrive(self) -> bool:
        """True unless the Mac has answered or the queue was cleared: a lost command may be late."""
        return self.is_open or self.state in (State.LOST, State.UNCONFIRMED)

    @property
    def has_answer(self) -> bool:
        """True if the Mac has given its final answer."""
        return self.state in (State.DONE, State.FAILED)


def delivery(
    sent: SentCommand,
    answers: Sequence[Answer],
    authenticated_at: datetime | None,
    now: datetime,
) -> Delivery:
    """Return the state of a command at `now`, by the table of the module.

    `answers` are those to its CommandUUID, in any order.
    """
    final = min((one for one in answers if one.is_final), key=_order, default=None)
    if final is not None:
        if final.error is not None:
            return Delivery(State.FAILED, final.at, *final.error)
        return Delivery(State.DONE, final.at)
    if authenticated_at is not None and authenticated_at > sent.sent_at:
        detail = "the Mac enrolled again, and its server cleared the queue"
        return Delivery(State.CLEARED, authenticated_at, ErrorCode.QUEUE_CLEARED, detail)
    if answers:
        since = max(answers, key=_order).at
        return Delivery(State.NOT_NOW, since, ErrorCode.COMMAND_REJECTED, "still answers NotNow")
    if not sent.confirmed:
        detail = "the server did not respond"
        return Delivery(State.UNCONFIRMED, sent.sent_at, ErrorCode.NOT_DELIVERED, detail)
    lost_at = _lost_at(sent, now)
    if lost_at is not None:
        detail = "the Mac asked for commands and did not answer this one"
        return Delivery(State.LOST, lost_at, ErrorCode.COMMAND_LOST, detail)
    code = ErrorCode.PUSH_FAILED if sent.push_error else ErrorCode.NOT_DELIVERED
    detail = sent.push_error or "still queued at the MDM server"
    return Delivery(State.QUEUED, sent.sent_at, code, detail)


def _order(answer: Answer) -> tuple[datetime, str]:
    return answer.at, answer.event_id


def _lost_at(sent: SentCommand, now: datetime) -> datetime | None:
    """Return the time at which the command counts as lost, None if it does not."""
    effects = EFFECTS[sent.request_type]
    if effects.ends_enrollment and not effects.destroys:
        return None
    if sent.second_idle_at is not None:
        return sent.second_idle_at
    if sent.idle_seen_at is not None and now >= sent.idle_seen_at + LOST_AFTER:
        return sent.idle_seen_at + LOST_AFTER
    return None
