"""Comparison of a golden record with today's core: replay the inputs, compare every output."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Any, Final, Protocol

from tests.golden.golden_file import Golden, Output, Step
from tests.golden.renames import Renames

_SHORT: Final = 200
_MISSING: Final = object()


class Core(Protocol):
    """The core that a record is replayed on."""

    def accept(self, inputs: Sequence[bytes], now: datetime) -> list[Output]:
        """Accept one batch and return its outputs."""

    def advance(self, now: datetime) -> list[Output]:
        """Do the work that is due and return its outputs."""

    def sweep(self, now: datetime) -> list[Output]:
        """Decide for every Mac again and return the outputs."""


def replay_step(step: Step, core: Core) -> list[Output]:
    """Replay one step and return its outputs."""
    if step.do == "accept":
        return core.accept(step.inputs, step.now)
    return core.advance(step.now) if step.do == "advance" else core.sweep(step.now)


def differences(golden: Golden, core: Core, renames: Renames) -> Iterator[str]:
    """Yield each difference between the record, under today's names, and its replay."""
    for number, step in enumerate(golden.steps, 1):
        recorded = [renames.apply(output) for output in step.outputs]
        found = replay_step(step, core)
        if found != recorded:
            where = f"{golden.case}, step {number}, {step.do} at {step.now.isoformat()}"
            yield from (f"{where}: {text}" for text in _output_differences(recorded, found))


def _output_differences(recorded: Iterable[Output], found: Iterable[Output]) -> Iterator[str]:
    for number, (old, new) in enumerate(zip_longest(recorded, found), 1):
        if old == new:
            continue
        if old is None:
            yield f"output {number} is new: {_short(new)}"
        elif new is None:
            yield f"output {number} is missing: {_short(old)}"
        elif old.kind != new.kind:
            yield f"output {number} was {_short(old)} and is {_short(new)}"
        else:
            texts = list(_value_differences(json.loads(old.body), json.loads(new.body), ""))
            for text in texts or ["the bytes differ, the values do not"]:
                yield f"output {number} ({old.kind}): {text}"


def _value_differences(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            inner = f"{path}.{key}" if path else key
            yield from _value_differences(old.get(key, _MISSING), new.get(key, _MISSING), inner)
        if [*old] != [*new] and {*old} == {*new}:
            yield f"{path}: the order of the keys differs"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _value_differences(one, other, f"{path}[{index}]")
    elif old != new:
        yield f"{path} was {_text(old)} and is {_text(new)}"


def _text(value: Any) -> str:
    return "absent" if value is _MISSING else json.dumps(value)[:_SHORT]


def _short(output: Output) -> str:
    return f"{output.kind} {output.body[:_SHORT].decode(errors='replace')}"
