"""Stamps: a maximum for each thing, whatever came together, in whatever order."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.stamps import NEVER, moments, newest, of_moments, since, tell, when

LAST = (1 << 63) - 1
TOLD = st.lists(
    st.tuples(st.integers(1, 63), st.sampled_from([1, 2, 3, 4, LAST])), min_size=1, max_size=8
)
THINGS = range(6)


def _stamps(told: list[tuple[int, int]]) -> bytes:
    stamps = NEVER
    for things, us in told:
        stamps = tell(stamps, things, us)
    return stamps


def _newest_of(told: list[tuple[int, int]], thing: int) -> int:
    return max((us for things, us in told if things >> thing & 1), default=0)


@given(TOLD)
def test_a_thing_stands_at_its_newest_moment(told: list[tuple[int, int]]) -> None:
    stamps = _stamps(told)
    for thing in THINGS:
        assert when(stamps, 1 << thing) == _newest_of(told, thing)
    assert newest(stamps) == when(stamps, 63) == max(us for _, us in told)


@given(TOLD, st.randoms(use_true_random=False))
def test_order_and_repeats_do_not_matter(told: list[tuple[int, int]], rng: random.Random) -> None:
    again = told + [one for one in told if rng.random() < 0.5]
    rng.shuffle(again)
    assert _stamps(again) == _stamps(told)


@given(TOLD, st.integers(1, 5))
def test_tells_apart_what_was_told_after_a_moment_and_at_it(
    told: list[tuple[int, int]], us: int
) -> None:
    later, same = since(_stamps(told), us)
    for thing in THINGS:
        at = _newest_of(told, thing)
        assert (later >> thing & 1, same >> thing & 1) == (at > us, at == us)


@given(TOLD)
def test_what_is_known_already_gives_the_same_object(told: list[tuple[int, int]]) -> None:
    stamps = _stamps(told)
    for things, us in told:
        assert tell(stamps, things, us) is stamps
    assert of_moments(reversed(list(moments(stamps)))) == stamps


def test_a_mac_without_reports_has_no_times() -> None:
    assert (newest(NEVER), when(NEVER, 1), since(NEVER, 5), list(moments(NEVER))) == (
        0,
        0,
        (0, 0),
        [],
    )
