"""Names of Macs whose rows must be written: at once, or later if only telemetry changed. Pure."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice

from pipeline.reconcile.changes import Changes


class DirtyRows:
    """The Macs of one partition whose state differs from their rows in the changelog.

    A Mac of which only times and telemetry changed is written after at most `refresh`, so that a
    fleet that only polls causes few writes. At most `slice_size` such Macs are written at a time,
    so that not all are written in one round; all of them if `refresh` is 0.
    """

    def __init__(self, refresh: timedelta, slice_size: int) -> None:
        self._refresh = refresh
        self._max_delayed = slice_size if refresh else None
        self._dirty: dict[str, None] = {}
        self._delayed: dict[str, None] = {}
        # Those of `_delayed` from before the last refresh.
        self._due: dict[str, None] = {}
        self._next_refresh_at: datetime | None = None

    def add(self, names: Iterable[str]) -> None:
        """Let the next `pop_all` return these names."""
        self._dirty |= dict.fromkeys(names)

    def add_changes(self, changes: Changes) -> None:
        """Add all Macs whose rows the changes concern."""
        self._dirty |= changes.devices
        self._dirty |= changes.job_histories
        self._dirty |= changes.last_decisions
        self._delayed |= changes.telemetry

    def refresh_if_due(self, now: datetime) -> None:
        """Let the delayed Macs be written from now on, if `refresh` has passed since the last time.

        `pop_all` returns them in slices.
        """
        if self._next_refresh_at is None or now >= self._next_refresh_at:
            self._next_refresh_at = now + self._refresh
            self._due |= self._delayed
            self._delayed.clear()

    def pop_all(self) -> dict[str, None]:
        """Return the names to write now, and forget them; their order is that of their changes."""
        names = self._dirty | dict.fromkeys(islice(self._due, self._max_delayed))
        self._dirty = {}
        for name in names:
            self._due.pop(name, None)
            self._delayed.pop(name, None)
        return names
