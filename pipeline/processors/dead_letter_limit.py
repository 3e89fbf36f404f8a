"""Stops a worker that can use hardly anything of what it reads, before it has emptied the topic
into the dead letters: that is a wrong version or a wrong topic, not bad data."""

from collections import deque
from typing import Final

_WINDOW: Final = 1_000
_MIN_DEAD_LETTERS: Final = 100
_MAX_RATIO: Final = 0.5


class DeadLetterLimitExceeded(Exception):  # noqa: N818 - says what there is
    """Most of what was read lately cannot be used; nothing of the last batch was set aside."""


class DeadLetterLimit:
    """The share of poison among the last records."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, int]] = deque()
        self._read = 0
        self._dead_lettered = 0

    def record(self, read: int, dead_lettered: int) -> None:
        """So many records were read, so many of them cannot be used. Raises TooMuchPoison."""
        if not read:
            return
        self._recent.append((read, dead_lettered))
        self._read += read
        self._dead_lettered += dead_lettered
        while self._read - self._recent[0][0] >= _WINDOW:
            old_read, old_dead_lettered = self._recent.popleft()
            self._read -= old_read
            self._dead_lettered -= old_dead_lettered
        if (
            self._dead_lettered >= _MIN_DEAD_LETTERS
            and self._dead_lettered > _MAX_RATIO * self._read
        ):
            raise DeadLetterLimitExceeded(
                f"{self._dead_lettered} of the last {self._read} records cannot be used:"
                " is this the right version, and are these the right topics?"
            )
