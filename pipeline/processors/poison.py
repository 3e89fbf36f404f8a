"""Stops a worker that can use hardly anything of what it reads, before it has emptied the topic
into the dead letters: that is a wrong version or a wrong topic, not bad data."""

from collections import deque
from typing import Final

_WINDOW: Final = 1_000
_AT_LEAST: Final = 100
_SHARE: Final = 0.5


class TooMuchPoison(Exception):  # noqa: N818 - says what there is
    """Most of what was read lately cannot be used; nothing of the last batch was set aside."""


class PoisonWatch:
    """The share of poison among the last records."""

    def __init__(self) -> None:
        self._lately: deque[tuple[int, int]] = deque()
        self._taken = 0
        self._refused = 0

    def note(self, taken: int, refused: int) -> None:
        """So many records were read, so many of them cannot be used. Raises TooMuchPoison."""
        if not taken:
            return
        self._lately.append((taken, refused))
        self._taken += taken
        self._refused += refused
        while self._taken - self._lately[0][0] >= _WINDOW:
            old_taken, old_refused = self._lately.popleft()
            self._taken -= old_taken
            self._refused -= old_refused
        if self._refused >= _AT_LEAST and self._refused > _SHARE * self._taken:
            raise TooMuchPoison(
                f"{self._refused} of the last {self._taken} records cannot be used:"
                " is this the right version, and are these the right topics?"
            )
