"""The first difference of two JSON values, as a path and both values."""

import json
from typing import Any, Final, NamedTuple

ABSENT: Final = "(absent)"


class FieldDifference(NamedTuple):
    """A path in two JSON values, such as `device.facts.build`, and the value on each side.

    A value that one side does not have is ABSENT. The path of the whole value is `$`.
    """

    path: str
    left: Any
    right: Any


def first_difference(left: Any, right: Any, path: str = "") -> FieldDifference | None:
    """Return the first difference of two JSON values; None if they are equal.

    `path` is the path of both values in a larger one. The keys of `left` are compared in their
    order, then keys that only `right` has. `1`, `1.0` and `true` differ; the order of an object's
    keys does not matter.
    """
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(key for key in right if key not in left)]:
            found = first_difference(
                left.get(key, ABSENT), right.get(key, ABSENT), _child_path(path, key)
            )
            if found is not None:
                return found
        return None
    if isinstance(left, list) and isinstance(right, list):
        for index in range(max(len(left), len(right))):
            one, other = (side[index] if index < len(side) else ABSENT for side in (left, right))
            found = first_difference(one, other, f"{path}[{index}]")
            if found is not None:
                return found
        return None
    if type(left) is type(right) and left == right:
        return None
    return FieldDifference(path or "$", left, right)


def first_alteration(written: Any, read: Any, path: str = "") -> FieldDifference | None:
    """Return the first part of `written` that `read` lost or changed; None if there is none.

    `read` is the JSON of the model that was read from `written`. Keys that only `read` has are not
    alterations: an older version wrote the row before these fields existed.
    """
    if isinstance(written, dict) and isinstance(read, dict):
        parts = [
            (_child_path(path, key), one, read.get(key, ABSENT)) for key, one in written.items()
        ]
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = zip(written, read, strict=True)
        parts = [(f"{path}[{index}]", one, other) for index, (one, other) in enumerate(pairs)]
    else:
        return first_difference(written, read, path)
    for location, one, other in parts:
        found = first_alteration(one, other, location)
        if found is not None:
            return found
    return None


def shown(value: Any) -> str:
    """Return a value as one line of text: text unchanged, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _child_path(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
