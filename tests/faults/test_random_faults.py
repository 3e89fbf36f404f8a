"""Random faults on the embedded form, by seed: a short set; `make fault-seeds` runs more."""

from pathlib import Path

import pytest

from tests.faults.random.embedded_faults import SHARES
from tests.faults.random.embedded_seed import run_seed, schedule_of
from tests.faults.random.schedule import Strike

MACS = 40


@pytest.mark.parametrize("seed", range(1, 11))
def test_nothing_is_missing_doubled_or_untrue(seed: int, tmp_path: Path) -> None:
    strikes = schedule_of(seed)
    findings = run_seed(tmp_path, seed, strikes, MACS)
    assert findings.jobs > 0
    assert findings.faults == (), "\n".join(map(str, strikes))


# Each found a bug: a restored backup without the check-ins of a new enrollment (70, 150); clocks
# that are wrong by two days: a declaration with another time (24, 25), an end without looks (47,
# 48, and of an order in the queue: 62, 192), an endless series of jobs (132).
@pytest.mark.slow
@pytest.mark.parametrize("seed", [24, 25, 47, 48, 62, 70, 132, 150, 192])
def test_seed_that_found_a_bug(seed: int, tmp_path: Path) -> None:
    assert run_seed(tmp_path, seed, schedule_of(seed)).faults == ()


def test_schedule_follows_from_its_seed() -> None:
    assert schedule_of(7) == schedule_of(7) != schedule_of(8)


def test_fifty_seeds_have_every_fault() -> None:
    drawn = {strike.fault for seed in range(1, 51) for strike in schedule_of(seed)}
    assert drawn == SHARES.keys()


def test_run_without_faults_needs_no_repeat(tmp_path: Path) -> None:
    findings = run_seed(tmp_path, 1, (), MACS)
    assert findings.faults == ()
    assert findings.once == findings.jobs > MACS


@pytest.mark.parametrize("fault", SHARES)
def test_each_fault_alone_is_repaired(fault: str, tmp_path: Path) -> None:
    findings = run_seed(tmp_path, 1, [Strike(9.0, fault, 1)], 20)
    assert findings.faults == ()
