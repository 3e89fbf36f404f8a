"""The number of the last log entry, in a file beside the database.

The database alone cannot show that its last entries are gone: without its WAL file it is the
database of an earlier time. The mark is written after each commit, so it is never ahead of the
database that it belongs to.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

FILE: Final = "drydock.seq"
# Of one length, so that writing needs no space on the disk.
_BYTES: Final = 20


class SequenceMark:
    """The open file. Reading and writing raise nothing: without the file nothing is compared."""

    def __init__(self, data_dir: Path) -> None:
        """Open the file, created if it is missing. Raises OSError if that fails."""
        self._file = os.open(data_dir / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> int:
        """Return the number; 0 if there is none."""
        with suppress(OSError, ValueError):
            return int(os.pread(self._file, _BYTES, 0))
        return 0

    def write(self, seq: int) -> None:
        """Replace the number. It is not synced: after a power failure it may be an older one."""
        with suppress(OSError):
            os.pwrite(self._file, b"%0*d" % (_BYTES, seq), 0)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
