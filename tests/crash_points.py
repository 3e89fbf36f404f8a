"""Crashes at a chosen moment of a run: around each durable write, and after a Mac was touched."""

from collections.abc import Callable
from dataclasses import dataclass

from agents.mac import Ack, Mac, Observation
from schemas.jobs import Job


class Crash(BaseException):
    """The process dies here: nothing but the test handles it."""


class CrashPoint:
    """Record the moments at which a process could die; raise Crash at the `at`-th, from 1."""

    def __init__(self, at: int | None = None) -> None:
        self.moments: list[str] = []
        self._at = at

    def __call__(self, moment: str) -> None:
        self.moments.append(moment)
        if len(self.moments) == self._at:
            raise Crash(moment)


@dataclass
class WatchedMac:
    """A Mac that reports each touch as the moment `touched:after`, failed ones too."""

    mac: Mac
    on_moment: Callable[[str], None]

    def look(self, job: Job) -> Observation:
        return self.mac.look(job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        try:
            return self.mac.act(step, job, attempt)
        finally:
            self.on_moment("touched:after")
