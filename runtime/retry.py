"""Delays between attempts after a failure: random, growing, limited. No other module computes any.

Clients that fail at one moment must not all retry at one moment, so each delay is random.

| shape of the code | use |
| --- | --- |
| one call that may fail and is repeated | `retrying`, `async_retrying` |
| a part of a process that runs for hours and is started again after a failure | `Backoff` |
"""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_any,
    stop_never,
    wait_random_exponential,
)

Errors = type[Exception] | tuple[type[Exception], ...]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Delays after failures in a row, in seconds.

    A delay is random between half of `first_s` and a limit: `first_s` after the first failure,
    twice as much after each further one, never over `max_s`.
    """

    first_s: float
    max_s: float

    def wait(self) -> wait_random_exponential:
        """Return the delays as a strategy of tenacity."""
        return wait_random_exponential(
            multiplier=self.first_s, max=self.max_s, min=min(self.first_s, self.max_s) / 2
        )

    def delay_s(self, failures: int) -> float:
        """Return a delay after this number of failures in a row, from 1."""
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = failures
        return self.wait()(state)


# A caller waits for the result, or the result is valid for seconds only.
QUICK: Final = RetryPolicy(first_s=0.5, max_s=1.0)
# A broker or an MDM server is away, or restarts.
BROKER: Final = RetryPolicy(first_s=0.2, max_s=10.0)
# A disk is full or fails: room must be noticed within seconds.
DISK: Final = RetryPolicy(first_s=0.5, max_s=3.0)
# A part of the process failed: a thread, its file, its lease.
RESTART: Final = RetryPolicy(first_s=1.0, max_s=30.0)
# A server of others must not get more requests because of our bug.
FEED: Final = RetryPolicy(first_s=30.0, max_s=60.0)


class Backoff:
    """The delays of one part of a process that is started again after each failure.

    A failure later than `policy.max_s` after the last delay is a first failure again.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._ends_at = monotonic()

    def reset(self) -> None:
        """Count the next failure as a first one."""
        self._failures = 0

    def next_delay_s(self) -> float:
        """Count a failure, and return the delay after it in seconds, for a caller that waits."""
        now = monotonic()
        if now > self._ends_at + self._policy.max_s:
            self.reset()
        self._failures += 1
        delay_s = self._policy.delay_s(self._failures)
        self._ends_at = now + delay_s
        return delay_s

    def wait(self, stop: threading.Event) -> bool:
        """Count a failure and wait; return True at once if `stop` is set, also meanwhile."""
        return stop.wait(self.next_delay_s())

    async def sleep(self) -> None:
        """Count a failure and wait, until the delay ends or the task is cancelled."""
        await asyncio.sleep(self.next_delay_s())


def retrying(
    policy: RetryPolicy,
    errors: Errors,
    *,
    attempts: int | None = None,
    within_s: float | None = None,
    on_failure: Callable[[Exception], None] = lambda _: None,
) -> Retrying:
    """Return a controller: `retrying(...)(function, *args)` calls until an attempt succeeds.

    After one of `errors`, `on_failure` is called with it and the attempt is repeated. The error is
    raised instead by the last of `attempts`, and by an attempt that fails more than `within_s`
    seconds after the first began; None sets no limit. Other exceptions are raised.
    """
    return Retrying(**_options(policy, errors, attempts, within_s, on_failure))


def async_retrying(
    policy: RetryPolicy,
    errors: Errors,
    *,
    attempts: int | None = None,
    within_s: float | None = None,
    on_failure: Callable[[Exception], None] = lambda _: None,
) -> AsyncRetrying:
    """Return the controller of `retrying` for a coroutine function; its delays do not block."""
    return AsyncRetrying(**_options(policy, errors, attempts, within_s, on_failure))


def _options(
    policy: RetryPolicy,
    errors: Errors,
    attempts: int | None,
    within_s: float | None,
    on_failure: Callable[[Exception], None],
) -> dict[str, Any]:
    def before_sleep(state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        assert isinstance(error, Exception)  # nothing else leads to another attempt
        on_failure(error)

    return {
        "wait": policy.wait(),
        "retry": retry_if_exception_type(errors),
        "stop": stop_any(
            stop_never if attempts is None else stop_after_attempt(attempts),
            stop_never if within_s is None else stop_after_delay(within_s),
        ),
        "before_sleep": before_sleep,
        "reraise": True,
    }
