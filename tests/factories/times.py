"""The clock of the tests: NOW is a Tuesday noon."""

from datetime import UTC, datetime, timedelta

NOW = datetime(2026, 1, 20, 12, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def at(text: str) -> datetime:
    """`2025-12-12` or `2025-12-12T18:00` as UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
