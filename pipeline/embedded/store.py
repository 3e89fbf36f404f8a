"""Write access to a data directory: one SQLite file with log, folded state and dead letters.

It stores bytes and rows and has no rules. Rows that belong together are written in one transaction:
a crash leaves all of them or none. One process at a time writes; it locks the directory while it
has the store open.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, Self

from pipeline.embedded.log import (
    FILE,
    START_SETTING,
    VERSION,
    InUseError,
    Kind,
    Log,
    StoreError,
    damage_refusal,
    refusing_damage,
    version_refusal,
)
from pipeline.embedded.names import Names
from pipeline.embedded.record_packing import list_digest, pack_record
from pipeline.embedded.sequence_mark import SequenceMark
from pipeline.state.device import to_us
from runtime import sqlite

LOCK: Final = "lock"
# SQLite itself copies the WAL into the file after 4 MB, but never makes the WAL's file smaller.
MAX_WAL_BYTES: Final = 8 * 2**20
IDENTITY_SETTING: Final = "file"
_SCRIPT: Final = """
CREATE TABLE log (
    seq INTEGER PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('event', 'decision')),
    at_us INTEGER NOT NULL,
    source TEXT NOT NULL,
    id TEXT NOT NULL,
    type TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_events ON log (source, id) WHERE kind = 'event';
CREATE INDEX log_of ON log (key, seq);
CREATE INDEX log_at ON log (at_us);
CREATE INDEX log_decisions ON log (seq) WHERE kind = 'decision';
CREATE INDEX log_decisions_of ON log (key, seq) WHERE kind = 'decision';
CREATE TABLE names (
    type TEXT NOT NULL CHECK (type IN ('serial', 'enrollment_id')),
    name TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('event', 'decision')),
    key TEXT NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (type, name, kind)
) STRICT, WITHOUT ROWID;
CREATE TABLE blobs (
    digest TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE snapshots (
    seq INTEGER PRIMARY KEY,
    at_us INTEGER NOT NULL,
    digest TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE TABLE devices (udid TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE job_histories (udid TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE last_decisions (
    udid TEXT PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    verdict TEXT NOT NULL,
    reason TEXT NOT NULL,
    recheck_us INTEGER NOT NULL,
    site TEXT,
    severity TEXT,
    deadline_us INTEGER NOT NULL,
    recheck_on_telemetry INTEGER NOT NULL,
    waits_for INTEGER NOT NULL,
    findings TEXT NOT NULL
) STRICT;
CREATE TABLE settings (name TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT;
CREATE TABLE dead_letters (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    code TEXT NOT NULL,
    source TEXT NOT NULL,
    origin TEXT NOT NULL,
    body BLOB NOT NULL,
    replayed_at_us INTEGER
) STRICT;
CREATE INDEX dead_letters_open ON dead_letters (code) WHERE replayed_at_us IS NULL;
"""
_SCHEMA: Final = sqlite.Schema(_SCRIPT, VERSION)
_PUT_LAST_DECISION: Final = """
INSERT INTO last_decisions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET fingerprint = excluded.fingerprint, verdict = excluded.verdict,
    reason = excluded.reason, recheck_us = excluded.recheck_us, site = excluded.site,
    severity = excluded.severity, deadline_us = excluded.deadline_us,
    recheck_on_telemetry = excluded.recheck_on_telemetry,
    waits_for = excluded.waits_for, findings = excluded.findings
"""
# Without a change of the key nothing is written: a Mac repeats its names in each report.
_PUT_NAME: Final = """
INSERT INTO names VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET key = excluded.key, seq = excluded.seq WHERE key <> excluded.key
"""
# Of entries before the log's start, all but the last decision of each Mac and the given events. The
# log's last entry stays too: from it SQLite counts the next `seq`.
_DELETE_BEFORE_START: Final = """
DELETE FROM log WHERE seq > ? AND seq <= ?
    AND seq < (SELECT max(seq) FROM log)
    AND NOT (kind = 'decision' AND seq = (
        SELECT max(later.seq) FROM log AS later
        WHERE later.kind = 'decision' AND later.key = log.key
    ))
    AND NOT (kind = 'event' AND source = ? AND id IN (SELECT value FROM json_each(?)))
"""
# zlib's default level. Policies and catalogues are text that shrinks to a tenth.
_PACKING: Final = 6


class Store(Log):
    """A data directory, opened to write. Reads see the rows of the open transaction."""

    _wal: Path
    _mark: SequenceMark
    _is_closed = False
    lost_entries: int
    """Entries that were committed and that the log no longer has: its WAL file was lost."""

    @classmethod
    def open(cls, data_dir: Path, on_durable_write: sqlite.Hook | None = None) -> Self:
        """Return the store of a data directory; make the directory and its files if missing.

        Raises InUseError if another process has it open, StoreError if another version wrote it or
        the disk fails.
        """
        path = data_dir / FILE
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            db = sqlite.open_database(
                path, _SCHEMA, lock=data_dir / LOCK, on_durable_write=on_durable_write
            )
        except OSError as error:
            raise StoreError(f"cannot use {data_dir}: {error.strerror}") from error
        except sqlite.InUseError:
            raise InUseError(
                f"{data_dir} is in use by another Drydock process: stop it first"
            ) from None
        except sqlite.VersionError as error:
            raise version_refusal(path, error.found) from error
        except sqlite.DamagedError as error:
            raise damage_refusal(path, error) from error
        except sqlite.OpenError as error:
            raise StoreError(str(error)) from error
        store = cls(db)
        store._wal = path.with_name(f"{path.name}-wal")
        try:
            store._mark = SequenceMark(data_dir)
            with refusing_damage(path):
                store.lost_entries = max(store._mark.read() - store.last_seq(), 0)
        except OSError as error:
            db.close()
            raise StoreError(f"cannot use {data_dir}: {error.strerror}") from error
        except BaseException:
            db.close()
            raise
        return store

    def close(self) -> None:
        """Close the files and release the lock. A second call does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._mark.close()
        super().close()

    @contextmanager
    def transaction(self, write_name: str) -> Iterator[None]:
        """Commit the writes of the block durably; roll them back if the block raises.

        `write_name` names the transaction for `on_durable_write`. Raises StoreError if the disk
        fails, and any exception of the block. An exception of the hook after the commit rolls
        back nothing.
        """
        try:
            with self._db.transaction(write_name):
                yield
        except sqlite3.Error as error:
            if sqlite.is_damage(error):
                raise damage_refusal(self._wal.with_name(FILE), error) from error
            raise StoreError(f"cannot write the store: {error}") from error
        self._mark.write(self.last_seq())
        self._truncate_wal()

    def _truncate_wal(self) -> None:
        """Empty the WAL's file if it is larger than MAX_WAL_BYTES, without waiting for a reader.

        While a reader still needs the WAL, or the disk fails, it stays; the next commit tries
        again.
        """
        try:
            if self._wal.stat().st_size <= MAX_WAL_BYTES:
                return
        except OSError:
            return
        (timeout_ms,) = self._db.execute("PRAGMA busy_timeout").fetchone()
        self._db.execute("PRAGMA busy_timeout=0")
        try:
            with suppress(sqlite3.OperationalError):
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self._db.execute(f"PRAGMA busy_timeout={timeout_ms:d}")

    def identity(self) -> dict[str, bytes]:
        """Return the setting that names this file: the number of its inode."""
        (path,) = self._db.execute(
            "SELECT file FROM pragma_database_list WHERE name = 'main'"
        ).fetchone()
        return {IDENTITY_SETTING: str(Path(path).stat().st_ino).encode()}

    def is_copy(self) -> bool | None:
        """Return True if the file is a copy of the one that was written; None if it is unknown.

        A copy is older than the Macs. A file that is moved within its disk is no copy.
        """
        try:
            stored = self.setting(IDENTITY_SETTING)
        except ValueError:
            return True  # the safe side: the journals are distrusted
        return None if stored is None else stored != self.identity()[IDENTITY_SETTING]

    def check_writable(self) -> None:
        """Write a page that changes nothing; raise StoreError if the disk refuses it."""
        with self.transaction("probe"):
            self._db.execute(f"PRAGMA user_version={VERSION:d}")

    # --- inside a transaction ---

    def append_event(
        self,
        now: datetime,
        *,
        source: str,
        identity: str,
        kind: str,
        key: str,
        body: bytes,
        names: Names = (),
    ) -> bool:
        """Log an event and return True; return False if the log has its source and id already.

        `identity` is the event's id, `kind` its type, `key` its `event_key`, `body` its encoded
        bytes, `names` the names of its Mac.
        """
        cursor = self._db.execute(
            "INSERT INTO log (kind, at_us, source, id, type, key, body)"
            " VALUES ('event', ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (source, id) WHERE kind = 'event' DO NOTHING",
            (to_us(now), source, identity, kind, key, body),
        )
        if cursor.rowcount != 1:
            return False
        self._put_names("event", key, cursor.lastrowid, names)
        return True

    def append_decision(self, now: datetime, key: str, body: bytes, names: Names = ()) -> None:
        """Log a decision: `key` is the UDID of its Mac, `body` its DecisionRecord as JSON.

        `names` are the names of the Mac according to the record. The record is packed, and read
        back with the same bytes.
        """
        packed, cves = pack_record(body)
        if cves:
            digest = list_digest(cves)
            if not self.has_blob(digest):
                self.put_blob(digest, "cves", cves)
        cursor = self._db.execute(
            "INSERT INTO log (kind, at_us, source, id, type, key, body)"
            " VALUES ('decision', ?, '', '', 'decision', ?, ?)",
            (to_us(now), key, packed),
        )
        self._put_names("decision", key, cursor.lastrowid, names)

    def _put_names(self, kind: Kind, key: str, seq: int | None, names: Names) -> None:
        for name_type, name in names:
            self._db.execute(_PUT_NAME, (name_type, name, kind, key, seq))

    def put_blob(self, digest: str, kind: str, body: bytes) -> None:
        """Store content under its digest; do nothing if the digest is stored already.

        `kind` is `policy` (`body` is its text), `catalogue` (JSON), or `cves` (a list of CVEs, as
        `record_packing` cuts it from a record).
        """
        self._db.execute(
            "INSERT INTO blobs VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (digest, kind, zlib.compress(body, _PACKING)),
        )

    def has_blob(self, digest: str) -> bool:
        """Return True if the content of this digest is stored."""
        row = self._db.execute("SELECT 1 FROM blobs WHERE digest = ?", (digest,)).fetchone()
        return row is not None

    def put_devices(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Replace the states of these Macs; a row is (udid, state as JSON)."""
        self._db.executemany(
            "INSERT INTO devices VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
            rows,
        )

    def put_job_histories(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Replace the job histories of these Macs; a row is (udid, jobs as JSON)."""
        self._db.executemany(
            "INSERT INTO job_histories VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET body = excluded.body",
            rows,
        )

    def put_last_decisions(self, rows: Iterable[tuple[Any, ...]]) -> None:
        """Replace the last decisions of these Macs; a row is the UDID, then a LastDecisionRow."""
        self._db.executemany(_PUT_LAST_DECISION, rows)

    def delete_last_decisions(self, udids: Iterable[str]) -> None:
        """Delete the last decisions of these Macs; a Mac without one is skipped."""
        self._db.executemany(
            "DELETE FROM last_decisions WHERE udid = ?", [(udid,) for udid in udids]
        )

    def put_setting(self, name: str, body: bytes) -> None:
        """Store a setting under its name, in place of an older one; `Log.setting` reads it."""
        self._db.execute(
            "INSERT INTO settings VALUES (?, ?) ON CONFLICT DO UPDATE SET body = excluded.body",
            (name, zlib.compress(body, _PACKING)),
        )

    def put_dead_letter(
        self, now: datetime, *, code: str, source: str, origin: str, body: bytes
    ) -> None:
        """Store a dead letter; `body` is a DeadLetter as JSON."""
        self._db.execute(
            "INSERT INTO dead_letters (at_us, code, source, origin, body) VALUES (?, ?, ?, ?, ?)",
            (to_us(now), code, source, origin, body),
        )

    def delete_row(
        self,
        table: Literal["devices", "job_histories", "settings", "last_decisions"],
        rowid: int,
    ) -> None:
        """Delete a row of the state that cannot be read."""
        self._db.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))  # noqa: S608 - constants

    def mark_replayed(self, seq: int, now: datetime) -> None:
        """Record that the dead letter with the number `seq` was replayed at `now`.

        Does nothing if there is no such dead letter; an earlier time is replaced.
        """
        self._db.execute(
            "UPDATE dead_letters SET replayed_at_us = ? WHERE seq = ?", (to_us(now), seq)
        )

    def put_snapshot(self, now: datetime, digest: str, body: bytes) -> None:
        """Store a snapshot at the log's last entry, where there is none yet.

        `body` is the state as JSON, `digest` its digest.
        """
        self._db.execute(
            "INSERT INTO snapshots VALUES (?, ?, ?, ?)",
            (self.last_seq(), to_us(now), digest, zlib.compress(body, _PACKING)),
        )

    def move_start(self, seq: int) -> None:
        """Let the log begin after the snapshot at `seq`; delete the snapshots before it."""
        self.put_setting(START_SETTING, str(seq).encode())
        self._db.execute("DELETE FROM snapshots WHERE seq < ?", (seq,))

    def delete_before_start(
        self, after: int, limit: int, source: str, kept: Sequence[str]
    ) -> int | None:
        """Delete up to `limit` entries with seq > `after` that are before the log's start.

        Returns the last `seq` that was looked at; None after the last one. The last decision of
        each Mac stays, the events of `source` with the ids `kept`, and the log's last entry.
        """
        start = self.start_seq()
        rows = self._db.execute(
            "SELECT seq FROM log WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
            (after, start, limit),
        ).fetchall()
        if not rows:
            return None
        last = int(rows[-1][0])
        self._db.execute(_DELETE_BEFORE_START, (after, last, source, json.dumps(kept)))
        return last if len(rows) == limit else None

    def has_event(self, source: str, identity: str) -> bool:
        """Return True if the log has an event with this source and id."""
        row = self._db.execute(
            "SELECT 1 FROM log WHERE kind = 'event' AND source = ? AND id = ?", (source, identity)
        ).fetchone()
        return row is not None

    def event_body(self, source: str, identity: str) -> bytes | None:
        """Return the bytes of the logged event with this source and id; None if not logged."""
        row = self._db.execute(
            "SELECT body FROM log WHERE kind = 'event' AND source = ? AND id = ?",
            (source, identity),
        ).fetchone()
        return None if row is None else bytes(row[0])
