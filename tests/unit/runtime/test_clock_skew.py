"""The difference between two clocks, from the time between a send and its confirmation."""

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from runtime.clock_skew import LIMIT_S, ClockSkew

NOW_S = 1_795_000_000.0


def in_ms(at_s: float) -> int:
    """Return a time of the broker, given in seconds after NOW_S, as Kafka does."""
    return int((NOW_S + at_s) * 1000)


def observed(skew_s: float, sent_s: float, stamped_s: float, confirmed_s: float) -> float:
    """Return the measured difference of a clock that is ahead by `skew_s`.

    The other times are seconds after NOW_S of the broker's clock.
    """
    skew = ClockSkew(structlog.get_logger())
    skew.observe(NOW_S + skew_s + sent_s, NOW_S + skew_s + confirmed_s, in_ms(stamped_s))
    return skew.seconds


@pytest.mark.parametrize(
    ("skew_s", "least", "most"),
    [
        (0.0, 0.0, 0.0),
        (0.4, 0.0, 0.0),
        (-0.4, 0.0, 0.0),
        (7200.0, 7199.4, 7200.0),
        (-7200.0, -7200.0, -7199.4),
    ],
)
def test_difference_is_at_least_what_is_measured(skew_s: float, least: float, most: float) -> None:
    assert least <= observed(skew_s, 0.0, 0.5, 1.0) <= most


SECONDS = st.floats(0, 30)


@given(st.floats(-1e5, 1e5), st.lists(SECONDS, min_size=3, max_size=3).map(sorted))
def test_measured_difference_is_certain(skew_s: float, times: list[float]) -> None:
    found = observed(skew_s, *times)
    assert abs(found) <= abs(skew_s) + 0.002
    assert found * skew_s >= 0 or abs(found) <= 0.002
    # No more than the time between send and confirmation is unknown.
    assert abs(skew_s) - abs(found) <= times[2] - times[0] + 0.002


def test_difference_over_the_limit_is_logged_when_it_begins_and_ends() -> None:
    log = structlog.testing.LogCapture()
    skew = ClockSkew(structlog.wrap_logger(structlog.ReturnLogger(), processors=[log]))
    for ahead_s in (0.0, 2 * LIMIT_S, 3 * LIMIT_S, 0.0, 0.0, -2 * LIMIT_S):
        skew.observe(NOW_S + ahead_s, NOW_S + ahead_s, in_ms(0))
    assert [one["log_level"] for one in log.entries] == ["error", "info", "error"]
    assert [one["detail"] for one in log.entries] == ["+20.0 s", "+0.0 s", "-20.0 s"]


@pytest.mark.parametrize("broker_ms", [None, -1])
def test_time_that_the_broker_did_not_set_measures_nothing(broker_ms: int | None) -> None:
    skew = ClockSkew(structlog.get_logger())
    skew.observe(NOW_S, NOW_S, in_ms(60))
    skew.observe(NOW_S, NOW_S, broker_ms)
    assert skew.seconds == pytest.approx(-60)
