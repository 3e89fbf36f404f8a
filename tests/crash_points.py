"""Crashes at a chosen moment of a run: around a durable write, or after an act on a Mac."""

from collections.abc import Callable
from dataclasses import dataclass

from agents.mac import Ack, Mac, Observation
from schemas.jobs import Job


class Crash(BaseException):
    """The process dies here; only the test handles it."""


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
    """A Mac that calls `on_moment("touched:after")` after each act, also after a failed one."""

    mac: Mac
    on_moment: Callable[[str], None]

    def look(self, job: Job) -> Observation:
        return self.mac.look(job)

    def act(self, step: str, job: Job, attempt: int) -> Ack:
        try:
            return self.mac.act(step, job, attempt)
        finally:
            self.on_moment("touched:after")
