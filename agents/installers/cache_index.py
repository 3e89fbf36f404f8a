"""The site cache's own records: files that are complete, and the jobs that need a file.

The file system has the bytes; these records have what it cannot tell. A record that is lost costs a
download, never a wrong file: the SHA-256 is in the name of each file and is compared.
"""

from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from agents.installers.cache_key import CacheKey, parse_key
from runtime import sqlite

FILE: Final = "cache.sqlite"
_SCHEMA: Final = sqlite.Schema(
    """
    CREATE TABLE need (
        job_id TEXT PRIMARY KEY, build TEXT NOT NULL, until_us INTEGER NOT NULL,
        since INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE use (name TEXT PRIMARY KEY, used INTEGER NOT NULL) WITHOUT ROWID
    """,
    version=1,
)


@dataclass(frozen=True, slots=True)
class Need:
    """An open job needs the file of a key, until a time in microseconds since 1970."""

    job_id: str
    key: CacheKey
    until_us: int


class CacheIndex:
    """The records, in `folder`, which this process locks. One thread at a time."""

    def __init__(self, db: sqlite.Database) -> None:
        self._db = db

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the records of a folder; damaged ones are renamed and begun again.

        Raises runtime.sqlite.InUseError if another process has the folder, OpenError or OSError if
        the disk fails.
        """
        path, lock = folder / FILE, folder / "lock"
        try:
            return cls(sqlite.open_database(path, _SCHEMA, lock=lock, check=True))
        except (sqlite.DamagedError, sqlite.VersionError):
            sqlite.quarantine(path, keep=1)
            return cls(sqlite.open_database(path, _SCHEMA, lock=lock))

    def close(self) -> None:
        """Close the file and unlock the folder."""
        self._db.close()

    def need(self, job_id: str, key: CacheKey, until: datetime) -> bool:
        """Record that a job needs a file until a time. Return True if that is new."""
        until_us = _microseconds(until)
        with closing(
            self._db.execute("SELECT build, until_us FROM need WHERE job_id = ?", (job_id,))
        ) as rows:
            known = rows.fetchone()
        if known == (str(key), until_us):
            return False
        with self._db.transaction("need"):
            self._db.execute(
                "INSERT INTO need VALUES (?, ?, ?, (SELECT coalesce(max(since), 0) + 1 FROM need))"
                " ON CONFLICT (job_id) DO UPDATE SET build = excluded.build,"
                " until_us = excluded.until_us",
                (job_id, str(key), until_us),
            )
        return known is None or known[0] != str(key)

    def needs(self, now: datetime) -> tuple[Need, ...]:
        """Return the needs that have not ended, in the order in which they came."""
        with closing(
            self._db.execute(
                "SELECT job_id, build, until_us FROM need WHERE until_us > ? ORDER BY since",
                (_microseconds(now),),
            )
        ) as rows:
            return tuple(Need(job, parse_key(build), until) for job, build, until in rows)

    def prune(self, now: datetime) -> None:
        """Delete the needs that have ended."""
        with self._db.transaction("prune"):
            self._db.execute("DELETE FROM need WHERE until_us <= ?", (_microseconds(now),))

    def touch(self, name: str) -> None:
        """Record that the file of this name is the one used last."""
        with self._db.transaction("touch"):
            self._db.execute(
                "INSERT INTO use VALUES (?, (SELECT coalesce(max(used), 0) + 1 FROM use))"
                " ON CONFLICT (name) DO UPDATE SET used = excluded.used",
                (name,),
            )

    def order_of_use(self) -> dict[str, int]:
        """Return a number for each used file: the lower, the longer it was not used."""
        with closing(self._db.execute("SELECT name, used FROM use")) as rows:
            return dict(rows.fetchall())

    def forget(self, name: str) -> None:
        """Delete the record of a file."""
        with self._db.transaction("forget"):
            self._db.execute("DELETE FROM use WHERE name = ?", (name,))


def _microseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000)
