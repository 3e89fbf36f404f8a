"""Times on the command line."""

from datetime import UTC, datetime, timedelta

import pytest

from pipeline.cli.time_arguments import parse_end, parse_time

END = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-01-30T09:30:00Z", datetime(2026, 1, 30, 9, 30, tzinfo=UTC)),
        ("2026-01-30T09:30+09:00", datetime(2026, 1, 30, 0, 30, tzinfo=UTC)),
        ("2026-01-30 09:30:00.25-05:00", datetime(2026, 1, 30, 14, 30, 0, 250000, tzinfo=UTC)),
        ("2026-01-30", datetime(2026, 1, 30, tzinfo=UTC)),
        (" 2026-01-30 ", datetime(2026, 1, 30, tzinfo=UTC)),
        ("-90m", END - timedelta(minutes=90)),
        ("-36h", END - timedelta(hours=36)),
        ("-3d", END - timedelta(days=3)),
        ("-1.5d", END - timedelta(days=1.5)),
        ("-2w", END - timedelta(weeks=2)),
        ("-0d", END),
    ],
)
def test_each_form_of_a_time_is_read(text: str, meant: datetime) -> None:
    assert parse_time(text, END) == meant


@pytest.mark.parametrize("text", ["2026-01-30T09:30:00", "2026-01-30 09:30", "20260130T0930"])
def test_time_without_a_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has no time zone: add Z, or an offset"):
        parse_time(text, END)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "3d", "-3y", "-d", "2026-02-30", "2026-13-01T00:00Z", "12:00Z"]
)
def test_text_that_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time: write 2026-01-31T09:30:00Z"):
        parse_time(text, END)


@pytest.mark.parametrize("text", ["-999999999d", "-1e9d", "0001-01-01T00:00+14:00"])
def test_time_outside_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"outside the calendar|is not a time"):
        parse_time(text, END)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("+90m", END + timedelta(minutes=90)),
        (" +4h ", END + timedelta(hours=4)),
        ("+1.5d", END + timedelta(days=1.5)),
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-01-31T13:00:00Z", datetime(2026, 1, 31, 13, tzinfo=UTC)),
    ],
)
def test_each_form_of_an_end_is_read(text: str, meant: datetime) -> None:
    assert parse_end(text, END) == meant


@pytest.mark.parametrize("text", ["2026-01-31T12:00:00Z", "2020-01-01", "-3d", "+0h"])
def test_end_that_is_not_to_come_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not in the future: write "):
        parse_end(text, END)


@pytest.mark.parametrize("text", ["tomorrow", "", "4h", "+4y"])
def test_unreadable_end_names_the_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time: write .* or \+4h from now"):
        parse_end(text, END)


def test_end_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(ValueError, match="outside the calendar"):
        parse_end("+99999999w", END)
