"""Halts that could not be sent to the service, as files that it reads before it starts a job.

An emergency stop must work although the database cannot be opened, or the service hangs. Each file
in `halts/` has one HaltSet event; the service makes it durable, then deletes the file. A crash in
between repeats the same event.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from schemas.envelope import HaltSetEvent, InvalidEvent, decode, encode

FOLDER: Final = "halts"
_UNREADABLE: Final = ".unreadable"


def leave_halt(data_dir: Path, event: HaltSetEvent) -> None:
    """Write a halt for the service; returns once it is durable. Raises OSError."""
    folder = data_dir / FOLDER
    folder.mkdir(exist_ok=True, mode=0o700)
    path = folder / f"{event.id}.json"
    new = path.with_suffix(".new")
    with new.open("wb") as file:
        file.write(encode(event))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def left_halts(data_dir: Path) -> Iterator[tuple[Path, HaltSetEvent]]:
    """Yield each halt that was left, with its file, which the caller deletes.

    A file without a halt is renamed, so that it is read once. Raises OSError.
    """
    for path in sorted((data_dir / FOLDER).glob("*.json")):
        try:
            event = decode(path.read_bytes())
        except InvalidEvent:
            event = None
        if isinstance(event, HaltSetEvent):
            yield path, event
        else:
            path.rename(path.with_suffix(_UNREADABLE))
