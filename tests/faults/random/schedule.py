"""The seeded schedule of faults: each one has a time and a number that selects its variant."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True, order=True)
class Strike:
    """One fault, `at` in hours or seconds after the start; `pick` selects its variant."""

    at: float
    fault: str
    pick: int

    def __str__(self) -> str:
        return f"{self.at:6.2f} {self.fault} ({self.pick})"


def draw(seed: int, shares: Mapping[str, int], count: int, lasts: float) -> list[Strike]:
    """Return `count` faults within `lasts`, in order; `shares` are the relative frequencies."""
    random = Random(seed)
    names, weights = [*shares], [*shares.values()]
    return sorted(
        Strike(random.uniform(0, lasts), random.choices(names, weights)[0], random.randrange(10**6))
        for _ in range(count)
    )
