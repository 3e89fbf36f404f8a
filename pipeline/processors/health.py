"""Whether a worker gets on: whatever has something to do moves. Pure."""

from collections.abc import Hashable, Mapping
from typing import NamedTuple


class ProgressSample(NamedTuple):
    """So much is left to do; `at` is another value when something of it was done."""

    pending: int
    cursor: object


class ProgressMonitor:
    """Healthy unless something with work left has not moved for too long."""

    def __init__(self, stalled_after_s: float) -> None:
        self.pending = 0
        self._stalled_after_s = stalled_after_s
        self._known: dict[Hashable, tuple[object, float]] = {}

    def record(self, samples: Mapping[Hashable, ProgressSample], now: float) -> None:
        """This is how things stand: of each partition, say."""
        self.pending = sum(sample.pending for sample in samples.values())
        known: dict[Hashable, tuple[object, float]] = {}
        for name, (pending, cursor) in samples.items():
            if pending:
                was = self._known.get(name)
                known[name] = (cursor, now) if was is None or was[0] != cursor else was
        self._known = known

    def reset(self) -> None:
        """Nothing can be told now, for a reason that is not the worker's."""
        self._known.clear()

    def stalled_s(self, now: float) -> float:
        """For how long the one that has not moved for longest has not, in seconds."""
        return max((now - moved_at for _, moved_at in self._known.values()), default=0.0)

    def is_healthy(self, now: float) -> bool:
        """Whether all get on, or have nothing to do."""
        return self.stalled_s(now) < self._stalled_after_s
