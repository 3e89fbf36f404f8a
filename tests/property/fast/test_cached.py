"""A cached property has the values of `functools.cached_property` and computes as often."""

from functools import cached_property

from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide.fast.cached import cached


class Computed:
    """One property of each kind, over a number that changes."""

    def __init__(self) -> None:
        self.number = 0
        self.calls = {"fast": 0, "plain": 0}

    @cached
    def fast(self) -> int:
        """A number."""
        self.calls["fast"] += 1
        return self.number

    @cached_property
    def plain(self) -> int:
        """A number."""
        self.calls["plain"] += 1
        return self.number


# A number is the new value of `number`.
STEPS = st.sampled_from(["read", "forget"]) | st.integers(0, 9)


@given(st.lists(STEPS, max_size=9))
def test_value_and_number_of_computations_equal_those_of_cached_property(
    steps: list[int | str],
) -> None:
    one = Computed()
    for step in steps:
        if isinstance(step, int):
            one.number = step
        elif step == "read":
            assert one.fast == one.plain
        else:
            for name in ("fast", "plain"):
                one.__dict__.pop(name, None)
    assert one.calls["fast"] == one.calls["plain"]


def test_property_of_the_class_has_its_docstring() -> None:
    assert isinstance(Computed.fast, cached)
    assert Computed.fast.__doc__ == Computed.plain.__doc__ == "A number."
