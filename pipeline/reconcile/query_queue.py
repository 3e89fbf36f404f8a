"""The queries of Macs by the time at which they are due.

A query is due when its field is too old (`pipeline.decide.queries`), and again the same time after
it was asked without an answer. The budget of an MDM server is that of the agent, which has its
configuration (`agents.mdm.query_backlog`).

All of it is in memory. After a restart a shell updates every Mac; a query that the Mac has not
answered is then asked again, and the agent sends no second command for it.
"""

import heapq
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final, NamedTuple

from pipeline.decide.queries import QueryNeed
from pipeline.state.device import from_us, to_us
from schemas.queries import MacQuery, QueryKind

_KINDS: Final = tuple(QueryKind)
_NUMBER_OF: Final = {kind: number for number, kind in enumerate(_KINDS)}


class _Entry(NamedTuple):
    """An entry of the heap, valid while `_due_us` has its time."""

    due_us: int
    udid: str
    kind_number: int


class _Asked(NamedTuple):
    """The last time at which a query was asked, with the Mac's last Authenticate as known then."""

    us: int
    authenticated_us: int


class QueryQueue:
    """The queries of all Macs.

    `needs` returns the queries of one Mac. `is_queried` returns False for a server of a site whose
    Macs are not queried, as in a dry run; from True it never returns to False.
    """

    def __init__(
        self,
        needs: Callable[[str, datetime], Iterable[QueryNeed]],
        is_queried: Callable[[str, str | None], bool],
    ) -> None:
        self._needs = needs
        self._is_queried = is_queried
        self._heap: list[_Entry] = []
        self._due_us: dict[tuple[str, int], int] = {}
        self._asked: dict[tuple[str, int], _Asked] = {}

    def __contains__(self, udid: str) -> bool:
        """Return True if a query of the Mac is in the queue."""
        return any((udid, number) in self._due_us for number in range(len(_KINDS)))

    def update(self, udid: str, now: datetime) -> None:
        """Set the times of a Mac's queries, after an event of the Mac or of its job."""
        found: set[int] = set()
        for need in self._needs(udid, now):
            if self._is_queried(need.site, need.server):
                found.add(_NUMBER_OF[need.kind])
                self._set(udid, need)
        for number in range(len(_KINDS)):
            if number not in found:
                self._due_us.pop((udid, number), None)
                self._asked.pop((udid, number), None)

    def pop_due(self, now: datetime, limit: int) -> list[MacQuery]:
        """Return at most `limit` of the queries to ask now, and count them as asked.

        Each Mac is read again before, since a report only postpones a query and of a policy's
        change the queue has no news.
        """
        now_us, queries = to_us(now), list[MacQuery]()
        while self._heap and self._heap[0].due_us <= now_us and len(queries) < limit:
            entry = heapq.heappop(self._heap)
            if self._due_us.get((entry.udid, entry.kind_number)) == entry.due_us:
                query = self._ask(entry, now)
                if query is not None:
                    queries.append(query)
        return queries

    def next_due_at(self, now: datetime) -> datetime | None:
        """Return the time at which `pop_due` has work, not before `now`; None without queries."""
        return from_us(max(self._heap[0].due_us, to_us(now))) if self._heap else None

    def _set(self, udid: str, need: QueryNeed) -> None:
        """Let the query be due at its time, or at an earlier one at which it is set already.

        A report moves the time to later: then the Mac is read again at the earlier time. So the
        heap does not grow with the reports.
        """
        key = udid, _NUMBER_OF[need.kind]
        due_us = self._due(key, need)
        known = self._due_us.get(key)
        if known is None or due_us < known:
            self._due_us[key] = due_us
            heapq.heappush(self._heap, _Entry(due_us, *key))

    def _due(self, key: tuple[str, int], need: QueryNeed) -> int:
        """Return the time of a query; 0, at once, if it was never reported and never asked."""
        asked = self._asked.get(key)
        # Not by its time: a sender's clock can be ahead, and the query would be asked for ever.
        if asked is not None and asked.authenticated_us != need.authenticated_us:
            del self._asked[key]
            asked = None
        # An earlier report is one of the ended enrollment.
        known_us = need.known_us if need.known_us >= need.authenticated_us else 0
        last_us = known_us if asked is None else max(asked.us, known_us)
        return last_us + need.every_us if last_us else 0

    def _ask(self, entry: _Entry, now: datetime) -> MacQuery | None:
        """Return the query if the Mac still needs it now, else None; set its next time."""
        now_us, key = to_us(now), (entry.udid, entry.kind_number)
        del self._due_us[key]
        need = next((n for n in self._needs(entry.udid, now) if n.kind is _KINDS[key[1]]), None)
        if need is None or not self._is_queried(need.site, need.server):
            self._asked.pop(key, None)
            return None
        due_us = self._due(key, need)
        if due_us > now_us:
            self._set(entry.udid, need)
            return None
        self._asked[key] = _Asked(now_us, need.authenticated_us)
        self._set(entry.udid, need)
        return MacQuery(
            udid=entry.udid,
            site=need.site,
            server=need.server,
            kind=need.kind,
            known_us=max(need.known_us, need.authenticated_us),
            is_urgent=need.is_urgent,
            due_at=from_us(due_us) if due_us else now,
            expires_at=from_us(now_us + need.every_us),
        )
