"""Garbage for the columns of a database, by their type."""

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GARBAGE: dict[str, list[Any]] = {
    "INTEGER": [-1, 0, 2**62],
    "TEXT": ["", "garbage", b"\xff\xfe"],
    "BLOB": [
        b"",
        b"\xff\x00garbage",
        b"null",
        b"[[]]",
        b'{"udid": 5}',
        zlib.compress(b"null"),
        zlib.compress(b'{"a": [1, {}]}'),
        zlib.compress(b"[5, 5]"),
    ],
}


def columns(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield each table, column and type of a database."""
    db = sqlite3.connect(path)
    tables = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    for (table,) in tables:
        for _, column, kind, *_ in db.execute(f"PRAGMA table_info({table})"):
            if not table.startswith("sqlite_"):
                yield table, column, kind
    db.close()


def corrupt(path: Path, table: str, column: str, value: Any) -> bool:
    """Write a value into a column of every row, as far as keys and checks permit it."""
    db = sqlite3.connect(path)
    cast = "CAST(? AS TEXT)" if isinstance(value, bytes) and _is_text(db, table, column) else "?"
    statement = f"UPDATE OR IGNORE {table} SET {column} = {cast}"  # noqa: S608 - names of a schema
    changed = db.execute(statement, (value,)).rowcount
    db.commit()
    db.close()
    return changed > 0


def _is_text(db: sqlite3.Connection, table: str, column: str) -> bool:
    return any(
        name == column and kind == "TEXT"
        for _, name, kind, *_ in db.execute(f"PRAGMA table_info({table})")
    )
