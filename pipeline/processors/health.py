"""Detects a stalled worker: work is left, and the same position is seen for too long. Pure."""

from collections.abc import Hashable, Mapping
from typing import NamedTuple


class ProgressSample(NamedTuple):
    """`pending` units of work are left; `cursor` changes when any of it is done."""

    pending: int
    cursor: object


class ProgressMonitor:
    """Healthy unless one source with work left has kept its cursor for `stalled_after_s`.

    `pending` is the sum over all sources at the last `record`.
    """

    def __init__(self, stalled_after_s: float) -> None:
        self.pending = 0
        self._stalled_after_s = stalled_after_s
        self._known: dict[Hashable, tuple[object, float]] = {}

    def record(self, samples: Mapping[Hashable, ProgressSample], now: float) -> None:
        """Replace the samples of all sources; `samples` is by source, such as a partition.

        `now` is the monotonic time of the samples, in seconds.
        """
        self.pending = sum(sample.pending for sample in samples.values())
        known: dict[Hashable, tuple[object, float]] = {}
        for name, (pending, cursor) in samples.items():
            if pending:
                was = self._known.get(name)
                known[name] = (cursor, now) if was is None or was[0] != cursor else was
        self._known = known

    def reset(self) -> None:
        """Forget all cursors, so that no source is stalled until the next samples.

        For times when samples cannot be taken, such as without Kafka. `pending` stays.
        """
        self._known.clear()

    def stalled_s(self, now: float) -> float:
        """Return the longest time, in seconds, that a source with work left has kept its cursor.

        0 if no source has work left, and after `reset` until the next `record`.
        """
        return max((now - moved_at for _, moved_at in self._known.values()), default=0.0)

    def is_healthy(self, now: float) -> bool:
        """Return True if `stalled_s` is less than `stalled_after_s`."""
        return self.stalled_s(now) < self._stalled_after_s
