"""SQLite files of every store: locked, checked, created and opened here, and nowhere else.

Opening a file, in this order; the first failure closes and unlocks it again:

| step | failure |
| --- | --- |
| take the lock file, if the store has one | InUseError, OSError |
| open the file, with SQLite's own lock if asked for | OpenError, step `open` |
| compare its version with the store's | OpenError, step `read`; VersionError |
| set WAL and the durability; create the tables in a new file | OpenError, step `use` |
| check structure and indexes, if asked for | OpenError, step `use` |

An OpenError is a DamagedError if the reason is the content of the file (`is_damage`), not the disk
or another process. A file of another version is not changed.

What a store does about damage, found here or later, depends on where its content is:

| store | content | after damage |
| --- | --- | --- |
| rows of a worker, journal of an agent | in Kafka too | `quarantine`, then read from Kafka again |
| spool of a gateway | only here | readable rows are copied to a new file, then `quarantine` |
| data directory of `drydock run` | only here | refused: a person restores a backup |
"""

import fcntl
import os
import sqlite3
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal

Hook = Callable[[str], None]
"""Is called with `<write name>:before` and `<write name>:after` around each commit, for tests."""

Step = Literal["open", "read", "use"]

# Primary codes of errors that have another reason than the content: the disk, another process, a
# wrong call.
_NO_DAMAGE: Final = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_MISUSE,
    }
)
_SUFFIXES: Final = ("", "-wal", "-shm")
# Python's own default.
_BUSY_TIMEOUT_S: Final = 5.0


class Durability(Enum):
    """The commits that a power failure may lose, as a value of `PRAGMA synchronous` with WAL."""

    DURABLE = "FULL"
    """None: a commit returns when it is on disk."""
    CACHE = "NORMAL"
    """The last ones, none in part; for rows that are stored elsewhere too."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of a store, and the number of their version.

    `script` creates them in a new file; it has no `;` inside a statement. Version 0 is for a store
    without versions: its script runs at each opening and must allow for existing tables.
    `page_bytes` is None for SQLite's own page size.
    """

    script: str
    version: int
    page_bytes: int | None = None


class OpenError(sqlite3.OperationalError):
    """SQLite cannot open, read or use the file; `reason` is its message."""

    def __init__(self, step: Step, path: Path, reason: object) -> None:
        super().__init__(f"cannot {step} {path}: {reason}")
        self.step: Step = step
        self.reason = str(reason)


class VersionError(Exception):
    """The file is of another version than the store: `found`, higher or lower."""

    def __init__(self, path: Path, found: int) -> None:
        super().__init__(f"{path} has version {found}")
        self.found = found


class DamagedError(OpenError):
    """The content of the file is damaged: SQLite cannot read it, or a row is not as written."""


class InUseError(Exception):
    """Another process has locked the lock file."""


class Database(sqlite3.Connection):
    """An open file: SQLite's connection without implicit transactions, with lock and hook.

    Any thread may use it, one thread at a time; another one only in `between_transactions`.
    """

    _on_durable_write: Hook | None = None
    _lock: int | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_transaction = threading.RLock()

    def attach(self, lock: int | None, on_durable_write: Hook | None) -> None:
        """Release this lock file when the database is closed; call this hook around commits."""
        self._lock, self._on_durable_write = lock, on_durable_write

    def execute(self, *args: Any) -> sqlite3.Cursor:
        """Carry out a statement, as sqlite3.Connection does.

        Raises DatabaseError, as for other damage, where Python 3.11 raises UnicodeDecodeError: the
        message of SQLite has a name of a damaged schema.
        """
        try:
            return super().execute(*args)
        except UnicodeDecodeError as error:
            raise sqlite3.DatabaseError(f"a text cannot be decoded: {error}") from error

    def close(self) -> None:
        """Close the file, then release the lock; an open transaction is lost.

        A second call does nothing.
        """
        super().close()
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    @contextmanager
    def transaction(self, write_name: str) -> Iterator[None]:
        """Commit the writes of the block as one; roll them back if the block raises.

        `write_name` names the commit for the hook. Raises sqlite3.Error if the disk fails, and any
        exception of the block. An exception of the hook after the commit rolls back nothing.
        """
        with self._in_transaction:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._call_hook(f"{write_name}:before")
                self.execute("COMMIT")
            except BaseException:
                if self.in_transaction:
                    self.execute("ROLLBACK")
                raise
        self._call_hook(f"{write_name}:after")

    @contextmanager
    def between_transactions(self) -> Iterator[None]:
        """Keep other threads from a transaction while the block reads."""
        with self._in_transaction:
            yield

    def _call_hook(self, moment: str) -> None:
        if self._on_durable_write is not None:
            self._on_durable_write(moment)


def open_database(
    path: Path,
    schema: Schema,
    durability: Durability = Durability.DURABLE,
    *,
    lock: Path | None = None,
    exclusive: bool = False,
    busy_timeout_s: float = _BUSY_TIMEOUT_S,
    check: bool = False,
    on_durable_write: Hook | None = None,
) -> Database:
    """Return the store's file at `path`, created if it is missing; its folder must exist.

    With the path `:memory:` nothing is stored. `lock` is a file that is locked for one process,
    until the database is closed or the process ends, even if it is killed. With `exclusive` SQLite
    itself keeps all others out, readers too. Another opener is waited for `busy_timeout_s`. `check`
    reads the whole file and compares its indexes with its tables.

    Raises InUseError, OpenError (DamagedError if the content is the reason), VersionError, or
    OSError for the lock file. The next caller finds the file and the lock as they were.
    """
    with ExitStack() as undo:
        handle = None
        if lock is not None:
            handle = acquire_lock(lock)
            undo.callback(os.close, handle)
        db = _connect(path, path, busy_timeout_s)
        undo.callback(db.close)
        _prepare(db, path, schema, durability, exclusive=exclusive)
        if check:
            _check_structure(db, path)
        undo.pop_all()
    db.attach(handle, on_durable_write)
    return db


def open_read_only(path: Path, version: int) -> Database:
    """Return a connection that can only read an existing file of this version.

    An empty database has version 0 and is accepted. Raises OpenError or VersionError.
    """
    # SQLite cannot make a -wal file on a read-only disk. A copy there never changes: `immutable`
    # lets SQLite read it without one.
    changing = path.with_name(path.name + "-wal").exists() or _may_write(path.parent)
    uri = f"{path.absolute().as_uri()}?mode=ro{'' if changing else '&immutable=1'}"
    db = _connect(path, uri)
    try:
        _check_version(db, path, version)
    except BaseException:
        db.close()
        raise
    return db


def acquire_lock(path: Path) -> int:
    """Return the descriptor of the file at `path`, locked; the file is made if it is missing.

    Raises InUseError if another process has the lock, OSError if the file cannot be opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise InUseError(f"another process has {path}") from error
    except BaseException:
        os.close(handle)
        raise
    return handle


def copy_to(db: Database, path: Path) -> None:
    """Write a copy of an open database, as one of its readers sees it, to a new file.

    Writers of the database go on meanwhile. The copy is checked: raises DamagedError if it is
    damaged, OpenError if the disk fails.
    """
    with _step("use", path), closing(_connect(path, path)) as copy:
        db.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # the copy is one file, without a WAL
        _check_structure(copy, path)


def check_file(path: Path) -> None:
    """Raise DamagedError if an existing file is damaged, OpenError if SQLite cannot read it."""
    with closing(_connect(path, f"{path.absolute().as_uri()}?mode=ro&immutable=1")) as db:
        _check_structure(db, path)


def delete_files(path: Path) -> None:
    """Delete a database file and its WAL files, as far as they exist."""
    for suffix in _SUFFIXES:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def is_damage(error: BaseException) -> bool:
    """Return True if the content of the file is the reason of an error of SQLite.

    False for errors of the disk (full, read-only, unreadable), of locks and of wrong calls, and for
    exceptions that are not SQLite's. Constraints count as damage: the stores keep them, so a
    damaged index is the likely reason.
    """
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    if isinstance(error, OpenError):
        return isinstance(error, DamagedError)
    if isinstance(error, sqlite3.ProgrammingError | sqlite3.NotSupportedError):
        return False
    # An error without a code is Python's: it cannot decode a text. A WAL that is shorter than its
    # index states was cut.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF not in _NO_DAMAGE


def quarantine(path: Path, *, keep: int | None = None) -> Path:
    """Rename a damaged database and its WAL files; return the new path of the database.

    It is `<name>.damaged-<UTC time>`, in the same folder; SQLite can open it there. The caller has
    closed the file. Of the renamed files of this name only the newest `keep` are kept, all for
    None. Raises OSError if the folder cannot be written.
    """
    now = datetime.now(UTC)
    moved = path.with_name(f"{path.name}.damaged-{now:%Y%m%dT%H%M%S.%fZ}")
    for suffix in _SUFFIXES:
        one = path.with_name(path.name + suffix)
        if one.exists():
            one.replace(moved.with_name(moved.name + suffix))
    if keep is not None:
        old = sorted(path.parent.glob(f"{path.name}.damaged-*Z"))
        for each in old[: len(old) - keep]:
            delete_files(each)
    return moved


def checksum(*parts: bytes) -> int:
    """Return the CRC-32 of the parts, one after the other, to be stored with a row."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise the errors of SQLite in the block as OpenError, or DamagedError, of the step `read`."""
    with _step("read", path):
        yield


@contextmanager
def _step(step: Step, path: Path) -> Iterator[None]:
    try:
        yield
    except OpenError:
        raise
    except sqlite3.Error as error:
        kind = DamagedError if is_damage(error) else OpenError
        raise kind(step, path, error) from error


def _connect(path: Path, address: Path | str, busy_timeout_s: float = _BUSY_TIMEOUT_S) -> Database:
    with _step("open", path):
        return sqlite3.connect(
            address,
            timeout=busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            factory=Database,
            uri=isinstance(address, str),
        )


def _prepare(
    db: Database, path: Path, schema: Schema, durability: Durability, *, exclusive: bool
) -> None:
    if exclusive:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
    version = _check_version(db, path, schema.version)
    with _step("use", path):
        if schema.page_bytes is not None:
            db.execute(f"PRAGMA page_size={schema.page_bytes:d}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={durability.value}")
        if version == 0:
            with db.transaction("create"):
                for statement in filter(str.strip, schema.script.split(";")):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={schema.version:d}")
        elif exclusive:  # SQLite takes its own lock at the first write
            with db.transaction("lock"):
                pass


def _check_version(db: Database, path: Path, wanted: int) -> int:
    """Return the version of a file: `wanted`, or 0 for a new one.

    Raises OpenError, or VersionError for another version.
    """
    with _step("read", path):
        (version,) = db.execute("PRAGMA user_version").fetchone()
    if version not in (0, wanted):
        raise VersionError(path, version)
    return int(version)


def _check_structure(db: Database, path: Path) -> None:
    """Raise DamagedError if the file is damaged; takes time by the size of the file."""
    with _step("use", path), closing(db.execute("PRAGMA integrity_check(1)")) as findings:
        (found,) = findings.fetchone()
    if found != "ok":
        raise DamagedError("use", path, " ".join(found.split()))


def _may_write(folder: Path) -> bool:
    try:
        return bool(folder.stat().st_mode & 0o222)
    except OSError:
        return False
