"""Clocks of an agent: the system time, or the virtual time of simulated Macs."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Source of the current time, as every process of one site reads it."""

    @property
    def speed(self) -> float:
        """Seconds of this clock that pass in one second of system time."""
        ...

    def now(self) -> datetime:
        """Return the current time, with a time zone."""
        ...


class WallClock:
    """The system time."""

    speed = 1.0

    def now(self) -> datetime:
        """Return the system time, in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ScaledClock:
    """Virtual time that runs `speed` times as fast as the system time.

    It was `start` at `began_s`, in Unix seconds of system time. All processes of one computer that
    use the same three values read the same time.
    """

    start: datetime
    began_s: float
    speed: float

    def now(self) -> datetime:
        """Return the virtual time, with the time zone of `start`."""
        return self.start + timedelta(seconds=(time.time() - self.began_s) * self.speed)


@dataclass(frozen=True, slots=True)
class SteppedClock:
    """Virtual time that changes only when a program sets it.

    The time is in the file `path`, so all processes of one computer read the same time. A
    simulation can pass many hours in seconds and can wait for every process before the next step.

    `speed` is an upper limit of the average pace. Waits are divided by it, so no process sleeps
    past a step.
    """

    path: Path
    speed: float = 30_000.0

    def now(self) -> datetime:
        """Return the time in the file.

        Raises OSError if the file cannot be read, ValueError if it has no time.
        """
        return datetime.fromisoformat(self.path.read_text(encoding="ascii"))

    def set(self, now: datetime) -> None:
        """Set the time for all processes. Raises OSError if the file cannot be written.

        The file is replaced whole, never half written.
        """
        new = self.path.with_suffix(".new")
        new.write_text(now.isoformat(), encoding="ascii")
        new.replace(self.path)
