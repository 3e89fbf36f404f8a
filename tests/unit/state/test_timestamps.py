"""Stamps: a maximum for each thing, whatever came together, in whatever order."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.timestamps import (
    NEVER,
    changed_since,
    last_us,
    newest_us,
    pack_timestamps,
    record,
    unpack_timestamps,
)

LAST = (1 << 63) - 1
UPDATES = st.lists(
    st.tuples(st.integers(1, 63), st.sampled_from([1, 2, 3, 4, LAST])), min_size=1, max_size=8
)
BITS = range(6)


def _timestamps(updates: list[tuple[int, int]]) -> bytes:
    stamps = NEVER
    for things, us in updates:
        stamps = record(stamps, things, us)
    return stamps


def _newest_of(updates: list[tuple[int, int]], thing: int) -> int:
    return max((us for things, us in updates if things >> thing & 1), default=0)


@given(UPDATES)
def test_each_bit_keeps_its_newest_time(updates: list[tuple[int, int]]) -> None:
    stamps = _timestamps(updates)
    for thing in BITS:
        assert last_us(stamps, 1 << thing) == _newest_of(updates, thing)
    assert newest_us(stamps) == last_us(stamps, 63) == max(us for _, us in updates)


@given(UPDATES, st.randoms(use_true_random=False))
def test_order_and_repeats_do_not_matter(
    updates: list[tuple[int, int]], rng: random.Random
) -> None:
    again = updates + [one for one in updates if rng.random() < 0.5]
    rng.shuffle(again)
    assert _timestamps(again) == _timestamps(updates)


@given(UPDATES, st.integers(1, 5))
def test_changed_since_separates_later_bits_from_those_at_the_time(
    updates: list[tuple[int, int]], us: int
) -> None:
    later, same = changed_since(_timestamps(updates), us)
    for thing in BITS:
        at = _newest_of(updates, thing)
        assert (later >> thing & 1, same >> thing & 1) == (at > us, at == us)


@given(UPDATES)
def test_what_is_known_already_gives_the_same_object(updates: list[tuple[int, int]]) -> None:
    stamps = _timestamps(updates)
    for things, us in updates:
        assert record(stamps, things, us) is stamps
    assert pack_timestamps(reversed(list(unpack_timestamps(stamps)))) == stamps


def test_a_mac_without_reports_has_no_times() -> None:
    assert (
        newest_us(NEVER),
        last_us(NEVER, 1),
        changed_since(NEVER, 5),
        list(unpack_timestamps(NEVER)),
    ) == (
        0,
        0,
        (0, 0),
        [],
    )
