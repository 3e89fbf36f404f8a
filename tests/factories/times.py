"""Times for tests: NOW is a Tuesday, 12:00 UTC."""

from datetime import UTC, datetime, timedelta

NOW = datetime(2026, 1, 20, 12, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def at(text: str) -> datetime:
    """Return `2025-12-12` or `2025-12-12T18:00` as a UTC time."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
