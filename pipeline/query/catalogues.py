"""The catalogues that decisions of a fleet name by digest, folded again from two topics. Pure.

A worker decides by the catalogue after any advisory, or after any strike of the control topic. Each
of them is kept, the newest first, because their digests are computed only when a decision names one
that is not stored yet.

The two topics have no common order, so a worker can fold a strike before or after the advisories
next to it. The catalogues of these other orders are kept too.
"""

from collections import deque
from typing import Final

from pipeline.state.advisories import Advisories
from pipeline.state.device import to_us
from pipeline.state.strikes import acts_of
from schemas.envelope import AdvisoryEvent, StrikeClearedEvent, StrikeSetEvent

# Of one feed there are some hundred records, and then a few each week. A decision by an older
# catalogue has left its topic long ago.
_MAX_KEPT: Final = 4000
# The advisories that a worker can fold on the other side of a strike: those of the same moment.
_MAX_DISPLACED: Final = 20


class Catalogues:
    """The catalogues after each advisory and each strike so far."""

    def __init__(self) -> None:
        self._newest = Advisories()
        self._kept: deque[Advisories] = deque([self._newest], maxlen=_MAX_KEPT)
        self._last: deque[Advisories] = deque([self._newest], maxlen=_MAX_DISPLACED)
        # Catalogues without the last strikes, and the numbers of advisories still folded into them.
        self._without_strike: list[tuple[Advisories, int]] = []

    @property
    def newest(self) -> Advisories:
        """The catalogue after the last record."""
        return self._newest

    def fold(self, event: AdvisoryEvent | StrikeSetEvent | StrikeClearedEvent) -> None:
        """Fold the next advisory or strike."""
        before = self._newest
        if isinstance(event, AdvisoryEvent):
            self._newest = before.apply(event)
            self._without_strike = [
                (one.apply(event), left - 1) for one, left in self._without_strike if left
            ]
            self._kept.extend(one for one, _ in self._without_strike)
        else:
            acts = (*acts_of(event.data, to_us(event.time)),)
            self._newest = before.with_strikes(acts)
            if self._newest is not before:
                self._kept.extend(one.with_strikes(acts) for one in self._last)
                self._without_strike.append((before, _MAX_DISPLACED))
        if self._newest is not before:
            self._last.append(self._newest)
            self._kept.append(self._newest)

    def find(self, digest: str) -> Advisories | None:
        """Return the catalogue with this digest; None if none had it so far."""
        return next((one for one in reversed(self._kept) if one.digest == digest), None)
