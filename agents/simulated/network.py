"""A site's line: downloads share it evenly, and a cache spares it the second copy."""

import heapq
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

_GB_PER_MEGABIT = 1 / 8000


@dataclass(frozen=True, slots=True)
class SiteLine:
    """Megabits/s to the outside and, with a content cache, inside."""

    uplink_mbps: float = 1000.0
    cache: bool = False
    lan_mbps: float = 1000.0


class Channel:
    """Downloads sharing one rate evenly (processor sharing).

    Each gets rate/n, so all of them progress by the same amount per time: `_served` is that
    amount, and a download ends when it has grown by its size. Joining and leaving cost O(log n).
    """

    def __init__(self, mbps: float) -> None:
        self._rate = mbps * _GB_PER_MEGABIT
        self._served = 0.0
        self._at: datetime | None = None
        self._heap: list[tuple[float, int, str]] = []
        self._counter = count()

    def start(self, download: str, size_gb: float, at: datetime) -> None:
        """Begin a download."""
        self._catch_up(at)
        heapq.heappush(self._heap, (self._served + size_gb, next(self._counter), download))

    def next_end(self) -> datetime | None:
        """When the next download ends if none joins; rounded up to a microsecond."""
        if not self._heap or self._at is None:
            return None
        seconds = max(self._heap[0][0] - self._served, 0.0) * len(self._heap) / self._rate
        return self._at + timedelta(microseconds=int(seconds * 1e6) + 1)

    def end(self, at: datetime) -> str:
        """End the next download and say which it was."""
        self._catch_up(at)
        return heapq.heappop(self._heap)[2]

    def _catch_up(self, at: datetime) -> None:
        if self._at is not None and self._heap:
            passed = (at - self._at).total_seconds()
            self._served += passed * self._rate / len(self._heap)
        self._at = at


@dataclass(slots=True)
class Line:
    """The state of one site's line. `item` is what is downloaded: one item is cached once."""

    spec: SiteLine
    uplink: Channel = field(init=False)
    lan: Channel = field(init=False)
    _cached: set[str] = field(default_factory=set)
    _waiting_for_copy: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    _items: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.uplink, self.lan = Channel(self.spec.uplink_mbps), Channel(self.spec.lan_mbps)

    def start(self, download: str, item: str, size_gb: float, at: datetime) -> None:
        """Begin a download; behind a cache that fetches the item already, wait for it."""
        if not self.spec.cache:
            self.uplink.start(download, size_gb, at)
        elif item in self._cached:
            self.lan.start(download, size_gb, at)
        elif item in self._waiting_for_copy:
            self._waiting_for_copy[item].append((download, size_gb))
        else:
            self._waiting_for_copy[item] = []
            self._items[download] = item
            self.uplink.start(download, size_gb, at)

    def next_end(self) -> datetime | None:
        """When the next download ends."""
        ends = [end for end in (self.uplink.next_end(), self.lan.next_end()) if end is not None]
        return min(ends, default=None)

    def end(self, at: datetime) -> str:
        """End the next download; the first copy of an item is the cache's from then on."""
        ends = self.uplink.next_end(), self.lan.next_end()
        if ends[0] is None or (ends[1] is not None and ends[1] < ends[0]):
            return self.lan.end(at)
        download = self.uplink.end(at)
        item = self._items.pop(download, None)
        if item is not None:
            self._cached.add(item)
            for follower, size_gb in self._waiting_for_copy.pop(item):
                self.lan.start(follower, size_gb, at)
        return download
