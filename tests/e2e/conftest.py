"""A folder for tests that commit thousands of times."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """Return a folder, in memory if possible.

    Only the process dies here, never the machine: thousands of commits need no real disk.
    """
    memory = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)
