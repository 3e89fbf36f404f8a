"""Events of jobs that this worker made or checked, known again by their bytes. Pure.

What a partition orders it reads back from the log of orders, and dispatch reads it once more; to
check a signature costs more than all the rest that is done with an order.
"""

from typing import Final

_MOST: Final = 20_000


class OwnOrders:
    """The newest of them that were not read yet. What is forgotten is checked as any other."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._raws: dict[bytes, None] = {}

    def add(self, raw: bytes) -> None:
        """These bytes are published, and need no check when they are read."""
        self._raws[raw] = None
        if len(self._raws) > self._most:
            del self._raws[next(iter(self._raws))]

    def take(self, raw: bytes) -> bool:
        """Whether these bytes were added and not yet taken."""
        if raw not in self._raws:
            return False
        del self._raws[raw]
        return True
