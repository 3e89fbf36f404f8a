"""Partitions without progress are refused for a time; the clock of each test is a number."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.stalls import Progress, StallMonitor
from runtime.retry import RetryPolicy

LOST = Progress(0.0, "no lease")
STEP = Progress(0.0)


def monitor() -> StallMonitor:
    """Return a monitor whose refusals last 60 to 120 s at first."""
    return StallMonitor(60.0, 300.0, RetryPolicy(first_s=120.0, max_s=1000.0))


def watch(
    stalls: StallMonitor, progress: Callable[[float], dict[int, Progress]], seconds: range
) -> dict[int, float]:
    """Update the monitor each second; return the time of the first refusal of each partition."""
    found: dict[int, float] = {}
    for now in map(float, seconds):
        for partition in stalls.update(now, progress(now), is_kafka_up=True):
            found.setdefault(partition, now)
    return found


@pytest.mark.parametrize(
    ("state", "refused_at"),
    [
        pytest.param(LOST, 1061.0, id="no lease"),
        pytest.param(STEP, 1301.0, id="a step that does not end"),
        pytest.param(Progress(900.0, "no lease"), 1061.0, id="worked before it was assigned"),
    ],
)
def test_partition_is_refused_after_its_limit(state: Progress, refused_at: float) -> None:
    stalls = monitor()
    assert watch(stalls, lambda _: {3: state}, range(1000, 1302)) == {3: refused_at}
    assert stalls.refused == {3}
    assert stalls.troubles.keys() == {3}


def test_partition_that_progresses_is_not_refused() -> None:
    def progress(now: float) -> dict[int, Progress]:
        return {1: Progress(now - now % 59, "an error, from time to time"), 2: Progress(now)}

    stalls = monitor()
    assert watch(stalls, progress, range(1000, 3000)) == {}
    assert stalls.troubles == {}


def test_only_the_stalled_partition_is_refused() -> None:
    found = watch(monitor(), lambda now: {1: LOST, 2: Progress(now)}, range(1000, 1100))
    assert found == {1: 1061.0}


def test_time_without_kafka_counts_as_progress() -> None:
    stalls = monitor()
    for now in range(1000, 2000):
        assert stalls.update(float(now), {1: LOST}, is_kafka_up=False) == {}
    assert watch(stalls, lambda _: {1: LOST}, range(2000, 2100)) == {1: 2060.0}


def test_partition_that_another_agent_has_is_shown_until_the_refusal_ends() -> None:
    stalls = monitor()
    watch(stalls, lambda _: {1: LOST}, range(1000, 1062))
    watch(stalls, lambda _: {}, range(1062, 1100))
    assert stalls.troubles == {1: "no lease"}
    watch(stalls, lambda _: {}, range(1100, 1200))
    assert (stalls.refused, stalls.troubles) == (frozenset(), {})


def test_partition_that_no_other_agent_takes_is_refused_for_longer_each_time() -> None:
    stalls = monitor()
    times = [
        now for now in range(1000, 9000) if stalls.update(float(now), {1: LOST}, is_kafka_up=True)
    ]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(60 <= gap <= 1001 for gap in gaps)
    assert max(gaps) > 3 * gaps[0]
    assert stalls.troubles == {1: "no lease"}


def test_refused_partition_that_works_again_is_no_longer_shown_and_its_refusal_ends() -> None:
    stalls = monitor()
    watch(stalls, lambda _: {1: LOST}, range(1000, 1062))
    assert watch(stalls, lambda now: {1: Progress(now)}, range(1062, 1070)) == {}
    assert stalls.troubles == {}
    watch(stalls, lambda now: {1: Progress(now)}, range(1070, 1200))
    assert stalls.refused == frozenset()


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=200))
def test_shown_partitions_are_stalled_or_refused(steps: list[tuple[bool, bool, bool]]) -> None:
    stalls, now = monitor(), 1000.0
    for held, works, up in steps:
        now += 17
        progress = {1: Progress(now if works else 0.0, "" if works else "no lease")} if held else {}
        new = stalls.update(now, progress, is_kafka_up=up)
        assert new.keys() <= stalls.refused & progress.keys()
        assert stalls.troubles.keys() <= progress.keys() | stalls.refused
        assert not (held and works and stalls.troubles)
