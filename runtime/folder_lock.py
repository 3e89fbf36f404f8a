"""Lock of a data directory: two programs with one directory would overwrite each other's files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from runtime.sqlite import acquire_lock

_FILE: Final = "lock"


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create the folder and lock it for this process during the `with` block.

    Raises runtime.sqlite.InUseError if another process has the lock, OSError if the folder cannot
    be used.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = acquire_lock(folder / _FILE)
    try:
        yield
    finally:
        os.close(handle)
