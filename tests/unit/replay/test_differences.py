"""The first difference of two JSON values, and its path."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.replay.differences import ABSENT, first_alteration, first_difference

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3)
    ),
)


@pytest.mark.parametrize(
    ("left", "right", "path"),
    [
        ({"a": 1}, {"a": 2}, "a"),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, "a.b[1]"),
        ({"a": [1]}, {"a": [1, 2]}, "a[1]"),
        ({"a": [1, 2]}, {"a": [1]}, "a[1]"),
        ({}, {"a": 1}, "a"),
        ({"a": 1}, {}, "a"),
        (1, True, "$"),
        (1, 1.0, "$"),
        ([], {}, "$"),
        (None, {}, "$"),
        ({"b": 1, "a": 1}, {"a": 2, "b": 2}, "b"),
    ],
)
def test_the_first_difference_has_its_path(left: Any, right: Any, path: str) -> None:
    found = first_difference(left, right)
    assert found is not None
    assert found.path == path


@given(JSON)
def test_a_value_has_no_difference_from_itself(value: Any) -> None:
    assert first_difference(value, value) is None
    assert first_alteration(value, value) is None


@given(JSON, JSON)
def test_a_difference_is_found_in_both_directions(left: Any, right: Any) -> None:
    assert (first_difference(left, right) is None) == (first_difference(right, left) is None)


def test_key_order_makes_no_difference() -> None:
    assert first_difference({"a": 1, "b": 2}, {"b": 2, "a": 1}) is None


def test_a_lost_or_changed_part_is_an_alteration_and_a_new_key_is_not() -> None:
    assert first_alteration({"a": [{"b": 1}]}, {"a": [{"b": 1, "new": None}], "c": 3}) is None
    found = first_alteration({"a": [{"b": 1, "x": 0}]}, {"a": [{"b": 1}]})
    assert found == ("a[0].x", 0, ABSENT)
    assert first_alteration({"a": [1]}, {"a": [1, 2]}) is not None
