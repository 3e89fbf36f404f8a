"""Whether a worker gets on: whatever has something to do moves. Pure."""

from collections.abc import Hashable, Mapping
from typing import NamedTuple


class Standing(NamedTuple):
    """So much is left to do; `at` is another value when something of it was done."""

    left: int
    at: object


class Progress:
    """Healthy unless something with work left has not moved for too long."""

    def __init__(self, stalled_after_s: float) -> None:
        self.left = 0
        self._stalled_after_s = stalled_after_s
        self._known: dict[Hashable, tuple[object, float]] = {}

    def note(self, standings: Mapping[Hashable, Standing], now: float) -> None:
        """This is how things stand: of each partition, say."""
        self.left = sum(standing.left for standing in standings.values())
        known: dict[Hashable, tuple[object, float]] = {}
        for name, (left, at) in standings.items():
            if left:
                was = self._known.get(name)
                known[name] = (at, now) if was is None or was[0] != at else was
        self._known = known

    def excuse(self) -> None:
        """Nothing can be told now, for a reason that is not the worker's."""
        self._known.clear()

    def stalled_s(self, now: float) -> float:
        """For how long the one that has not moved for longest has not, in seconds."""
        return max((now - moved_at for _, moved_at in self._known.values()), default=0.0)

    def is_healthy(self, now: float) -> bool:
        """Whether all get on, or have nothing to do."""
        return self.stalled_s(now) < self._stalled_after_s
