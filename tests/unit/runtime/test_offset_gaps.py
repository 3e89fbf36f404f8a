"""Offsets that do not agree at an assignment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.offset_gaps import COMMIT_METADATA, OffsetGap, find_gap

OWN, OTHER = COMMIT_METADATA, ""


@pytest.mark.parametrize(
    ("kept", "committed", "metadata", "begin", "end", "gap"),
    [
        pytest.param(None, None, OTHER, 0, 9, None, id="new partition"),
        pytest.param(None, None, OTHER, 5, 9, None, id="new reader of an old topic"),
        pytest.param(7, 7, OWN, 0, 9, None, id="after a clean stop"),
        pytest.param(7, 4, OWN, 0, 9, None, id="after a crash before the commit"),
        pytest.param(4, 7, OWN, 0, 9, None, id="records without effect on the state"),
        pytest.param(None, 7, OTHER, 0, 9, None, id="committed by an earlier version"),
        pytest.param(7, 7, OTHER, 0, 9, None, id="the same offset committed by a tool"),
        pytest.param(7, 7, OWN, 7, 9, None, id="all processed records deleted"),
        pytest.param(7, 4, OWN, 7, 9, None, id="processed and uncommitted records deleted"),
        pytest.param(0, None, OTHER, 0, 0, None, id="nothing processed so far"),
        pytest.param(7, 7, OWN, 8, 9, OffsetGap(7, 8, 1), id="one record deleted"),
        pytest.param(7, 4, OWN, 9, 9, OffsetGap(7, 9, 2), id="all deleted"),
        pytest.param(None, 7, OTHER, 9, 9, OffsetGap(7, 9, 2), id="deleted, earlier version"),
        pytest.param(0, None, OTHER, 5, 9, OffsetGap(0, 5, 5), id="deleted before the first"),
        pytest.param(7, 9, OTHER, 0, 9, OffsetGap(7, 9, 2, is_moved=True), id="moved forward"),
        pytest.param(7, 2, OTHER, 0, 9, OffsetGap(7, 2, 0, is_moved=True), id="moved back"),
        pytest.param(7, None, OTHER, 0, 9, OffsetGap(7, 0, 0, is_moved=True), id="offsets gone"),
        pytest.param(7, 2, OTHER, 8, 9, OffsetGap(7, 8, 1, is_moved=True), id="back, deleted"),
        pytest.param(7, 7, OWN, 0, 3, OffsetGap(7, 0, 0, is_cut=True), id="created again"),
        pytest.param(7, None, OTHER, 0, 0, OffsetGap(7, 0, 0, is_cut=True), id="created, empty"),
    ],
)
def test_gap(
    kept: int | None,
    committed: int | None,
    metadata: str,
    begin: int,
    end: int,
    gap: OffsetGap | None,
) -> None:
    found = find_gap(kept=kept, committed=committed, metadata=metadata, begin=begin, end=end)
    assert found == gap


OFFSETS = st.integers(0, 20)


@given(st.none() | OFFSETS, st.none() | OFFSETS, st.sampled_from([OWN, OTHER]), OFFSETS, OFFSETS)
def test_reading_continues_inside_the_log(
    kept: int | None, committed: int | None, metadata: str, one: int, other: int
) -> None:
    begin, end = sorted((one, other))
    gap = find_gap(kept=kept, committed=committed, metadata=metadata, begin=begin, end=end)
    if gap is None:
        return
    assert begin <= gap.start <= end
    assert gap.lost == (0 if gap.is_cut else max(gap.start - gap.expected, 0))
    # The gap is reported once: with the start as the kept offset there is none.
    again = find_gap(kept=gap.start, committed=gap.start, metadata=metadata, begin=begin, end=end)
    assert again is None
