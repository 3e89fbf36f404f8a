"""The log line and the count of a damaged file."""

from collections.abc import Callable
from pathlib import Path

from runtime.logs import Log
from schemas import logkeys as key

OnDamage = Callable[[Path, Path, Exception], None]
"""Is called with the path of a damaged file, the path that it has now, and the error."""


def damage_reporter(log: Log, count: Callable[[], None]) -> OnDamage:
    """Return a function that logs a damaged file, which was renamed, and calls `count`."""

    def on_damage(path: Path, moved: Path, error: Exception) -> None:
        count()
        log.error(
            "damaged file renamed and replaced: check the disk, then delete the renamed file",
            **{key.PATH: str(path), key.RENAMED_TO: str(moved), key.DETAIL: str(error)},
        )

    return on_damage
