"""Comparison of the two forms' numbers."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class ComparedNumber(NamedTuple):
    """One number in both runs; None if a run does not have it."""

    name: str
    embedded: Any
    kafka: Any

    @property
    def is_same(self) -> bool:
        """True if both forms have the same number."""
        return bool(self.embedded == self.kafka)


def rows(embedded: Mapping[str, Any], kafka: Mapping[str, Any]) -> list[ComparedNumber]:
    """Return every number of either summary."""
    ours, theirs = dict(_numbers(embedded)), dict(_numbers(kafka))
    return [ComparedNumber(name, ours.get(name), theirs.get(name)) for name in {**ours, **theirs}]


def _numbers(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in summary.items():
        if name == "jobs":
            for row in value:
                yield f"jobs {row['action']} {row['method']} {row['outcome']}", row["jobs"]
        elif name == "left":
            for row in value:
                yield f"left {row['reason']}", row["macs"]
        elif isinstance(value, Mapping):
            yield from ((f"{name} {key}", one) for key, one in value.items())
        else:
            yield name, value
