"""The queries of Macs by the time at which they are due, within the budget of each MDM server.

A query is due when its field is too old (`pipeline.decide.queries`), and again the same time after
it was asked without an answer. Each server has two lanes, for Macs with an open job and for the
others. They take turns, so neither waits longer than for its own queries at half the budget.

All of it is in memory. After a restart a shell updates every Mac; a query that the Mac has not
answered is then asked again, and the agent sends no second command for it.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from pipeline.decide.queries import QueryNeed
from pipeline.state.device import from_us, to_us
from schemas.queries import MacQuery, QueryKind

_MINUTE_US: Final = 60 * 1_000_000
_BY_KIND: Final = {kind: number for number, kind in enumerate(QueryKind)}


class _Key(NamedTuple):
    udid: str
    kind: QueryKind


class _Server(NamedTuple):
    site: str
    name: str | None


class _Entry(NamedTuple):
    """An entry of a lane, valid while it is the query's newest one."""

    due_us: int
    udid: str
    kind_number: int


@dataclass(slots=True)
class _Lanes:
    """The queries of one server. `sent` counts those of the minute that begins at `minute_us`."""

    per_minute: int
    urgent: list[_Entry] = field(default_factory=list)
    others: list[_Entry] = field(default_factory=list)
    urgent_is_next: bool = True
    minute_us: int = 0
    sent: int = 0

    def remaining(self, now_us: int) -> int:
        """Return the number of queries that the server may still get in this minute."""
        minute_us = now_us - now_us % _MINUTE_US
        if minute_us > self.minute_us:  # not for a clock that was set back
            self.minute_us, self.sent = minute_us, 0
        return self.per_minute - self.sent


class QueryQueue:
    """The queries of all Macs.

    `needs` returns the queries of one Mac. `per_minute` returns the budget of a server of a site:
    the queries in each minute of the clock; 0 if its Macs are not queried, as in a dry run.
    """

    def __init__(
        self,
        needs: Callable[[str, datetime], Iterable[QueryNeed]],
        per_minute: Callable[[str, str | None], int],
    ) -> None:
        self._needs = needs
        self._per_minute = per_minute
        self._servers: dict[_Server, _Lanes] = {}
        self._entries: dict[_Key, tuple[_Entry, bool, _Server]] = {}
        self._asked_us: dict[_Key, int] = {}

    def update(self, udid: str, now: datetime) -> None:
        """Set the times of a Mac's queries, after an event of the Mac or of its job."""
        found: set[QueryKind] = set()
        for need in self._needs(udid, now):
            server = _Server(need.site, need.server)
            lanes = self._servers.get(server)
            if lanes is None:
                per_minute = self._per_minute(need.site, need.server)
                lanes = self._servers[server] = _Lanes(per_minute)
            if lanes.per_minute > 0:
                found.add(need.kind)
                self._set(_Key(udid, need.kind), need, server)
        for kind in QueryKind:
            if kind not in found:
                self._entries.pop(_Key(udid, kind), None)
                self._asked_us.pop(_Key(udid, kind), None)

    def pop_due(self, now: datetime) -> list[MacQuery]:
        """Return the queries to ask now, and count them as asked.

        Each Mac is read again before: of a policy's change the queue has no news.
        """
        now_us, queries = to_us(now), list[MacQuery]()
        for server, lanes in list(self._servers.items()):
            due = self._pop_entries(lanes, now_us)
            while lanes.remaining(now_us) > 0 and (key := next(due, None)) is not None:
                query = self._ask(key, server, now)
                if query is not None:
                    lanes.sent += 1
                    queries.append(query)
        return queries

    def next_due_at(self, now: datetime) -> datetime | None:
        """Return the time at which `pop_due` has work, not before `now`; None without queries."""
        now_us, times = to_us(now), list[int]()
        for lanes in self._servers.values():
            heads = [lane[0].due_us for lane in (lanes.urgent, lanes.others) if lane]
            if heads:
                is_spent = lanes.remaining(now_us) <= 0
                times.append(max(min(heads), lanes.minute_us + _MINUTE_US if is_spent else now_us))
        return from_us(min(times)) if times else None

    def _set(self, key: _Key, need: QueryNeed, server: _Server) -> None:
        """Let the query be due at its time; the earlier time becomes void."""
        asked_us = self._asked_us.get(key, 0)
        if asked_us <= need.known_us:
            self._asked_us.pop(key, None)
        last_us = max(asked_us, need.known_us)
        # Never reported and never asked: due at once.
        due_us = last_us + need.every_us if last_us else 0
        entry = _Entry(due_us, key.udid, _BY_KIND[key.kind])
        wanted = (entry, need.is_urgent, server)
        if self._entries.get(key) != wanted:
            self._entries[key] = wanted
            lanes = self._servers[server]
            heapq.heappush(lanes.urgent if need.is_urgent else lanes.others, entry)

    def _pop_entries(self, lanes: _Lanes, now_us: int) -> Iterator[_Key]:
        """Yield the keys of the due entries of both lanes in turns, also of void ones."""
        while True:
            order = (True, False) if lanes.urgent_is_next else (False, True)
            for is_urgent in order:
                lane = lanes.urgent if is_urgent else lanes.others
                if lane and lane[0].due_us <= now_us:
                    break
            else:
                return
            lanes.urgent_is_next = not is_urgent
            entry = heapq.heappop(lane)
            key = _Key(entry.udid, list(QueryKind)[entry.kind_number])
            known = self._entries.get(key)
            if known is not None and known[:2] == (entry, is_urgent):
                yield key

    def _ask(self, key: _Key, server: _Server, now: datetime) -> MacQuery | None:
        """Return the query if the Mac still needs it from this server now; else None."""
        entry, _, _ = self._entries.pop(key)
        needs = {need.kind: need for need in self._needs(key.udid, now)}
        need = needs.get(key.kind)
        last_us = 0 if need is None else max(need.known_us, self._asked_us.get(key, 0))
        is_same = need is not None and _Server(need.site, need.server) == server
        if need is None or not is_same or (last_us and last_us + need.every_us > to_us(now)):
            self.update(key.udid, now)
            return None
        self._asked_us[key] = to_us(now)
        self._set(key, need, server)
        due_at = from_us(entry.due_us) if entry.due_us else now
        return MacQuery(key.udid, need.site, key.kind, need.known_us, due_at)
