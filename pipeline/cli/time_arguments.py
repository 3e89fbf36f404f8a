"""Times on the command line: absolute, a date, or relative to the end of a log."""

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

_RELATIVE: Final = re.compile(r"-(\d+(?:\.\d+)?)([smhdw])")
_FROM_NOW: Final = re.compile(r"\+(\d+(?:\.\d+)?)([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
TIME_FORMATS: Final = (
    "2026-01-31T09:30:00Z, 2026-01-31 (its midnight UTC), or -3d before the log's end"
)
END_FORMATS: Final = "2026-01-31T09:30:00Z, 2026-01-31 (its midnight UTC), or +4h from now"


def parse_end(text: str, now: datetime) -> datetime:
    """Return the future time that `text` means, in UTC.

    `text` is ISO 8601 with a zone, a date (its midnight), or `+90m`, `+4h`, `+2d` from `now`, which
    is in UTC. Raises ValueError with the reason in one line, also for a time that is not after
    `now`.
    """
    match = _FROM_NOW.fullmatch(text.strip())
    try:
        if match is not None:
            end = now + timedelta(**{_UNITS[match[2]]: float(match[1])})
        elif _RELATIVE.fullmatch(text.strip()):
            end = now
        else:
            end = parse_time(text, now)
    except OverflowError:
        raise ValueError(f"{text.strip()!r} is outside the calendar") from None
    except ValueError as error:
        if "is not a time" in str(error):
            raise ValueError(f"{text.strip()!r} is not a time: write {END_FORMATS}") from None
        raise
    if end <= now:
        raise ValueError(f"{text.strip()!r} is not in the future: write {END_FORMATS}")
    return end


def parse_time(text: str, end: datetime) -> datetime:
    """Return the time that `text` means, in UTC.

    `text` is ISO 8601 with a zone, a date (its midnight), or `-30s`, `-90m`, `-36h`, `-3d`, `-2w`
    before `end`, which is in UTC. Raises ValueError with the reason in one line.
    """
    given = text.strip()
    match = _RELATIVE.fullmatch(given)
    try:
        if match is not None:
            return end - timedelta(**{_UNITS[match[2]]: float(match[1])})
        if re.fullmatch(r"\d{4}-\d\d-\d\d", given):
            day = date.fromisoformat(given)
            return datetime(day.year, day.month, day.day, tzinfo=UTC)
        parsed = datetime.fromisoformat(given)
        if parsed.tzinfo is None:
            raise ValueError(f"{given!r} has no time zone: add Z, or an offset such as +09:00")
        return parsed.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{given!r} is outside the calendar") from None
    except ValueError as error:
        if "time zone" in str(error):
            raise
        raise ValueError(f"{given!r} is not a time: write {TIME_FORMATS}") from None
