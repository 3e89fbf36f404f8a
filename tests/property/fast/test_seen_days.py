"""Days with reports: a union of sets of days, cut to the last sixteen."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.state.compact.seen_days import DAY_US, add_day, first_later_day_end_us, merge_days

DAYS = st.lists(st.integers(0, 40), max_size=12)


def _packed(days: list[int]) -> int:
    packed = 0
    for day in days:
        packed = add_day(packed, day * DAY_US + 5)
    return packed


def _kept(days: list[int]) -> set[int]:
    return {day for day in days if day > max(days) - 16} if days else set()


@given(DAYS, DAYS)
def test_days_do_not_depend_on_order_repeats_or_grouping(one: list[int], other: list[int]) -> None:
    together = _packed(one + other)
    assert together == _packed([*other, *one, *one])
    assert (
        together
        == merge_days(_packed(one), _packed(other))
        == merge_days(_packed(other), _packed(one))
    )


@given(DAYS, st.integers(0, 40))
def test_first_later_day_is_found(days: list[int], day: int) -> None:
    later = [one for one in _kept(days) if one > day]
    expected = (min(later) + 1) * DAY_US if later else None
    assert first_later_day_end_us(_packed(days), day * DAY_US + 77) == expected
