"""Maintenance windows: state and next change, through changes of the clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decide.windows import closes_at, opens_at, window_state
from pipeline.policy.model import DAYS, Day, Window

_MINUTE = timedelta(minutes=1)


def _window(text: str) -> Window:
    """Parse `fri 22:00-04:00`, `mon,tue 09:00-17:00`, or `22:00-04:00` for every day."""
    *days, hours = text.split()
    start, end = hours.split("-")
    chosen = tuple(day for day in DAYS if not days or day in days[0].split(","))
    return Window.model_validate({"days": chosen, "from": start, "to": end})


def _at(text: str, zone: ZoneInfo) -> datetime:
    """Return the UTC time of a text with an offset, or of local time in the zone.

    `#1` at the end means the second of two equal local times.
    """
    parsed = datetime.fromisoformat(text.removesuffix("#1"))
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=zone, fold=int(text.endswith("#1")))
    return parsed.astimezone(UTC)


LONDON, TOKYO, NEW_YORK = "Europe/London", "Asia/Tokyo", "America/New_York"
LORD_HOWE, HAVANA, APIA = "Australia/Lord_Howe", "America/Havana", "Pacific/Apia"

# 2026 begins on a Thursday. London: forward 29 March 01:00, back 25 October 02:00.
CASES = [
    pytest.param(["09:00-17:00"], LONDON, "2026-06-01T08:59:59", "2026-06-01T09:00", id="before"),
    pytest.param(["09:00-17:00"], LONDON, "2026-06-01T09:00", None, id="at-its-first-moment"),
    pytest.param(["09:00-17:00"], LONDON, "2026-06-01T16:59:59.999999", None, id="its-last"),
    pytest.param(["09:00-17:00"], LONDON, "2026-06-01T17:00", "2026-06-02T09:00", id="just-closed"),
    pytest.param(["fri 22:00-04:00"], TOKYO, "2026-01-02T21:00", "2026-01-02T22:00", id="evening"),
    pytest.param(["fri 22:00-04:00"], TOKYO, "2026-01-03T03:59", None, id="after-midnight"),
    pytest.param(
        ["fri 22:00-04:00"], TOKYO, "2026-01-02T03:00", "2026-01-02T22:00", id="not-the-day-before"
    ),
    pytest.param(["sun 22:00-04:00"], TOKYO, "2026-01-05T01:00", None, id="over-the-weeks-end"),
    pytest.param(
        ["sun 00:00-00:00"], TOKYO, "2026-01-03T12:00", "2026-01-04T00:00", id="whole-day"
    ),
    pytest.param(["sun 00:00-00:00"], TOKYO, "2026-01-04T23:59", None, id="whole-day-to-its-end"),
    pytest.param(["mon 18:00-18:00"], TOKYO, "2026-01-06T17:59", None, id="day-from-its-own-hour"),
    pytest.param(
        ["mon 09:00-10:00", "wed 09:00-10:00"],
        TOKYO,
        "2026-01-05T10:00",
        "2026-01-07T09:00",
        id="the-nearest-of-two",
    ),
    pytest.param(
        ["sun 01:30-03:00"], LONDON, "2026-03-29T00:59", "2026-03-29T02:00", id="gap-start"
    ),
    pytest.param(["sun 01:00-02:00"], LONDON, "2026-03-28T12:00", "2026-04-05T01:00", id="gap-all"),
    pytest.param(["sat 22:00-06:00"], LONDON, "2026-03-29T05:59", None, id="night-over-the-gap"),
    pytest.param(["sun 01:00-01:30"], LONDON, "2026-10-25T01:45", "2026-10-25T01:00#1", id="fold"),
    pytest.param(
        ["sun 01:00-01:30"], LONDON, "2026-10-25T01:30#1", "2026-11-01T01:00", id="fold-2"
    ),
    pytest.param(
        ["sun 02:00-06:00"], NEW_YORK, "2026-03-08T01:59", "2026-03-08T03:00", id="new-york"
    ),
    pytest.param(
        ["sun 02:00-06:00"], LORD_HOWE, "2026-10-04T01:59", "2026-10-04T02:30", id="half-hour"
    ),
    pytest.param(
        ["sun 00:00-00:30"], HAVANA, "2026-03-07T23:59", "2026-03-15T00:00", id="gap-at-midnight"
    ),
    pytest.param(
        ["fri 00:00-00:00"], APIA, "2011-12-29T23:00", "2012-01-06T00:00", id="no-such-friday"
    ),
]


@pytest.mark.parametrize(("windows", "zone", "now", "opens"), CASES)
def test_opens_at_is_now_or_the_next_opening(
    windows: list[str], zone: str, now: str, opens: str | None
) -> None:
    clock = ZoneInfo(zone)
    parsed = tuple(_window(text) for text in windows)
    moment = _at(now, clock)
    found = opens_at(parsed, clock, moment)
    assert found == (moment if opens is None else _at(opens, clock))
    assert window_state(parsed, clock, moment).is_open is (opens is None)


CLOSES = [
    pytest.param(["fri 22:00-04:00"], "2026-01-02T23:00", "2026-01-03T04:00", id="past-midnight"),
    pytest.param(
        ["22:00-00:00", "00:00-02:00"], "2026-01-02T23:00", "2026-01-03T02:00", id="chain"
    ),
    pytest.param(
        ["09:00-12:00", "11:00-14:00"], "2026-01-02T09:30", "2026-01-02T14:00", id="overlap"
    ),
    pytest.param(
        ["sun 00:00-03:00"], "2026-10-25T00:30", "2026-10-25T03:00", id="4-hours-over-fold"
    ),
    pytest.param(["sat 22:00-01:30"], "2026-03-28T23:00", "2026-03-29T02:00", id="ends-in-the-gap"),
    pytest.param(["00:00-00:00"], "2026-01-02T23:00", None, id="never-closes"),
    pytest.param(["09:00-12:00"], "2026-01-02T13:00", None, id="is-closed"),
]


@pytest.mark.parametrize(("windows", "now", "closes"), CLOSES)
def test_closes_at_is_the_end_of_the_open_windows(
    windows: list[str], now: str, closes: str | None
) -> None:
    zone = ZoneInfo(LONDON)
    found = closes_at(tuple(_window(text) for text in windows), zone, _at(now, zone))
    assert found == (None if closes is None else _at(closes, zone))


def test_site_without_windows_never_opens() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    assert opens_at((), ZoneInfo(LONDON), now) is None
    assert window_state((), ZoneInfo(LONDON), now) == (False, None)


def test_the_result_does_not_depend_on_the_zone_of_now() -> None:
    windows, zone = (_window("fri 22:00-04:00"),), ZoneInfo(LONDON)
    now = datetime(2026, 1, 2, 9, tzinfo=UTC)
    assert opens_at(windows, zone, now) == opens_at(windows, zone, now.astimezone(ZoneInfo(TOKYO)))


def _is_open_at_local_time(windows: tuple[Window, ...], zone: ZoneInfo, at: datetime) -> bool:
    """Return the state by the definition of a window alone, without the code under test."""
    wall = at.astimezone(zone)
    clock = f"{wall:%H:%M}"
    today, yesterday = DAYS[wall.weekday()], DAYS[wall.weekday() - 1]
    return any(
        (window.start < window.end and today in window.days and window.start <= clock < window.end)
        or (window.start >= window.end and today in window.days and clock >= window.start)
        or (window.start >= window.end and yesterday in window.days and clock < window.end)
        for window in windows
    )


ZONES = st.sampled_from(
    sorted(zone for zone in available_timezones() if not zone.startswith("SystemV"))
)
CLOCKS = st.times(min_value=datetime.min.time()).map(lambda time: f"{time:%H:%M}")
WINDOW = st.builds(
    lambda days, start, end: Window.model_validate({"days": days, "from": start, "to": end}),
    st.lists(st.sampled_from(DAYS), min_size=1, max_size=7).map(tuple),
    CLOCKS,
    CLOCKS,
)
WINDOWS = st.lists(WINDOW, min_size=1, max_size=3).map(tuple)
MOMENTS = st.datetimes(
    min_value=datetime(2010, 1, 1),  # noqa: DTZ001 - Hypothesis wants naive bounds
    max_value=datetime(2036, 12, 31),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@st.composite
def near_a_clock_change(draw: st.DrawFn) -> tuple[ZoneInfo, datetime]:
    """Draw a zone and a time within three days before one of its clock changes, if it has any."""
    zone = ZoneInfo(draw(ZONES))
    year = draw(st.integers(min_value=2010, max_value=2036))
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(366)]
    offsets = [day.astimezone(zone).utcoffset() for day in days]
    changes = [
        day for day, one, other in zip(days, offsets, offsets[1:], strict=False) if one != other
    ]
    moment = draw(st.sampled_from(changes)) if changes else draw(MOMENTS)
    return zone, moment + timedelta(minutes=draw(st.integers(min_value=-4320, max_value=1500)))


CASES_NEAR_CLOCK_CHANGES = st.tuples(ZONES.map(ZoneInfo), MOMENTS) | near_a_clock_change()


@given(WINDOWS, CASES_NEAR_CLOCK_CHANGES)
def test_state_is_constant_until_the_next_change(
    windows: tuple[Window, ...], case: tuple[ZoneInfo, datetime]
) -> None:
    zone, now = case
    is_open, changes_at = window_state(windows, zone, now)
    assert is_open == _is_open_at_local_time(windows, zone, now)
    until = changes_at or now + timedelta(days=8)
    assert until > now
    minute = now
    while minute < until:
        assert _is_open_at_local_time(windows, zone, minute) == is_open
        minute += _MINUTE
    assert _is_open_at_local_time(windows, zone, until - timedelta(microseconds=1)) == is_open
    if changes_at is not None:
        assert _is_open_at_local_time(windows, zone, changes_at) != is_open


@given(WINDOWS, CASES_NEAR_CLOCK_CHANGES)
def test_opens_at_and_closes_at_agree_with_the_state(
    windows: tuple[Window, ...], case: tuple[ZoneInfo, datetime]
) -> None:
    zone, now = case
    opens, closes = opens_at(windows, zone, now), closes_at(windows, zone, now)
    assert opens is not None
    assert _is_open_at_local_time(windows, zone, opens)
    if closes is not None:
        assert opens == now < closes


def test_every_day_name_is_known() -> None:
    monday = datetime(2026, 1, 5, 12, tzinfo=UTC)
    days: tuple[Day, ...] = DAYS
    for offset, day in enumerate(days):
        window = (_window(f"{day} 00:00-00:00"),)
        assert window_state(window, ZoneInfo("UTC"), monday + timedelta(days=offset)).is_open
