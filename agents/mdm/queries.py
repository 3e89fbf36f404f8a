"""Queries of the inventory: sent once, and not again until the Mac has answered.

| state of the query | next step |
| --- | --- |
| none for this report of the Mac | send it |
| queued, or the Mac answers NotNow | nothing: also if the Mac is away for weeks |
| lost, cleared by a new enrollment, or answered without the field | send the next one |

The CommandUUID is derived from the Mac and the time of its newest report. So an agent without the
store of another one sends the same command, which the server has already and does not queue twice.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from enum import StrEnum
from typing import Final

from agents.mac import Obstacle, UnreachableError
from agents.mdm.answers import AnswerStore
from agents.mdm.commands import Command, RequestType, device_information, security_info
from agents.mdm.facts import Name
from agents.mdm.mac import MdmMacs
from agents.mdm.server import ServerUnavailableError
from runtime.logs import Log
from runtime.retry import BROKER, Backoff
from schemas import logkeys as key
from schemas.queries import MacQuery, QueryKind

_COMMANDS: Final[Mapping[QueryKind, tuple[Callable[[str, int], Command], RequestType]]] = {
    QueryKind.DEVICE_INFORMATION: (device_information, RequestType.DEVICE_INFORMATION),
    QueryKind.SECURITY_INFO: (security_info, RequestType.SECURITY_INFO),
}
# Half a day of the default budget, for an outage of the server. A query that finds no room is asked
# again after its interval.
_MAX_WAITING: Final = 100_000
_LOG_INTERVAL_S: Final = 30.0


class QueryOutcome(StrEnum):
    """Outcome of a query that was asked for."""

    SENT = "sent"
    OPEN = "open"
    """An earlier query has no answer yet, so none was sent."""
    HELD = "held"
    """The Mac is in Setup Assistant, or a new enrollment profile waits for it."""
    NOT_ENROLLED = "not_enrolled"
    """No enrollment at a server of the site."""
    FAILED = "failed"
    """The server refused the command or Drydock's login, or our code failed."""
    UNAVAILABLE = "unavailable"
    """The server did not respond, or the answers of the Macs are not read yet."""
    DROPPED = "dropped"
    """Too many queries waited."""


class MacQueries:
    """The queries of the Macs of one site. `answers` is the store of `macs`."""

    def __init__(self, macs: MdmMacs, answers: AnswerStore, now: Callable[[], datetime]) -> None:
        self._macs = macs
        self._answers = answers
        self._now = now

    def send(self, query: MacQuery) -> QueryOutcome:
        """Send the query unless a command of its type, also one of a job, has no answer yet.

        Raises ServerRefusedError, ServerUnavailableError, and UnreachableError while events of the
        past are being read.
        """
        enrollment = self._macs.enrollment(query.udid)
        if isinstance(enrollment, Obstacle) or enrollment.facts.is_enrolled is False:
            return QueryOutcome.NOT_ENROLLED
        if enrollment.facts.flag(Name.AWAITING_CONFIGURATION) is True:
            return QueryOutcome.HELD
        make, request_type = _COMMANDS[query.kind]
        if self._macs.has_open(query.udid, request_type):
            return QueryOutcome.OPEN
        # The Mac may never get to a command behind a new enrollment profile.
        if self._macs.has_open(query.udid, RequestType.INSTALL_PROFILE):
            return QueryOutcome.HELD
        prefix = f"query/{query.udid}/{query.kind}"
        order = f"{prefix}/{query.known_us}"
        # Not their count: the store forgets old ones, and a repeated id is never delivered.
        earlier = self._answers.deliveries(order, self._now())
        number = earlier[-1][0].number + 1 if earlier else 0
        command = make(order, number)
        self._macs.send(enrollment, query.udid, order, command, number, has_job=False)
        self._answers.keep_newest(prefix, order)
        return QueryOutcome.SENT

    def delay_s(self, query: MacQuery) -> float:
        """Return the seconds since the query was due."""
        return (self._now() - query.due_at).total_seconds()


class QuerySender(threading.Thread):
    """Thread that sends the queries of one site. Any thread may call `ask`, which does not wait.

    `count` is called with each outcome, and the seconds since the query was due.
    """

    def __init__(
        self, queries: MacQueries, count: Callable[[QueryOutcome, float], None], log: Log
    ) -> None:
        super().__init__(daemon=True, name="queries")
        self._queries = queries
        self._count = count
        self._log = log
        self._waiting: queue.Queue[MacQuery | None] = queue.Queue(_MAX_WAITING)
        self._ending = threading.Event()
        self._next_log_at = 0.0

    def ask(self, query: MacQuery) -> None:
        """Let the query be sent."""
        try:
            self._waiting.put_nowait(query)
        except queue.Full:
            self._count(QueryOutcome.DROPPED, self._queries.delay_s(query))

    def stop(self) -> None:
        """End the thread after the query that it sends now; after a restart the rest is due."""
        self._ending.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self.join()

    def run(self) -> None:
        """Send until stopped. A query whose server does not respond waits behind the others."""
        backoff = Backoff(BROKER)
        while (query := self._waiting.get()) is not None and not self._ending.is_set():
            outcome = self._send(query)
            self._count(outcome, self._queries.delay_s(query))
            if outcome is QueryOutcome.UNAVAILABLE:
                self.ask(query)
                backoff.wait(self._ending)

    def _send(self, query: MacQuery) -> QueryOutcome:
        try:
            return self._queries.send(query)
        except (ServerUnavailableError, UnreachableError) as error:
            self._log_failure(query, error)
            return QueryOutcome.UNAVAILABLE
        except Exception as error:  # noqa: BLE001 - top of the thread; the other queries go on
            self._log_failure(query, error)
            return QueryOutcome.FAILED

    def _log_failure(self, query: MacQuery, error: Exception) -> None:
        if time.monotonic() >= self._next_log_at:
            self._next_log_at = time.monotonic() + _LOG_INTERVAL_S
            self._log.warning(
                "query of a Mac not sent; it is asked again later",
                **{
                    key.UDID: query.udid,
                    key.SITE: query.site,
                    key.DETAIL: str(error) or type(error).__name__,
                },
            )
