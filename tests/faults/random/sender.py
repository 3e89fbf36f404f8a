"""The sender between the Macs and one process, in virtual time: it doubles and delays messages."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import Final

from schemas.envelope import Event
from tests.chaos import poison
from tests.chaos.evidence import Input
from tests.chaos.load import Mischief

_MOST_IN_A_BATCH: Final = 20
_MISCHIEF: Final = Mischief(late_s=3600.0, very_late_s=6 * 3600.0)


@dataclass(frozen=True, slots=True)
class Message:
    """An event, or the bytes of an unusable webhook."""

    item: Input
    content: Event | bytes


@dataclass
class Sender:
    """Messages by the time at which they are due; they stay until the process accepts them."""

    random: Random
    accepted: set[Input] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    _heap: list[tuple[datetime, int, Message]] = field(default_factory=list)
    _numbers: Iterable[int] = field(default_factory=count)

    def add(self, events: Iterable[Event], now: datetime) -> None:
        """Plan the copies of each event, and some unusable bodies between them."""
        for event in events:
            message = Message(Input("event", event.id), event)
            for change, delay_s in _MISCHIEF.copies(self.random):
                self.counts[change] += 1
                self._put(now + timedelta(seconds=delay_s), message)
            if self.random.random() < _MISCHIEF.poison:
                self.counts["poison"] += 1
                body = poison.body(self.random, self.counts["poison"])
                digest = hashlib.sha256(body).hexdigest()
                self._put(now, Message(Input("poison", digest), body))

    def due(self, now: datetime) -> list[Message]:
        """Return the messages that are due, at most 20; they stay due until `confirm`."""
        return [
            message for at, _, message in heapq.nsmallest(_MOST_IN_A_BATCH, self._heap) if at <= now
        ]

    def confirm(self, messages: Iterable[Message]) -> None:
        """Remove messages that `due` returned: the process has accepted them."""
        for message in messages:
            assert heapq.heappop(self._heap)[2] is message
            self.accepted.add(message.item)

    @property
    def next_at(self) -> datetime | None:
        """The time at which the next message is due; None if none waits."""
        return self._heap[0][0] if self._heap else None

    def _put(self, at: datetime, message: Message) -> None:
        heapq.heappush(self._heap, (at, next(iter(self._numbers)), message))
