"""Limit of the share of dead letters among the last records.

A worker that can use few of its records runs a wrong version or reads a wrong topic: it stops
before it has moved the whole topic to the dead letters. The limit: at least 100 dead letters, and
more than half, among the last 1,000 records.
"""

from collections import deque
from typing import Final

_WINDOW: Final = 1_000  # records
_MIN_DEAD_LETTERS: Final = 100
_MAX_RATIO: Final = 0.5


class DeadLetterLimitExceeded(Exception):  # noqa: N818 - the name describes the condition
    """More than half of the last records cannot be used. The last batch is not committed."""


class DeadLetterLimit:
    """Counts dead letters among the last records, in whole batches."""

    def __init__(self) -> None:
        self._recent: deque[tuple[int, int]] = deque()
        self._read = 0
        self._dead_lettered = 0

    def record(self, read: int, dead_lettered: int) -> None:
        """Count a batch of `read` records, of which `dead_lettered` became dead letters.

        Raises DeadLetterLimitExceeded if at least 100, and more than half, of the records of the
        last batches became dead letters. The batches cover the last 1,000 records, or all if there
        are fewer.
        """
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
                " check the version of this program, and which programs write to its topics"
            )
