"""The embedded form as a shell that scenarios run on: its writer and store, without executors."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipeline.embedded.store import Store
from pipeline.embedded.writer import Writer
from pipeline.processors.set_aside import letter
from pipeline.state.fleet import Fleet
from schemas.dead_letters import DeadLetter, DeadLetterCode
from schemas.decisions import DecisionRecord
from schemas.envelope import CloudEvent, Event, InvalidEvent, JobIssuedEvent, decode
from tests.factories import NOW
from tests.factories.sites import JOBS_KEY, KEYS


class EmbeddedShell:
    """One store and its writer."""

    def __init__(self, folder: Path) -> None:
        self._store = Store.open(folder)
        self._decided: list[DecisionRecord] = []
        self._ordered: list[JobIssuedEvent] = []
        self._letters: list[DeadLetter] = []
        self._writer = Writer(self._store, JOBS_KEY, KEYS, self._committed)
        self._now = NOW

    @property
    def fleet(self) -> Fleet:
        """What is known."""
        return self._writer.engine.fleet

    def close(self) -> None:
        self._store.close()

    def begin(self, at: datetime) -> None:
        self._now = at

    def accept(self, events: Sequence[CloudEvent]) -> None:
        known: list[Event] = [event for event in events if isinstance(event, Event)]
        self._writer.accept(known, (), self._now)

    def accept_bytes(self, raw: bytes) -> None:
        try:
            self.accept([decode(raw)])
        except InvalidEvent as error:
            told = letter(raw, DeadLetterCode(error.code), error.detail, origin="", now=self._now)
            self._writer.accept((), [told], self._now)

    def settle(self) -> None:
        due = self._writer.engine.next_due()
        while due is not None and due <= self._now:
            with self._writer.transaction("due", self._now):
                self._writer.follow(self._writer.engine.due(self._now), self._now)
            due = self._writer.engine.next_due()

    def records(self) -> Sequence[DecisionRecord]:
        return self._decided

    def orders(self) -> Sequence[JobIssuedEvent]:
        return self._ordered

    def published(self) -> Sequence[JobIssuedEvent]:
        return self._ordered

    def set_aside(self) -> Sequence[DeadLetter]:
        return self._letters

    def _committed(self, committed: object) -> None:
        self._letters += committed.dead_letters  # type: ignore[attr-defined]
        self._decided += committed.decisions  # type: ignore[attr-defined]
        self._ordered += [
            event
            for event in committed.events  # type: ignore[attr-defined]
            if isinstance(event, JobIssuedEvent)
        ]
