"""`apply` and `advance` give the decisions, jobs and bytes of `handle`, event by event."""

import pytest

from pipeline.decide.admission import reject_reason
from schemas.envelope import InvalidEvent, decode
from tests.effect_loop import ChangesLoop, EffectLoop
from tests.factories.sites import KEYS
from tests.golden import golden_file


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case.startswith("demo-") else ())
        for case in golden_file.wanted_cases()
    ],
)
@pytest.mark.parametrize("limit", [1, 1 << 30])
def test_golden_inputs_give_the_log_of_the_effect_loop(case: str, limit: int) -> None:
    old, new = EffectLoop(), ChangesLoop(limit)
    seen: set[tuple[str, str]] = set()
    for step in golden_file.read(case)[1].steps:
        for raw in step.inputs:
            try:
                event = decode(raw)
            except InvalidEvent:
                continue
            if (event.source, event.id) in seen:
                continue
            if reject_reason(event, jobs=KEYS.jobs, approvals=KEYS.approvals) is not None:
                continue
            seen.add((event.source, event.id))
            old.accept(event, step.now)
            new.accept(event, step.now)
            new.advance(step.now) if limit == 1 else None
            if limit == 1:
                old.advance(step.now)
            assert new.log == old.log
        if step.do == "advance":
            old.advance(step.now)
            new.advance(step.now)
        if step.do == "sweep":
            old.sweep(step.now)
            new.sweep(step.now)
        assert new.log == old.log
        old.log.clear()
        new.log.clear()
