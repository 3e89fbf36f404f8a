"""Timestamps keep the newest time of each bit, in any order and grouping of reports."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.compact.timestamps import (
    NEVER,
    changed_since,
    last_us,
    newest_bits,
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
    timestamps = NEVER
    for bits, us in updates:
        timestamps = record(timestamps, bits, us)
    return timestamps


def _newest_of(updates: list[tuple[int, int]], bit: int) -> int:
    return max((us for bits, us in updates if bits >> bit & 1), default=0)


@given(UPDATES)
def test_each_bit_keeps_its_newest_time(updates: list[tuple[int, int]]) -> None:
    timestamps = _timestamps(updates)
    for bit in BITS:
        assert last_us(timestamps, 1 << bit) == _newest_of(updates, bit)
    assert newest_us(timestamps) == last_us(timestamps, 63) == max(us for _, us in updates)
    assert changed_since(timestamps, newest_us(timestamps)) == (0, newest_bits(timestamps))


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
    for bit in BITS:
        at = _newest_of(updates, bit)
        assert (later >> bit & 1, same >> bit & 1) == (at > us, at == us)


@given(UPDATES)
def test_recording_known_times_returns_the_same_object(updates: list[tuple[int, int]]) -> None:
    timestamps = _timestamps(updates)
    for bits, us in updates:
        assert record(timestamps, bits, us) is timestamps
    assert pack_timestamps(reversed(list(unpack_timestamps(timestamps)))) == timestamps


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
