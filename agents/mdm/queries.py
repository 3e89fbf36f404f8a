"""Queries of the inventory: sent once, and not again until the Mac has answered.

| state of the query | next step |
| --- | --- |
| none for this report of the Mac | send it |
| queued, or the Mac answers NotNow | nothing: also if the Mac is away for weeks |
| lost, cleared by a new enrollment, or answered without the field | send the next one |

The CommandUUID is derived from the Mac and the time of its newest report. So an agent without the
store of another one sends the same command, which the server has already and does not queue twice.
"""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final

from agents.mac import Obstacle, UnreachableError
from agents.mdm.answers import AnswerStore
from agents.mdm.commands import (
    Command,
    RequestType,
    certificate_list,
    device_information,
    profile_list,
    security_info,
)
from agents.mdm.delivery import QUERY_PREFIX, Delivery, SentCommand, State
from agents.mdm.facts import Name
from agents.mdm.mac import FACT_MAX_AGE, MdmMacs
from agents.mdm.query_backlog import QueryBacklog, WaitingQuery
from agents.mdm.server import ServerUnavailableError
from agents.mdm.subscription import StatusSubscriptions
from runtime.logs import Log
from runtime.retry import BROKER, Backoff
from schemas import logkeys as key
from schemas.queries import MacQuery, QueryKind

_COMMANDS: Final[Mapping[QueryKind, tuple[Callable[[str, int], Command], RequestType]]] = {
    QueryKind.DEVICE_INFORMATION: (device_information, RequestType.DEVICE_INFORMATION),
    QueryKind.SECURITY_INFO: (security_info, RequestType.SECURITY_INFO),
    QueryKind.PROFILE_LIST: (profile_list, RequestType.PROFILE_LIST),
    QueryKind.CERTIFICATE_LIST: (certificate_list, RequestType.CERTIFICATE_LIST),
}
# Half a day of the default budget, for an outage of the server. A query that finds no room is asked
# again after its interval.
_MAX_WAITING: Final = 100_000
_BUDGET_INTERVAL_S: Final = 1.0
_LOG_INTERVAL_S: Final = 30.0
_NOT_SENT: Final = "query of a Mac not sent; it is asked again later"
_NOT_SUBSCRIBED: Final = "status reports of a Mac not subscribed; repeated with its next query"


class QueryOutcome(StrEnum):
    """Outcome of a query that was asked for."""

    SENT = "sent"
    OPEN = "open"
    """An earlier query has no answer yet, so none was sent."""
    ANSWERED = "answered"
    """The Mac has answered it: the query was read twice, or the answer came meanwhile."""
    HELD = "held"
    """The Mac was in Setup Assistant within a day, or a new enrollment profile waits for it."""
    NOT_ENROLLED = "not_enrolled"
    """No enrollment at a server of the site."""
    FAILED = "failed"
    """The server refused the command or Drydock's login, or our code failed."""
    UNAVAILABLE = "unavailable"
    """The server did not respond, or the answers of the Macs are not read yet."""
    REFUSED = "refused"
    """No trusted key signed it for the site."""
    DROPPED = "dropped"
    """Too many queries waited."""


_REACHED: Final = frozenset({QueryOutcome.SENT, QueryOutcome.OPEN, QueryOutcome.ANSWERED})


class MacQueries:
    """The queries of the Macs of one site, and their subscriptions of status reports.

    `answers` is the store of `macs`.
    """

    def __init__(self, macs: MdmMacs, answers: AnswerStore, now: Callable[[], datetime]) -> None:
        self._macs = macs
        self._answers = answers
        self._now = now
        self._subscriptions = StatusSubscriptions(macs, answers, now)

    def send(self, query: MacQuery) -> QueryOutcome:
        """Send the query unless a command of its type, also one of a job, has no answer yet.

        Raises ServerRefusedError, ServerUnavailableError, and UnreachableError while events of the
        past are being read.
        """
        enrollment = self._macs.enrollment(query.udid)
        if isinstance(enrollment, Obstacle) or enrollment.facts.is_enrolled is False:
            return QueryOutcome.NOT_ENROLLED
        # The end of Setup Assistant can be silent: no message has to follow DeviceConfigured.
        recent = self._now() - FACT_MAX_AGE
        if enrollment.facts.flag(Name.AWAITING_CONFIGURATION, recent) is True:
            return QueryOutcome.HELD
        make, request_type = _COMMANDS[query.kind]
        if self._macs.has_open(query.udid, request_type):
            return QueryOutcome.OPEN
        # The Mac may never get to a command behind a new enrollment profile.
        if self._macs.has_open(query.udid, RequestType.INSTALL_PROFILE):
            return QueryOutcome.HELD
        prefix = f"{QUERY_PREFIX}{query.udid}/{query.kind}"
        order = f"{prefix}/{query.known_us}"
        # Not their count: the store forgets old ones, and a repeated id is never delivered.
        earlier = self._answers.deliveries(order, self._now())
        if earlier and _is_answered(query, *earlier[-1]):
            return QueryOutcome.ANSWERED
        number = earlier[-1][0].number + 1 if earlier else 0
        command = make(order, number)
        self._macs.send(enrollment, query.udid, order, command, number, has_job=False)
        self._answers.keep_newest(prefix, order)
        return QueryOutcome.SENT

    def subscribe(self, udid: str) -> bool:
        """Declare the subscription of status reports, as StatusSubscriptions does."""
        return self._subscriptions.declare(udid)


class QuerySender(threading.Thread):
    """Thread that sends the queries of one site. Any thread may call `ask`, which does not wait.

    `budgets` are those of QueryBacklog, `now` is the clock. `count` is called with each outcome,
    and the seconds since the query was due.
    """

    def __init__(
        self,
        queries: MacQueries,
        budgets: Mapping[str, int],
        now: Callable[[], datetime],
        count: Callable[[QueryOutcome, float], None],
        log: Log,
    ) -> None:
        super().__init__(daemon=True, name="queries")
        self._queries = queries
        self._now = now
        self._count = count
        self._log = log
        self._changed = threading.Condition()
        self._backlog = QueryBacklog(budgets, _MAX_WAITING)
        self._sending: WaitingQuery | None = None
        self._ending = threading.Event()
        self._next_log_at = 0.0

    def ask(self, query: MacQuery, offset: int = 0) -> None:
        """Let the query be sent. `offset` is that of its record, if a topic has it."""
        with self._changed:
            has_room = self._backlog.add(query, offset)
            self._changed.notify()
        if not has_room:
            self._count_outcome(QueryOutcome.DROPPED, query)

    def count_refused(self) -> None:
        """Count a query without a valid signature for the site."""
        self._count(QueryOutcome.REFUSED, 0.0)

    def clear(self) -> None:
        """Drop the queries that wait: another agent sends them."""
        with self._changed:
            self._backlog.clear()

    def first_offset(self) -> int | None:
        """Return the lowest offset of the queries that wait or are being sent; None without one."""
        with self._changed:
            offsets = [self._backlog.first_offset(), self._sending and self._sending.offset]
        return min((offset for offset in offsets if offset is not None), default=None)

    def waiting(self) -> int:
        """Return the number of queries that wait."""
        with self._changed:
            return len(self._backlog)

    def stop(self) -> None:
        """End the thread after the query that it sends now; after a restart the rest is due."""
        self._ending.set()
        with self._changed:
            self._changed.notify()
        self.join()

    def run(self) -> None:
        """Send until stopped. A query whose server does not respond waits behind the others."""
        backoff = Backoff(BROKER)
        while (waiting := self._next()) is not None:
            query, offset = waiting
            outcome = self._send(query)
            self._count_outcome(outcome, query)
            if outcome in _REACHED:
                self._subscribe(query)
            if outcome is QueryOutcome.UNAVAILABLE:
                self.ask(query, offset)
                backoff.wait(self._ending)

    def _next(self) -> WaitingQuery | None:
        """Wait for a query that may be sent, and return it; None when the thread must end."""
        with self._changed:
            self._sending = None
            while not self._ending.is_set():
                self._sending = self._backlog.pop(self._now())
                if self._sending is not None:
                    return self._sending
                self._changed.wait(_BUDGET_INTERVAL_S if len(self._backlog) else None)
        return None

    def _count_outcome(self, outcome: QueryOutcome, query: MacQuery) -> None:
        self._count(outcome, (self._now() - query.due_at).total_seconds())

    def _send(self, query: MacQuery) -> QueryOutcome:
        try:
            return self._queries.send(query)
        except (ServerUnavailableError, UnreachableError) as error:
            self._log_failure(query, error)
            return QueryOutcome.UNAVAILABLE
        except Exception as error:  # noqa: BLE001 - top of the thread; the other queries go on
            self._log_failure(query, error)
            return QueryOutcome.FAILED

    def _subscribe(self, query: MacQuery) -> None:
        """Declare the subscription beside the query; after a failure the next query does it."""
        try:
            self._queries.subscribe(query.udid)
        except Exception as error:  # noqa: BLE001 - top of the thread; the queries go on
            self._log_failure(query, error, _NOT_SUBSCRIBED)

    def _log_failure(self, query: MacQuery, error: Exception, message: str = _NOT_SENT) -> None:
        if time.monotonic() >= self._next_log_at:
            self._next_log_at = time.monotonic() + _LOG_INTERVAL_S
            self._log.warning(
                message,
                **{
                    key.UDID: query.udid,
                    key.SITE: query.site,
                    key.DETAIL: str(error) or type(error).__name__,
                },
            )


def _is_answered(query: MacQuery, sent: SentCommand, state: Delivery) -> bool:
    """Return True if the command was sent since the query was due, and the Mac answered it."""
    return state.state is State.DONE and sent.sent_at >= query.due_at
