"""Read access to a data directory: events, decisions, dead letters, folded state. Never writes.

The service may write meanwhile: SQLite's WAL gives each reader the log as it was when it was
opened.
"""

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

from pipeline.embedded.record_packing import list_digest, unpack_record
from pipeline.state.device import from_us, to_us
from runtime.sqlite import (
    Database,
    OpenError,
    VersionError,
    copy_to,
    is_damage,
    open_read_only,
)

FILE: Final = "drydock.sqlite"
VERSION: Final = 5
START_SETTING: Final = "log_start"
# The offsets of the topics up to which the view of `drydock query` has the records.
OFFSETS_SETTING: Final = "query_offsets"
Kind = Literal["event", "decision"]
_FIRST_US: Final = to_us(datetime.min.replace(tzinfo=UTC))
_LAST_US: Final = to_us(datetime.max.replace(tzinfo=UTC))
_SINCE: Final = "seq >= (SELECT min(seq) FROM log WHERE at_us >= ?) AND +at_us >= ?"
_UNTIL: Final = "seq <= (SELECT max(seq) FROM log WHERE at_us < ?) AND +at_us < ?"
# Lists of CVEs in memory, of some 6 KB each: about one for each OS version of a catalogue.
_MAX_LISTS: Final = 256
# The columns of a Mac's last decision after its UDID, in the order of the fields of
# pipeline.reconcile.last_decision.LastDecision; the last one has the codes with spaces between.
LastDecisionRow = tuple[bytes, str, str, int, str | None, str | None, int, bool, int, str]


class StoreError(RuntimeError):
    """The data directory cannot be used; the message is the reason, in one line."""


class InUseError(StoreError):
    """Another process writes the data directory."""


class LogRow(NamedTuple):
    """One entry of the log. `seq` counts from 1, without gaps after `Log.start_seq`.

    `at` is the `now` of its transaction. `key` is the Mac's UDID (`serial:` and the serial number
    for a report without one), or the event's subject if the event concerns no single Mac. `source`
    and `id` are empty for a decision. `body` is an event as `schemas.envelope.encode` writes it, or
    a DecisionRecord as JSON. `type` is the event's type, or `decision`.
    """

    seq: int
    kind: Kind
    at: datetime
    source: str
    id: str
    type: str
    key: str
    body: bytes


class StoredSnapshot(NamedTuple):
    """A snapshot of the state with the effects of all entries up to `seq`, taken at `at`.

    `digest` is the SHA-256 of its JSON.
    """

    seq: int
    at: datetime
    digest: str


class StoredDeadLetter(NamedTuple):
    """A dead letter of the store: `body` is a schemas.dead_letters.DeadLetter as JSON.

    `seq` is its number, `at` the time of storing it; `replayed_at` is None if it was not replayed.
    """

    seq: int
    at: datetime
    code: str
    source: str
    origin: str
    body: bytes
    replayed_at: datetime | None


def version_refusal(path: Path, found: int) -> StoreError:
    """Return the error for a database whose schema version is `found`, not VERSION."""
    if found > VERSION:
        return StoreError(
            f"{path} has schema version {found}; this Drydock reads up to {VERSION}:"
            " use the newer Drydock that wrote it"
        )
    return StoreError(
        f"{path} has schema version {found}, written before release 0.1.0; this Drydock reads"
        f" only {VERSION}: start with an empty data directory"
    )


def damage_refusal(path: Path, error: Exception) -> StoreError:
    """Return the error for a damaged database, which has the only copy of its content."""
    reason = error.reason if isinstance(error, OpenError) else error
    return StoreError(
        f"{path} is damaged ({reason}): restore a backup into a new data directory with"
        " `drydock restore`; keep the damaged one"
    )


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Raise damage of the database, found in the block, as StoreError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        raise damage_refusal(path, error) from error


class Log:
    """The log and state of a data directory, as they were when this was opened."""

    def __init__(self, db: Database) -> None:
        self._db = db
        # A text that is not UTF-8 costs its row, not the query.
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self._lists: dict[str, bytes] = {}

    @classmethod
    def open(cls, data_dir: Path) -> Self:
        """Return the log of a data directory, open to read only.

        Raises StoreError if the directory has no log, or if it cannot be read or has another schema
        version.
        """
        path = data_dir / FILE
        if not path.is_file():
            raise StoreError(f"no {FILE} in {data_dir}: is this a data directory of Drydock?")
        try:
            db = open_read_only(path, VERSION)
        except VersionError as error:
            raise version_refusal(path, error.found) from error
        except OpenError as error:
            raise StoreError(str(error)) from error
        try:
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # takes the snapshot
        except sqlite3.Error as error:
            db.close()
            raise StoreError(f"cannot read {path}: {error}") from error
        return cls(db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def copy_to(self, path: Path) -> None:
        """Write a checked copy of the data directory's database to a new file.

        Raises StoreError if the database is damaged or the disk fails.
        """
        try:
            copy_to(self._db, path)
        except sqlite3.Error as error:
            raise StoreError(f"cannot copy the database: {error}") from error

    def entries(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        key: str | None = None,
        kind: Kind | None = None,
        after: int = 0,
    ) -> Iterator[LogRow]:
        """Yield the entries with `since` <= at < `until` and seq > `after`, in order of `seq`.

        `key` and `kind` select the entries with this key or of this kind. None sets no limit.
        """
        wheres, values = ["seq > ?"], list[object]([after])
        # `+` keeps SQLite from an index by time, after which it would sort all bodies by `seq` in a
        # temporary file. The kind is a constant: only then does a partial index apply.
        for clause, value in (
            (_SINCE, None if since is None else to_us(since)),
            (_UNTIL, None if until is None else to_us(until)),
            ("key = ?", key),
        ):
            if value is not None:
                wheres.append(clause)
                values += [value] * clause.count("?")
        if kind is not None:
            wheres.append("kind = 'decision'" if kind == "decision" else "+kind = 'event'")
        query = (
            "SELECT seq, kind, at_us, source, id, type, key, body FROM log"  # noqa: S608 - constants
            f" WHERE {' AND '.join(wheres)} ORDER BY seq"
        )
        for seq, kind_of, at_us, source, name, type_of, key_of, stored in self._db.execute(
            query, values
        ):
            body = self._unpacked(stored) if kind_of == "decision" else stored
            yield LogRow(seq, kind_of, _time(at_us), source, name, type_of, key_of, body)

    def last_decision(self, key: str) -> bytes | None:
        """Return the DecisionRecord of a Mac's last decision as JSON; None if it has none.

        `key` is the Mac's UDID.
        """
        row = self._db.execute(
            "SELECT body FROM log WHERE key = ? AND kind = 'decision' ORDER BY seq DESC LIMIT 1",
            (key,),
        ).fetchone()
        return None if row is None else self._unpacked(row[0])

    def _unpacked(self, body: bytes) -> bytes:
        """Return the DecisionRecord as JSON; the stored bytes if they or their list are damaged."""
        try:
            return unpack_record(body, self._cves)
        except ValueError:
            return body

    def _cves(self, digest: str) -> bytes:
        """Return a stored list of CVEs. Raises ValueError if it is missing, damaged or altered."""
        found = self._lists.get(digest)
        if found is None:
            found = self.blob(digest)
            if found is None or list_digest(found) != digest:
                raise ValueError(f"the list of CVEs {digest} is missing or altered")
            if len(self._lists) == _MAX_LISTS:
                self._lists.clear()
            self._lists[digest] = found
        return found

    def key_of_name(self, name: str, kind: Kind) -> str | None:
        """Return the key of the last Mac that had this serial number or enrollment id, or None.

        `kind` selects the names in decisions, or those in reports. Serial numbers are compared
        without case.
        """
        row = self._db.execute(
            "SELECT key, max(seq) FROM (SELECT key, seq FROM names"
            " WHERE type = 'serial' AND name = ? AND kind = ?"
            " UNION ALL SELECT key, seq FROM names"
            " WHERE type = 'enrollment_id' AND name = ? AND kind = ?)",
            (name.upper(), kind, name, kind),
        ).fetchone()
        found: str | None = row[0]
        return found

    def blob(self, digest: str) -> bytes | None:
        """Return the stored content with this digest; None if there is none.

        It is the text of a policy, a catalogue as JSON, or a list of CVEs. Raises ValueError if the
        stored bytes are damaged.
        """
        row = self._db.execute("SELECT body FROM blobs WHERE digest = ?", (digest,)).fetchone()
        try:
            return None if row is None else zlib.decompress(row[0])
        except zlib.error as error:
            raise ValueError(str(error)) from error

    def start_seq(self) -> int:
        """Return the `seq` of the snapshot after which the log is complete; 0 for a whole log."""
        try:
            raw = self.setting(START_SETTING)
            return 0 if raw is None else int(raw)
        except ValueError:
            # The log begins after the oldest snapshot: those before the start are deleted.
            return min((one.seq for one in self.snapshots()), default=0)

    def snapshots(self) -> list[StoredSnapshot]:
        """Return the snapshots in order of `seq`, first the one at the log's start."""
        rows = self._db.execute("SELECT seq, at_us, digest FROM snapshots ORDER BY seq")
        return [StoredSnapshot(seq, _time(at_us), digest) for seq, at_us, digest in rows]

    def snapshot(self, seq: int) -> bytes | None:
        """Return the state at this snapshot as JSON; None if there is no such snapshot.

        Raises ValueError if the stored bytes are damaged.
        """
        row = self._db.execute("SELECT body FROM snapshots WHERE seq = ?", (seq,)).fetchone()
        try:
            return None if row is None else zlib.decompress(row[0])
        except zlib.error as error:
            raise ValueError(str(error)) from error

    def last_seq(self, until: datetime | None = None) -> int:
        """Return the highest `seq` of the entries with at < `until`, or of all; 0 without any."""
        if until is None:
            (seq,) = self._db.execute("SELECT max(seq) FROM log").fetchone()
        else:
            (seq,) = self._db.execute(
                "SELECT max(seq) FROM log WHERE at_us < ?", (to_us(until),)
            ).fetchone()
        return seq or 0

    def last_at(self) -> datetime | None:
        """Return the latest time of an entry; None for an empty log."""
        (at_us,) = self._db.execute("SELECT max(at_us) FROM log").fetchone()
        return None if at_us is None else _time(at_us)

    def dead_letters(
        self,
        *,
        seq: int | None = None,
        open_only: bool = False,
        code: str | None = None,
        after: int = 0,
        limit: int | None = None,
    ) -> list[StoredDeadLetter]:
        """Return the dead letters, oldest first; an empty list if there are none.

        `seq` and `code` select those with this number or code, `open_only` leaves out replayed
        ones. Only numbers greater than `after` are returned, and only the first `limit`.
        """
        wheres, values = ["seq > ?"], list[object]([after])
        for column, value in (("seq", seq), ("code", code)):
            if value is not None:
                wheres.append(f"{column} = ?")
                values.append(value)
        if open_only:
            wheres.append("replayed_at_us IS NULL")
        values.append(-1 if limit is None else limit)
        query = (
            "SELECT seq, at_us, code, source, origin, body, replayed_at_us FROM dead_letters"  # noqa: S608
            f" WHERE {' AND '.join(wheres)} ORDER BY seq LIMIT ?"
        )
        return [
            StoredDeadLetter(
                number,
                _time(at_us),
                code,
                source,
                origin,
                body,
                None if us is None else _time(us),
            )
            for number, at_us, code, source, origin, body, us in self._db.execute(query, values)
        ]

    def dead_letter_counts(self) -> dict[str, int]:
        """Return the number of dead letters by code, without replayed ones."""
        return dict(
            self._db.execute(
                "SELECT code, count(*) FROM dead_letters WHERE replayed_at_us IS NULL"
                " GROUP BY code ORDER BY code"
            )
        )

    # --- the folded state ---

    def rows(
        self, table: Literal["devices", "job_histories", "settings"], name: str
    ) -> Iterator[tuple[int, str, bytes]]:
        """Yield (rowid, value of the column `name`, stored bytes) of a table, in order of rowid."""
        yield from self._db.execute(
            f"SELECT rowid, {name}, body FROM {table} ORDER BY rowid"  # noqa: S608 - constants
        )

    def last_decision_rows(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield the rowid and the columns of each Mac's last decision."""
        for rowid, *values in self._db.execute(
            "SELECT rowid, * FROM last_decisions ORDER BY rowid"
        ):
            yield rowid, tuple(values)

    def devices(self) -> Iterator[tuple[str, bytes]]:
        """Yield the key and the state (JSON) of each record, in order of their first events.

        The key is a UDID, or `serial:` and a serial number for a record without a UDID.
        """
        yield from self._db.execute("SELECT udid, body FROM devices ORDER BY rowid")

    def count_devices(self) -> int:
        """Return the number of Macs, without records that have only a serial number."""
        (count,) = self._db.execute(
            "SELECT count(*) FROM devices WHERE udid NOT LIKE 'serial:%'"
        ).fetchone()
        return int(count)

    def job_histories(self) -> Iterator[tuple[str, bytes]]:
        """Yield the UDID and the job history (JSON) of each Mac."""
        yield from self._db.execute("SELECT udid, body FROM job_histories ORDER BY rowid")

    def last_decisions(self) -> Iterator[tuple[Any, ...]]:
        """Yield the last decision of each Mac: its UDID, then the fields of a LastDecisionRow."""
        yield from (values for _, values in self.last_decision_rows())

    def setting(self, name: str) -> bytes | None:
        """Return the bytes of the setting with this name; None if it is not stored.

        Raises ValueError if the stored bytes are damaged.

        The settings are the broadcast state (`advisories`, `halts`, `approvals`, `policy`,
        `resets`), the state of each feed (`feed:<source>`), and the time up to which simulated Macs
        reported.
        """
        row = self._db.execute("SELECT body FROM settings WHERE name = ?", (name,)).fetchone()
        try:
            return None if row is None else zlib.decompress(row[0])
        except zlib.error as error:
            raise ValueError(f"setting {name}: {error}") from error


def _time(us: int) -> datetime:
    """Return the time of a column; the nearest one that Python has for a damaged value."""
    return from_us(min(max(us, _FIRST_US), _LAST_US))
