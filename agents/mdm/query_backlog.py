"""The queries that wait for their MDM server, within its budget. Pure.

Each server has two lanes, for Macs with an open job and for the others. They take turns, so neither
waits longer than for its own queries at half the budget. A Mac has at most one query of each kind
here: a later one takes the place of the earlier.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from schemas.queries import MacQuery, QueryKind


class WaitingQuery(NamedTuple):
    """A query that waits. `offset` is that of its record, 0 for one that no topic has."""

    query: MacQuery
    offset: int


class _Key(NamedTuple):
    udid: str
    kind: QueryKind


@dataclass(slots=True)
class _Lanes:
    """The queries of one server. `sent` counts those of the minute that begins at `minute`.

    `per_minute` None: a server that the site does not have, so that nothing is sent to it.
    """

    per_minute: int | None
    urgent: dict[_Key, WaitingQuery] = field(default_factory=dict)
    others: dict[_Key, WaitingQuery] = field(default_factory=dict)
    urgent_is_next: bool = True
    minute: datetime | None = None
    sent: int = 0

    def has_budget(self, now: datetime) -> bool:
        """Return True if the server may still get a query in this minute."""
        if self.per_minute is None:
            return True
        minute = now.replace(second=0, microsecond=0)
        if self.minute is None or minute > self.minute:  # not for a clock that was set back
            self.minute, self.sent = minute, 0
        return self.sent < self.per_minute

    def pop(self) -> WaitingQuery:
        """Return the first query of the lane whose turn it is, else of the other one."""
        is_urgent = bool(self.urgent) and (self.urgent_is_next or not self.others)
        self.urgent_is_next = not is_urgent
        lane = self.urgent if is_urgent else self.others
        return lane.pop(next(iter(lane)))


class QueryBacklog:
    """The queries of one site that wait, at most `limit`.

    `budgets` has the servers of the site: how many queries each may get in a minute of the clock.
    """

    def __init__(self, budgets: Mapping[str, int], limit: int) -> None:
        self._budgets = budgets
        self._limit = limit
        self._lanes: dict[str | None, _Lanes] = {}
        self._server_of: dict[_Key, str | None] = {}

    def __len__(self) -> int:
        """Return the number of queries that wait."""
        return len(self._server_of)

    def add(self, query: MacQuery, offset: int = 0) -> bool:
        """Let the query wait; False if there is no room.

        It takes the place in the lane of an earlier one of the Mac, unless its urgency or its
        server changed. One for a server with a budget of 0 is dropped.
        """
        key, server = _Key(query.udid, query.kind), self._server(query)
        per_minute = None if server is None else self._budgets[server]
        if per_minute == 0:
            return True
        if key not in self._server_of and len(self) >= self._limit:
            return False
        lanes = self._lanes.setdefault(server, _Lanes(per_minute))
        wanted = lanes.urgent if query.is_urgent else lanes.others
        if key in self._server_of:
            earlier = self._lanes[self._server_of[key]]
            for lane in (earlier.urgent, earlier.others):
                if lane is not wanted:
                    lane.pop(key, None)
        wanted[key] = WaitingQuery(query, offset)
        self._server_of[key] = server
        return True

    def pop(self, now: datetime) -> WaitingQuery | None:
        """Return the next query to send now, and count it as sent; None without one.

        The servers take turns. Queries that have expired are dropped.
        """
        for server, lanes in list(self._lanes.items()):
            while (lanes.urgent or lanes.others) and lanes.has_budget(now):
                waiting = lanes.pop()
                query = waiting.query
                del self._server_of[_Key(query.udid, query.kind)]
                if query.expires_at > now:
                    lanes.sent += 1
                    self._lanes[server] = self._lanes.pop(server)
                    return waiting
        return None

    def clear(self) -> None:
        """Drop all queries; what the servers got in this minute still counts."""
        self._server_of.clear()
        for lanes in self._lanes.values():
            lanes.urgent.clear()
            lanes.others.clear()

    def first_offset(self) -> int | None:
        """Return the lowest offset of the queries that wait; None without one."""
        waiting = (
            one.offset
            for lanes in self._lanes.values()
            for lane in (lanes.urgent, lanes.others)
            for one in lane.values()
        )
        return min(waiting, default=None)

    def _server(self, query: MacQuery) -> str | None:
        """Return the server of the site that gets the query; None if the site has none for it."""
        if query.server is None and len(self._budgets) == 1:
            return next(iter(self._budgets))
        return query.server if query.server in self._budgets else None
