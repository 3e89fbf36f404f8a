"""Earlier values of a field: other values that a Mac reported, each with its newest time.

Only the newest few are kept. The newest time of each value is a maximum, and a value that was
dropped has that many newer ones: so the result does not depend on the order of the reports.
"""

from collections.abc import Iterable
from typing import Final

KEPT_VALUES: Final = 4

# Pairs of a value and the time of its newest report in us since 1970, newest first.
EarlierValues = tuple[tuple[str, int], ...]


def add_earlier(known: EarlierValues, report: tuple[str, int], present: str) -> EarlierValues:
    """Return the earlier values after this report of the field; `present` is its value now.

    `report` is a value and its time in us. An equal tuple if the report changes nothing.
    """
    names = [value for value, _ in known]
    is_new = report[0] != present and report[0] not in names and present not in names
    if is_new and (not known or report[1] > known[0][1]):
        return (report, *known[: KEPT_VALUES - 1])  # most often, and without a sort
    newest: dict[str, int] = {}
    for value, us in (*known, report):
        if value != present:
            newest[value] = max(us, newest.get(value, 0))
    ordered = sorted(newest.items(), key=lambda one: (one[1], one[0]), reverse=True)
    return tuple(ordered[:KEPT_VALUES])


def earlier_to_wire(values: EarlierValues) -> list[list[str | int]]:
    """Return the values as JSON values."""
    return [[value, us] for value, us in values]


def earlier_from_wire(wire: Iterable[tuple[str, int]]) -> EarlierValues:
    """Return the values that `earlier_to_wire` wrote.

    Raises ValueError or TypeError for other input.
    """
    return tuple((str(value), int(us)) for value, us in wire)
