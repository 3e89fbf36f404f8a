"""Partitions without progress, and the time for which this agent refuses them. Pure.

    working  ── no progress within the limit ──>  stalled: refused, another agent may take it
    stalled  ── progress again ──>                refused until the delay is over
    refused  ── delay over, still stalled ──>     refused for a longer delay
    refused  ── delay over ──>                    working: the group may assign it again

A time in which Kafka is away counts as progress: no other agent could do better.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from runtime.retry import RetryPolicy

# A partition whose last step failed, or without a runner, is stalled after the first time. A step
# that continues, such as a look at a slow Mac or the read of a long changelog, has the second one.
STALLED_AFTER_S: Final = 60.0
STEP_LIMIT_S: Final = 300.0
# Most causes end within minutes, and each change of the refused partitions costs a rebalance.
REFUSAL: Final = RetryPolicy(first_s=60.0, max_s=600.0)


class Progress(NamedTuple):
    """Progress of a held partition: the time of the last one, and what prevents the next one.

    `worked_at` is in seconds of the clock of `StallMonitor.update`, 0 before the first progress.
    `trouble` is empty while a step continues.
    """

    worked_at: float
    trouble: str = ""


class StallMonitor:
    """Follows the progress of the partitions that one agent holds."""

    def __init__(
        self,
        stalled_after_s: float = STALLED_AFTER_S,
        step_limit_s: float = STEP_LIMIT_S,
        policy: RetryPolicy = REFUSAL,
    ) -> None:
        self._stalled_after_s = stalled_after_s
        self._step_limit_s = step_limit_s
        self._policy = policy
        self._kafka_away_at = 0.0
        self._worked_at: dict[int, float] = {}
        self._refused_until: dict[int, float] = {}
        self._refusals: dict[int, int] = {}
        self._troubles: dict[int, str] = {}

    def update(
        self, now: float, progress: Mapping[int, Progress], *, is_kafka_up: bool
    ) -> dict[int, str]:
        """Take the progress of all held partitions; return the trouble of each new refusal.

        `now` is in seconds of any clock that never goes back.
        """
        if not is_kafka_up:
            self._kafka_away_at = now
        for partition, one in progress.items():
            if one.worked_at > self._worked_at.get(partition, now):
                self._refusals.pop(partition, None)
        self._worked_at = {
            partition: max(self._worked_at.get(partition, now), one.worked_at)
            for partition, one in progress.items()
        }
        stalled = {
            partition: self._trouble(one)
            for partition, one in progress.items()
            if now - max(self._worked_at[partition], self._kafka_away_at) > self._limit_s(one)
        }
        new = {each: why for each, why in stalled.items() if self._is_over(each, now)}
        for partition in new:
            refusals = self._refusals[partition] = self._refusals.get(partition, 0) + 1
            self._refused_until[partition] = now + self._policy.delay_s(refusals)
        for partition in [each for each in self._refused_until if self._is_over(each, now)]:
            del self._refused_until[partition]
        given_back = self.refused - progress.keys()
        self._troubles = {
            partition: why for partition, why in self._troubles.items() if partition in given_back
        } | stalled
        return new

    @property
    def refused(self) -> frozenset[int]:
        """The partitions that this agent should not hold now."""
        return frozenset(self._refused_until)

    @property
    def troubles(self) -> dict[int, str]:
        """The trouble of each partition that is stalled or was given back, by partition."""
        return self._troubles

    def _limit_s(self, one: Progress) -> float:
        return self._stalled_after_s if one.trouble else self._step_limit_s

    def _trouble(self, one: Progress) -> str:
        slow = f"a step takes over {self._step_limit_s:g} s: a Mac or Kafka does not respond"
        return one.trouble or slow

    def _is_over(self, partition: int, now: float) -> bool:
        """Return True if the partition is not refused at `now`."""
        return self._refused_until.get(partition, 0.0) <= now
