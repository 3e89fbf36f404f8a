"""The schedule of strikes has the requested number of kills and depends on the seed alone."""

from collections import Counter

from tests.chaos.killer import How, schedule
from tests.chaos.programs import Kind


def test_schedule_has_the_requested_kills_within_the_duration() -> None:
    strikes = schedule(1, kills=200, lasts_s=600.0)
    counts = Counter((strike.how, strike.kind) for strike in strikes)
    assert sum(count for (how, _), count in counts.items() if how is How.KILL) == 200
    assert all(counts[How.KILL, kind] >= 40 for kind in Kind)
    assert {how for how, _ in counts} == set(How)
    assert all(0 <= strike.at_s <= 600 for strike in strikes)
    assert strikes == sorted(strikes)


def test_equal_seeds_give_equal_schedules() -> None:
    assert schedule(7, 50, 60.0) == schedule(7, 50, 60.0)
    assert schedule(7, 50, 60.0) != schedule(8, 50, 60.0)


def test_gateway_is_never_wiped() -> None:
    # Its spool can hold the only copy of an accepted input.
    wiped = [strike for strike in schedule(1, 400, 60.0) if strike.wiped]
    assert {strike.kind for strike in wiped} == {Kind.WORKER, Kind.AGENT}
