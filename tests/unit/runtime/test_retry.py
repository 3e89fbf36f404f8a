"""Delays are random, grow and are limited; a stop ends them; other errors are not retried."""

import asyncio
import threading
from time import monotonic

import pytest

from runtime import retry
from runtime.retry import Backoff, RetryPolicy, async_retrying, retrying

AT_ONCE = RetryPolicy(first_s=0.0, max_s=0.0)


class Flaky:
    """A function that fails `failures` times."""

    def __init__(self, failures: int, error: type[Exception] = OSError) -> None:
        self.left = failures
        self.calls = 0
        self.error = error

    def __call__(self) -> int:
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise self.error(self.left)
        return self.calls


def test_delays_grow_to_the_limit_and_differ() -> None:
    policy = RetryPolicy(first_s=1.0, max_s=6.0)
    series = []
    for _ in range(200):
        backoff = Backoff(policy)
        series.append([backoff.next_delay_s() for _ in range(5)])
    for delays, limit in zip(zip(*series, strict=True), (1.0, 2.0, 4.0, 6.0, 6.0), strict=True):
        assert 0.5 <= min(delays) < max(delays) <= limit
        assert max(delays) > 0.8 * limit
        assert len(set(delays)) > 100


@pytest.mark.parametrize(
    ("policy", "first_s", "max_s"),
    [
        pytest.param(retry.QUICK, 0.5, 1.0, id="quick"),
        pytest.param(retry.BROKER, 0.2, 10.0, id="broker"),
        pytest.param(retry.RESTART, 1.0, 30.0, id="restart"),
        pytest.param(retry.FEED, 30.0, 60.0, id="feed"),
    ],
)
def test_policy_keeps_its_limits_however_often_it_fails(
    policy: RetryPolicy, first_s: float, max_s: float
) -> None:
    first = [policy.delay_s(1) for _ in range(1000)]
    assert first_s / 2 <= min(first) < max(first) <= first_s
    assert max(first) > 0.9 * first_s
    later = [policy.delay_s(failures) for failures in range(1, 2000)]
    assert 0.9 * max_s < max(later) <= max_s


def test_limit_under_the_first_delay_is_kept() -> None:
    backoff = Backoff(RetryPolicy(first_s=1.0, max_s=0.1))
    assert all(0.05 <= backoff.next_delay_s() <= 0.1 for _ in range(50))


def test_reset_counts_the_next_failure_as_a_first_one() -> None:
    backoff = Backoff(RetryPolicy(first_s=1.0, max_s=1000.0))
    for _ in range(50):
        backoff.next_delay_s()
    backoff.reset()
    assert backoff.next_delay_s() <= 1.0


def test_failure_after_a_long_run_is_a_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(retry, "monotonic", lambda: now)
    backoff = Backoff(RetryPolicy(first_s=1.0, max_s=30.0))
    longest = 0.0
    for _ in range(100):
        delay_s = backoff.next_delay_s()
        longest = max(longest, delay_s)
        now += delay_s + 29.9
    assert longest > 20
    now += 31
    assert backoff.next_delay_s() <= 1.0


def test_stop_ends_a_wait() -> None:
    stop = threading.Event()
    backoff = Backoff(RetryPolicy(first_s=60.0, max_s=60.0))
    threading.Timer(0.05, stop.set).start()
    began = monotonic()
    assert backoff.wait(stop)
    assert monotonic() - began < 10
    assert not Backoff(AT_ONCE).wait(threading.Event())


def test_cancelled_task_ends_a_sleep() -> None:
    async def run() -> None:
        backoff = Backoff(RetryPolicy(first_s=60.0, max_s=60.0))
        async with asyncio.timeout(0.01):
            await backoff.sleep()

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_call_is_repeated_until_it_succeeds_and_each_failure_is_reported() -> None:
    seen: list[str] = []
    call = Flaky(3)
    assert retrying(AT_ONCE, OSError, on_failure=lambda error: seen.append(str(error)))(call) == 4
    assert seen == ["2", "1", "0"]


@pytest.mark.parametrize(
    ("limits", "most_calls"), [({"attempts": 3}, 3), ({"within_s": 0.0}, 1)], ids=["tries", "time"]
)
def test_last_error_is_raised_at_the_limit(limits: dict[str, float], most_calls: int) -> None:
    seen: list[Exception] = []
    call = Flaky(10)
    with pytest.raises(OSError, match=str(10 - most_calls)):
        retrying(AT_ONCE, OSError, on_failure=seen.append, **limits)(call)  # type: ignore[arg-type]
    assert (call.calls, len(seen)) == (most_calls, most_calls - 1)


def test_other_error_is_raised_at_once() -> None:
    call = Flaky(1, ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        retrying(AT_ONCE, (OSError, ValueError))(call)
    assert call.calls == 1


def test_coroutine_function_is_repeated_too() -> None:
    call = Flaky(2)

    async def once() -> int:
        return call()

    assert asyncio.run(async_retrying(AT_ONCE, OSError)(once)) == 3


def test_cancelled_coroutine_is_not_repeated() -> None:
    async def run() -> None:
        async with asyncio.timeout(0.01):
            await async_retrying(AT_ONCE, Exception)(asyncio.sleep, 60)

    with pytest.raises(TimeoutError):
        asyncio.run(run())
