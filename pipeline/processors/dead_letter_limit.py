"""Limit of dead letters for which this program itself is the likely cause.

A worker that can use few of the records that gateways accepted runs a wrong version: it stops
before it has moved a whole topic to the dead letters. It must not be a switch for who can write a
topic or has a sender's secret. So:

- Only proven records count: those with a valid stamp of a gateway or feed, which has decoded and
  checked them. What others write to a topic becomes a dead letter, however much it is.
- After a batch with which 100 records are used the program is known to work, and the limit ends: a
  wrong version begins with a new process. The dead letters of this batch are examined before.
- Before that, it stops for at least 100 dead letters that are more than half of the records, if
  they are of at least two senders, or of a program of Drydock itself, or if no record at all was
  used. A single sender can so stop a worker only while no other sends what the worker can use.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

_USED_AT_WORK: Final = 100
_MIN_DEAD_LETTERS: Final = 100
_MIN_SENDERS: Final = 2
_OWN: Final = ""


class DeadLetterLimitExceeded(Exception):  # noqa: N818 - the name describes the condition
    """Most of the first records cannot be used. The last batch is not committed."""


class DeadLetterLimit:
    """Counts the proven records since the start, used ones and dead letters, in whole batches."""

    def __init__(self) -> None:
        self._used = 0
        self._by_sender: Counter[str] = Counter()

    def record(self, used: int, dead_lettered: Mapping[str, int]) -> None:
        """Count a batch: its used proven records, and its proven dead letters by sender.

        The sender is empty for a record of Drydock's own, as from a feed.
        Raises DeadLetterLimitExceeded by the module's rules.
        """
        if self._used >= _USED_AT_WORK:
            return
        self._used += used
        self._by_sender.update({one: count for one, count in dead_lettered.items() if count})
        total = self._by_sender.total()
        is_of_one = len(self._by_sender) < _MIN_SENDERS and not self._by_sender[_OWN]
        if total >= _MIN_DEAD_LETTERS and total > self._used and not (is_of_one and self._used):
            raise DeadLetterLimitExceeded(
                f"{total} of the first {self._used + total} records of gateways cannot be used:"
                " check the version of this program and of the gateways"
            )
