"""One seed of the embedded form: its schedule, its run and the findings of the checker."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from tests.chaos import world
from tests.chaos.checker import Findings
from tests.faults.random.embedded import LASTS, EmbeddedRun
from tests.faults.random.embedded_faults import SHARES, EmbeddedFaults
from tests.faults.random.schedule import Strike, draw

MACS: Final = 100
_STRIKES: Final = 12
_HOUR: Final = timedelta(hours=1)
# The first backup is made then, before any fault.
_BEGINS: Final = timedelta(minutes=30)


def schedule_of(seed: int) -> list[Strike]:
    """Return the schedule of a seed; the times are hours of the Macs' clock."""
    return draw(seed, SHARES, _STRIKES, LASTS / _HOUR)


def run_seed(folder: Path, seed: int, strikes: Sequence[Strike], macs: int = MACS) -> Findings:
    """Run a schedule with the Macs and the messages of a seed, and return the findings."""
    run = EmbeddedRun(folder, seed, macs)
    faults = EmbeddedFaults(run)
    run.publish(world.FIRST)
    faults.live(run.plan.start + _BEGINS)
    faults.back_up()
    plan: list[tuple[float, Callable[[], None]]] = [
        (0.1 * (LASTS / _HOUR), partial(run.publish, world.SECOND)),
        (0.5 * (LASTS / _HOUR), partial(run.publish, world.THIRD)),
        *((strike.at, partial(faults.strike, strike)) for strike in strikes),
    ]
    for at, act in sorted(plan, key=lambda item: item[0]):
        faults.live(run.plan.start + at * _HOUR)
        act()
    faults.live(run.plan.start + LASTS)
    faults.end()
    run.settle()
    return run.judge()
