"""Whether a worker gets on: something moves while there is something to do. Pure."""

from typing import Any


class Progress:
    """Healthy unless nothing moved for too long while something was to be done."""

    def __init__(self, stalled_after_s: float) -> None:
        self.todo = 0
        self._stalled_after_s = stalled_after_s
        self._done: Any = None
        self._moved_at: float | None = None

    def note(self, *, todo: int, done: Any, now: float) -> None:
        """So much is to be done, and `done` is another value when something of it was."""
        self.todo = todo
        if not todo or done != self._done or self._moved_at is None:
            self._done = done
            self._moved_at = now

    def stalled_s(self, now: float) -> float:
        """For how long nothing has moved, in seconds."""
        return 0.0 if self._moved_at is None else now - self._moved_at

    def is_healthy(self, now: float) -> bool:
        """Whether it gets on, or has nothing to do."""
        return self.stalled_s(now) < self._stalled_after_s
