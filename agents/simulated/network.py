"""Internet line of a site: downloads share it evenly, and a cache loads each item once."""

import heapq
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count

_GB_PER_MEGABIT = 1 / 8000


@dataclass(frozen=True, slots=True)
class SiteRates:
    """Rates in megabits/s: `uplink_mbps` to the Internet, `lan_mbps` from a content cache."""

    uplink_mbps: float = 1000.0
    cache: bool = False
    lan_mbps: float = 1000.0


class Channel:
    """Downloads that share one rate evenly (processor sharing).

    Each of n downloads gets rate/n, so all progress by the same amount per time. `_served` is the
    sum of that amount in GB, and a download ends when `_served` has grown by its size. A start or
    an end costs O(log n).
    """

    def __init__(self, mbps: float) -> None:
        self._rate = mbps * _GB_PER_MEGABIT
        self._served = 0.0
        self._at: datetime | None = None
        self._heap: list[tuple[float, int, str]] = []
        self._counter = count()

    def start(self, download: str, size_gb: float, at: datetime) -> None:
        """Begin a download of this name at `at`."""
        self._catch_up(at)
        heapq.heappush(self._heap, (self._served + size_gb, next(self._counter), download))

    def next_end(self) -> datetime | None:
        """Return the next end if no download starts before it, rounded up to a microsecond.

        None without downloads.
        """
        if not self._heap or self._at is None:
            return None
        seconds = max(self._heap[0][0] - self._served, 0.0) * len(self._heap) / self._rate
        return self._at + timedelta(microseconds=int(seconds * 1e6) + 1)

    def end(self, at: datetime) -> str:
        """End the next download at `at` and return its name. Raises IndexError without one."""
        self._catch_up(at)
        return heapq.heappop(self._heap)[2]

    def _catch_up(self, at: datetime) -> None:
        """Move to the time `at`: add the amount that each download got since the last call."""
        if self._at is not None and self._heap:
            passed = (at - self._at).total_seconds()
            self._served += passed * self._rate / len(self._heap)
        self._at = at


@dataclass(slots=True)
class SiteNetwork:
    """State of one site's line. Two downloads of one `item` share the copy in the cache."""

    spec: SiteRates
    uplink: Channel = field(init=False)
    lan: Channel = field(init=False)
    _cached: set[str] = field(default_factory=set)
    _waiting_for_copy: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    _items: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.uplink, self.lan = Channel(self.spec.uplink_mbps), Channel(self.spec.lan_mbps)

    def start(self, download: str, item: str, size_gb: float, at: datetime) -> None:
        """Begin a download of this name at `at`. It waits if the cache is already loading the item.

        An item in the cache comes at the LAN rate, another one at the rate of the uplink.
        """
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
        """Return the next end of a download if none starts before it, None without downloads."""
        ends = [end for end in (self.uplink.next_end(), self.lan.next_end()) if end is not None]
        return min(ends, default=None)

    def end(self, at: datetime) -> str:
        """End the next download and return its name; the first copy of an item fills the cache.

        The downloads that waited for the copy then begin at the LAN rate. Raises IndexError without
        a download.
        """
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
