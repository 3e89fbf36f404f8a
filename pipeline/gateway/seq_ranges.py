"""A set of sequence numbers that are mostly consecutive: few bytes for each run of them."""

from bisect import bisect_right
from collections.abc import Iterator


class SeqRanges:
    """A set of integers, kept as ranges without gaps. `count` is their number."""

    def __init__(self) -> None:
        self.count = 0
        # Equal lengths, ascending; no two ranges touch.
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __contains__(self, seq: int) -> bool:
        return self.end_of(seq) is not None

    def end_of(self, seq: int) -> int | None:
        """Return the last number of the range that has `seq`; None if no range has it."""
        at = bisect_right(self._firsts, seq) - 1
        return self._lasts[at] if at >= 0 and seq <= self._lasts[at] else None

    def add(self, seq: int) -> None:
        """Add a number; do nothing if it is in the set."""
        if seq in self:
            return
        self.count += 1
        at = bisect_right(self._firsts, seq)
        touches_left = at > 0 and self._lasts[at - 1] == seq - 1
        touches_right = at < len(self._firsts) and self._firsts[at] == seq + 1
        if touches_left and touches_right:
            self._lasts[at - 1] = self._lasts.pop(at)
            del self._firsts[at]
        elif touches_left:
            self._lasts[at - 1] = seq
        elif touches_right:
            self._firsts[at] = seq
        else:
            self._firsts.insert(at, seq)
            self._lasts.insert(at, seq)

    def lowest(self, limit: int) -> Iterator[tuple[int, int]]:
        """Yield (first, last) of the lowest ranges, in order, `limit` numbers in all at most."""
        for first, last in zip(self._firsts, self._lasts, strict=True):
            if limit <= 0:
                return
            yield first, min(last, first + limit - 1)
            limit -= last - first + 1

    def remove_to(self, seq: int) -> None:
        """Remove all numbers up to `seq`, which is one of them."""
        while self._firsts and self._firsts[0] <= seq:
            first, last = self._firsts[0], self._lasts[0]
            self.count -= min(last, seq) - first + 1
            if last > seq:
                self._firsts[0] = seq + 1
                return
            del self._firsts[0], self._lasts[0]
