"""Durations as text for people."""

from datetime import timedelta


def text_of(duration: timedelta) -> str:
    """Return a duration as `7 days`, `1 day 6 hours` or `90 minutes`; `no time` for zero."""
    seconds = int(duration.total_seconds())
    parts = []
    for name, size in (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {name}" + ("s" if count > 1 else ""))
    return " ".join(parts) or "no time"
