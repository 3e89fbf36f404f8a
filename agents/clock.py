"""What time it is for an executor: the world's, or that of simulated Macs."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """`speed` is how many of its seconds pass in one."""

    @property
    def speed(self) -> float:
        """How fast it goes; 1 is the world's."""
        ...

    def now(self) -> datetime:
        """The time, aware."""
        ...


class WallClock:
    """The world's time."""

    speed = 1.0

    def now(self) -> datetime:
        """The time, UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ScaledClock:
    """A time line that began at `start` when the world's clock said `began_s` (Unix seconds).

    Every process of one machine that is given the same three numbers tells the same time.
    """

    start: datetime
    began_s: float
    speed: float

    def now(self) -> datetime:
        """The time on the line."""
        return self.start + timedelta(seconds=(time.time() - self.began_s) * self.speed)


@dataclass(frozen=True, slots=True)
class SteppedClock:
    """A time that stands until somebody sets another: it is in a file, for every process of one
    machine. So many hours pass in seconds, and whoever sets it can see to it that nobody is late.

    `speed` is at most how fast it goes on average: nobody sleeps through a time at that pace.
    """

    path: Path
    speed: float = 30_000.0

    def now(self) -> datetime:
        """The time in the file."""
        return datetime.fromisoformat(self.path.read_text(encoding="ascii"))

    def set(self, now: datetime) -> None:
        """It is this time from now on, for all."""
        new = self.path.with_suffix(".new")
        new.write_text(now.isoformat(), encoding="ascii")
        new.replace(self.path)
