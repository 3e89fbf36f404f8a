"""The schedule of strikes: as many as asked for, the same for a seed."""

from collections import Counter

from tests.chaos.killer import How, schedule
from tests.chaos.programs import Kind


def test_strikes_are_as_many_as_asked_for_and_come_in_time() -> None:
    strikes = schedule(1, kills=200, lasts_s=600.0)
    counts = Counter((strike.how, strike.kind) for strike in strikes)
    assert sum(count for (how, _), count in counts.items() if how is How.KILL) == 200
    assert all(counts[How.KILL, kind] >= 40 for kind in Kind)
    assert {how for how, _ in counts} == set(How)
    assert all(0 <= strike.at_s <= 600 for strike in strikes)
    assert strikes == sorted(strikes)


def test_a_seed_gives_the_same_strikes_again() -> None:
    assert schedule(7, 50, 60.0) == schedule(7, 50, 60.0)
    assert schedule(7, 50, 60.0) != schedule(8, 50, 60.0)


def test_a_gateway_never_loses_its_disk() -> None:
    # What it answered 200 for may be nowhere else.
    wiped = [strike for strike in schedule(1, 400, 60.0) if strike.wiped]
    assert {strike.kind for strike in wiped} == {Kind.WORKER, Kind.AGENT}
