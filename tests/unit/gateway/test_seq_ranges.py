"""Ranges of sequence numbers behave as a set of integers."""

import random

from pipeline.gateway.seq_ranges import SeqRanges


def test_ranges_equal_a_set_after_random_operations() -> None:
    for seed in range(50):
        chance = random.Random(seed)
        ranges, wanted = SeqRanges(), set[int]()
        for _ in range(200):
            if wanted and chance.random() < 0.1:
                last = chance.choice(sorted(wanted))
                ranges.remove_to(last)
                wanted = {seq for seq in wanted if seq > last}
            else:
                seq = chance.randrange(1, 60)
                ranges.add(seq)
                wanted.add(seq)
            assert ranges.count == len(wanted)
            assert [seq for seq in range(62) if seq in ranges] == sorted(wanted)
            for seq in wanted:
                end = next(each for each in range(seq, 62) if each + 1 not in wanted)
                assert ranges.end_of(seq) == end


def test_lowest_ranges_have_at_most_the_limit_of_numbers() -> None:
    ranges = SeqRanges()
    for seq in (1, 2, 3, 7, 8, 20):
        ranges.add(seq)
    assert list(ranges.lowest(100)) == [(1, 3), (7, 8), (20, 20)]
    assert list(ranges.lowest(4)) == [(1, 3), (7, 7)]
    assert list(ranges.lowest(3)) == [(1, 3)]
    assert list(ranges.lowest(2)) == [(1, 2)]


def test_consecutive_numbers_in_any_order_are_one_range() -> None:
    ranges = SeqRanges()
    for seq in (2, 1, 4, 3, 5):
        ranges.add(seq)
    assert list(ranges.lowest(100)) == [(1, 5)]
