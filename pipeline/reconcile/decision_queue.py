"""The Macs to decide, in one order: marked by inputs, queued in batches, due by time, swept.

| source | added by | order | limit |
| --- | --- | --- | --- |
| inputs of single Macs | `mark`, `mark_site` | of the inputs | none: the inputs limit it |
| broadcasts and backlogs | `add_batch`, `queue_backlog` | of UDIDs, in each batch | `limit` |
| time | `set_timer` | of the times | `limit` |
| sweep | `start_sweep`, or its time has come | of the fleet | `limit` |

All of it is in memory. After a restart a shell marks again, or sweeps.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from pipeline.reconcile.changes import Changes
from pipeline.reconcile.last_decision import LastDecision
from pipeline.state.device import from_us, to_us


class FreedSite(NamedTuple):
    """A mark: the site has capacity for Macs that wait for it."""

    site: str


@dataclass(slots=True)
class _Batch:
    """Macs to decide, the last one first; `offsets` are reported when all are decided.

    `is_backlog`: inputs marked them, so their rows state that they are not decided.
    """

    udids: list[str]
    offsets: Mapping[str, int] = field(default_factory=dict)
    is_backlog: bool = False


class DecisionQueue:
    """The Macs to decide.

    `macs` returns all Macs, for a sweep. A timer is valid while `last_decisions` has its time.
    Without `sweep_every` only `start_sweep` starts a sweep.
    """

    def __init__(
        self,
        macs: Callable[[], Iterable[str]],
        last_decisions: Mapping[str, LastDecision],
        sweep_every: timedelta | None,
    ) -> None:
        self._macs = macs
        self._last_decisions = last_decisions
        self._sweep_every = sweep_every
        # Ordered sets.
        self._marks: dict[str | FreedSite, None] = {}
        self._batches: deque[_Batch] = deque()
        # The marked Macs of the backlog's batch that are not decided yet.
        self._undecided: set[str] = set()
        self._timers: list[tuple[int, str]] = []
        self._sweeping: Iterator[str] | None = None
        self._sweep_at: datetime | None = None

    # --- adding ---

    def mark(self, udid: str) -> None:
        """Add a Mac whose last decision does not include all of its events."""
        self._marks[udid] = None

    def mark_site(self, site: str) -> None:
        """Add the Macs that wait for the capacity of this site."""
        self._marks[FreedSite(site)] = None

    def add_batch(self, udids: Iterable[str], offsets: Mapping[str, int] | None = None) -> None:
        """Queue Macs that a broadcast concerns; `offsets` are reported when all are decided."""
        self._batches.append(_Batch(sorted(udids, reverse=True), offsets or {}))

    def queue_backlog(
        self, canonical_udid: Callable[[str], str | None], waiting: Iterable[str]
    ) -> None:
        """Turn all marks into one batch, with the Macs that wait for any site's capacity.

        `canonical_udid` returns the Mac to which the device record with a key belongs, or None if
        the key is that of a Mac.
        """
        keys = [mark for mark in self._marks if isinstance(mark, str)]
        self._marks.clear()
        udids = {canonical_udid(key) or key for key in (*keys, *waiting)}
        self._undecided.update(keys)
        self._batches.append(_Batch(sorted(udids, reverse=True), is_backlog=True))

    def set_timer(self, udid: str, us: int) -> None:
        """Let the Mac be due at this time, in us; it is void once the last decision has another."""
        heapq.heappush(self._timers, (us, udid))

    def start_sweep(self, now: datetime) -> None:
        """Let all Macs of the fleet be due; the next sweep begins `sweep_every` later."""
        self._sweeping = iter(list(self._macs()))
        if self._sweep_every is not None:
            self._sweep_at = now + self._sweep_every

    def schedule_sweep(self, at: datetime) -> None:
        """Let the next sweep begin at this time."""
        self._sweep_at = at

    # --- removing ---

    def pop_marks(self) -> Iterable[str | FreedSite]:
        """Return and remove all marks, in order."""
        marks, self._marks = self._marks, {}
        return marks

    def pop_batched(self, limit: int, changes: Changes) -> Iterator[str]:
        """Yield at most `limit` Macs of batches; the caller decides each before the next one.

        Adds to `changes` the offsets of finished batches, and as `devices` the keys whose rows
        state that they are not decided.
        """
        while self._batches and limit > 0:
            batch = self._batches[0]
            while batch.udids and limit > 0:
                limit -= 1
                udid = batch.udids.pop()
                yield udid
                if batch.is_backlog and udid in self._undecided:
                    self._undecided.remove(udid)
                    changes.devices[udid] = None
            if batch.udids:
                return
            self._batches.popleft()
            changes.raise_offsets(batch.offsets)
            if batch.is_backlog:  # the rest are keys of records that now belong to another Mac
                changes.devices |= dict.fromkeys(sorted(self._undecided))
                self._undecided.clear()

    def pop_due(self, now: datetime, limit: int, changes: Changes) -> Iterator[str]:
        """Yield at most `limit` Macs: as `pop_batched`, then due ones, then those of the sweep."""
        for udid in self.pop_batched(limit, changes):
            limit -= 1
            yield udid
        now_us = to_us(now)
        while limit > 0 and self._timers and self._timers[0][0] <= now_us:
            us, udid = heapq.heappop(self._timers)
            if self._is_valid(us, udid):
                limit -= 1
                yield udid
        if self._sweeping is None and self._sweep_at is not None and self._sweep_at <= now:
            self.start_sweep(now)
        while limit > 0 and self._sweeping is not None:
            swept = next(self._sweeping, None)
            if swept is None:
                self._sweeping = None
            else:
                limit -= 1
                yield swept

    # --- queries ---

    def is_undecided(self, udid: str) -> bool:
        """Return True if the Mac is marked, or in the backlog; a broadcast does not count."""
        return udid in self._marks or udid in self._undecided

    def has_due(self, now: datetime) -> bool:
        """Return True if a Mac is marked, batched, or its time has come; sweeps do not count."""
        timer = self._next_timer()
        return bool(self._marks or self._batches) or (timer is not None and timer <= now)

    def next_due_at(self, now: datetime) -> datetime | None:
        """Return the time at which a Mac is to be decided, not before `now`; None for never."""
        if self._marks or self._batches or self._sweeping is not None:
            return now
        times = [one for one in (self._next_timer(), self._sweep_at) if one is not None]
        return max(min(times), now) if times else None

    def _next_timer(self) -> datetime | None:
        """Return the time of the first valid timer, past or future; None if there is none."""
        while self._timers:
            us, udid = self._timers[0]
            if self._is_valid(us, udid):
                return from_us(us)
            heapq.heappop(self._timers)
        return None

    def _is_valid(self, us: int, udid: str) -> bool:
        last = self._last_decisions.get(udid)
        return last is not None and last.recheck_us == us
