"""Jobs by site, action and hour, with their Macs.

Hours are numbered from 1970, in UTC.
"""

from typing import Final

from schemas.jobs import Action

HOUR_US: Final = 3_600_000_000
# A clock that was ahead and is set back by less finds the jobs of its hour again.
_KEPT_HOURS: Final = 48


class HourlyJobs:
    """The jobs that a site got for an action in an hour. Times are in us since 1970."""

    def __init__(self) -> None:
        # The time and the Mac of each job.
        self._jobs: dict[tuple[str, Action, int], list[tuple[int, str]]] = {}
        self._forgotten_at = 0

    def __bool__(self) -> bool:
        """True if a job is counted."""
        return bool(self._jobs)

    def clear(self) -> None:
        """Forget all jobs."""
        self._jobs.clear()

    def add(self, site: str, action: Action, at_us: int, udid: str) -> None:
        """Count a job."""
        self._jobs.setdefault((site, action, at_us // HOUR_US), []).append((at_us, udid))

    def count(self, site: str, action: Action, at_us: int) -> int:
        """Return the number of jobs in the hour of `at_us`."""
        return len(self._jobs.get((site, action, at_us // HOUR_US), ()))

    def macs_between(self, site: str, action: Action, begin_us: int, end_us: int) -> set[str]:
        """Return the Macs that got a job from `begin_us` on, and before `end_us`."""
        return {
            udid
            for hour in range(begin_us // HOUR_US, end_us // HOUR_US + 1)
            for at_us, udid in self._jobs.get((site, action, hour), ())
            if begin_us <= at_us < end_us
        }

    def forget_before(self, now_us: int) -> None:
        """Forget the hours that ended two days before `now_us`. Later times stay, also future ones.

        The time of a job does not decide what is forgotten: a clock that was ahead would delete the
        jobs of the present hour.
        """
        hour = now_us // HOUR_US
        if hour == self._forgotten_at:
            return
        self._forgotten_at = hour
        for key in [key for key in self._jobs if key[2] < hour - _KEPT_HOURS]:
            del self._jobs[key]
