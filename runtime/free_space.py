"""Free space of a volume, compared with a reserve.

SQLite needs space to delete rows and to write a WAL file back. So a store stops its intake before
the volume is full: the reserve is for deletions and checkpoints.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MIB: Final = 1024 * 1024
# SQLite writes a WAL file back at 1000 pages (4 MiB). Twice that for the file and its WAL, and as
# much for the next transaction.
RESERVE_BYTES: Final = 16 * _MIB
# A small volume keeps a quarter of itself free.
_SMALL_VOLUME_PART: Final = 4


@dataclass(frozen=True, slots=True)
class SpaceReserve:
    """The volume of an existing folder, of which `reserve_bytes` stay free.

    The reserve of a small volume is a quarter of it.
    """

    folder: Path
    reserve_bytes: int = RESERVE_BYTES

    def shortage(self, wanted_bytes: int = 0) -> str | None:
        """Return the reason for which the volume has no room for these bytes; None if it has.

        A volume that is mounted read-only has no room. Free inodes do not count: an open store
        needs none. The quota of a user is not seen here; a write that meets it fails.
        """
        try:
            found = os.statvfs(self.folder)
        except OSError as error:
            return f"cannot read the volume of {self.folder}: {error.strerror}"
        if found.f_flag & os.ST_RDONLY:
            return f"the volume of {self.folder} is read-only"
        reserve = min(self.reserve_bytes, found.f_blocks * found.f_frsize // _SMALL_VOLUME_PART)
        free = found.f_bavail * found.f_frsize
        if free - reserve >= wanted_bytes:
            return None
        return (
            f"the volume of {self.folder} is full: {free} bytes are free, {reserve} of them are"
            " kept for deletions"
        )
