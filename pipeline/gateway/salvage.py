"""Copies the rows of a damaged spool into a new one, from the pages of its file and its WAL.

SQLite finds a row by way of other pages: one damaged page near the root hides all rows. Here every
page is read by itself. A row counts if its checksum is right; damage elsewhere costs nothing.

Format: https://sqlite.org/fileformat2.html, sections 1.6 (pages), 2.1 (records) and 4.1 (WAL).

Free pages still have rows that were deleted. A row is left out if its page is free and SQLite does
not find it either; if one of the two cannot be read, the row is copied, and sent a second time.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from runtime import sqlite

Row = tuple[int, str, bytes, bytes, int]
"""Columns of a row after `seq`: at_us, topic, key, value, crc."""

_LEAF: Final = 0x0D
_COLUMNS: Final = 6
_WAL_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_INTEGER_BYTES: Final = (0, 1, 2, 3, 4, 6, 8)
# No record is as large; a damaged length is not followed further.
_MAX_ROW_BYTES: Final = 64 * 1024 * 1024
# Sequence numbers before the first and after the last row that are tried, to count lost rows.
_MARGIN: Final = 10_000
_MAX_LOOKUPS: Final = 1_000_000


class Salvaged(NamedTuple):
    """Numbers of rows: copied, and lost.

    `lost` is the number of sequence numbers for which SQLite reports damage or whose checksum is
    wrong, and that were not copied; some of them may have had no row.
    """

    saved: int
    lost: int


def salvage(
    path: Path,
    version: int,
    is_intact: Callable[[Row], bool],
    write: Callable[[int, Row], object],
) -> Salvaged:
    """Call `write` with each intact row of a damaged spool, in order of `seq`; return the numbers.

    `is_intact` compares a row with its checksum. Raises OSError if the file cannot be read, and the
    exceptions of `write`.
    """
    with _Pages(path) as pages, closing(_Lookup(path, version)) as lookup:
        free = pages.free_pages()
        cells: dict[int, tuple[int, int]] = {}
        altered: set[int] = set()
        for number, page in pages.leaves():
            for at in _cell_offsets(page):
                found = pages.row(page, at)
                if found is None:
                    continue
                seq, row = found
                if row is None or not is_intact(row):
                    # Also a row of another table.
                    if lookup.finds(seq) is not False:
                        altered.add(seq)
                elif number not in free or lookup.finds(seq) is not False:
                    cells[seq] = number, at
        for seq, (number, at) in sorted(cells.items()):
            again = pages.row(pages.read(number), at)
            assert again is not None
            assert again[1] is not None
            write(seq, again[1])
        return Salvaged(len(cells), _count_lost(cells, altered, lookup))


def _count_lost(cells: dict[int, tuple[int, int]], altered: set[int], lookup: "_Lookup") -> int:
    last = lookup.last_seq() or max(cells, default=0)
    first = min(cells, default=last)
    if lookup.is_open:
        first, last = first - _MARGIN, min(last, max(cells, default=last) + _MARGIN)
    missing = [
        seq
        for seq, _ in zip(range(max(first, 1), last + 1), range(_MAX_LOOKUPS), strict=False)
        if seq not in cells
    ]
    lost = {seq for seq in missing if lookup.finds(seq) is None}
    return len(lost | {seq for seq in altered.difference(cells) if first <= seq <= last})


class _Lookup:
    """SQLite on the damaged file."""

    def __init__(self, path: Path, version: int) -> None:
        self._db: sqlite.Database | None = None
        try:
            self._db = sqlite.open_read_only(path, version)
            self._db.execute("SELECT seq FROM records LIMIT 0")
            self.is_open = True
        except (sqlite3.Error, sqlite.VersionError):
            self.is_open = False

    def finds(self, seq: int) -> bool | None:
        """Return True if SQLite finds a row, False if there is none, None if it reports damage."""
        try:
            assert self._db is not None
            query = "SELECT 1 FROM records WHERE seq = ?"
            return self._db.execute(query, (seq,)).fetchone() is not None
        except (sqlite3.Error, AssertionError):
            return None

    def last_seq(self) -> int | None:
        """Return the last sequence number that was used; None if it cannot be read."""
        try:
            assert self._db is not None
            (seq,) = self._db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()
            return int(seq)
        except (sqlite3.Error, AssertionError, TypeError, ValueError):
            return None

    def close(self) -> None:
        """Close the file."""
        if self._db is not None:
            self._db.close()


class _Pages:
    """Pages of a database file, each in its newest version: that of the WAL, if it has one."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("rb")
        wal = path.with_name(path.name + "-wal")
        self._wal: BinaryIO | None = wal.open("rb") if wal.exists() else None
        self.page_bytes = 4096
        self._frames: dict[int, int] = {}
        if self._wal is not None:
            self._read_wal(self._wal)
        self._count = path.stat().st_size // self.page_bytes

    def __enter__(self) -> "_Pages":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self._wal is not None:
            self._wal.close()

    def _read_wal(self, wal: BinaryIO) -> None:
        """Note the offset of the newest frame of each page.

        Frames with other salts are from an earlier use of the WAL. Frames after the last commit
        count too: their rows have checksums, and were never confirmed to a sender.
        """
        salts = wal.read(_WAL_HEADER_BYTES)[16:24]
        at = _WAL_HEADER_BYTES
        while len(header := wal.read(_FRAME_HEADER_BYTES)) == _FRAME_HEADER_BYTES:
            if header[8:16] == salts:
                self._frames[_integer(header[:4])] = at + _FRAME_HEADER_BYTES
            at = wal.seek(self.page_bytes, 1)

    def read(self, number: int) -> bytes:
        """Return a page, the first one has number 1; empty or shorter if the file is cut."""
        if self._wal is not None and number in self._frames:
            self._wal.seek(self._frames[number])
            return self._wal.read(self.page_bytes)
        self._file.seek((number - 1) * self.page_bytes)
        return self._file.read(self.page_bytes)

    def leaves(self) -> Iterator[tuple[int, bytes]]:
        """Yield number and content of each complete page that may have rows."""
        last = max(self._count, max(self._frames, default=0))
        for number in range(2, last + 1):
            page = self.read(number)
            if len(page) == self.page_bytes and page[0] == _LEAF:
                yield number, page

    def free_pages(self) -> set[int]:
        """Return the pages of the free list, as far as it can be read."""
        free: set[int] = set()
        trunk = _integer(self.read(1)[32:36])
        while trunk and trunk not in free:
            free.add(trunk)
            page = self.read(trunk)
            count = min(_integer(page[4:8]), self.page_bytes // 4 - 2)
            free.update(_integer(page[8 + 4 * n : 12 + 4 * n]) for n in range(count))
            trunk = _integer(page[:4])
        return free

    def row(self, page: bytes, at: int) -> tuple[int, Row | None] | None:
        """Return sequence number and row of the cell at an offset of a leaf page.

        The row is None if its columns cannot be read. Returns None if there is no cell.
        """
        try:
            size, at = _varint(page, at)
            seq, at = _varint(page, at)
        except IndexError:
            return None
        try:
            return seq, _decode(self._payload(page, at, size))
        except (IndexError, ValueError):
            return seq, None

    def _payload(self, page: bytes, at: int, size: int) -> bytes:
        """Return the bytes of a cell: in the page, and in the chain of its overflow pages."""
        usable = self.page_bytes
        if size > _MAX_ROW_BYTES:
            raise ValueError("too large")
        if size <= usable - 35:
            return page[at : at + size]
        least = (usable - 12) * 32 // 255 - 23
        local = least + (size - least) % (usable - 4)
        if local > usable - 35:
            local = least
        parts = [page[at : at + local]]
        left, next_page = size - local, _integer(page[at + local : at + local + 4])
        while left > 0:
            overflow = self.read(next_page) if next_page else b""
            if len(overflow) < usable:
                raise ValueError("cut off")
            parts.append(overflow[4 : 4 + left])
            left -= usable - 4
            next_page = _integer(overflow[:4])
        return b"".join(parts)


def _cell_offsets(page: bytes) -> Iterator[int]:
    count = min(_integer(page[3:5]), len(page) // 2 - 4)
    for number in range(count):
        yield _integer(page[8 + 2 * number : 10 + 2 * number])


def _decode(payload: bytes) -> Row:
    """Return the columns of a record. Raises ValueError or IndexError if they are no row."""
    header_bytes, at = _varint(payload, 0)
    types = []
    while at < header_bytes:
        kind, at = _varint(payload, at)
        types.append(kind)
    if len(types) != _COLUMNS:
        raise ValueError("not a row of the spool")
    values: list[int | str | bytes] = []
    at = header_bytes
    for kind in types[1:]:
        value, at = _value(payload, at, kind)
        values.append(value)
    at_us, topic, key, value, crc = values
    if not (
        isinstance(at_us, int)
        and isinstance(topic, str)
        and isinstance(key, bytes)
        and isinstance(value, bytes)
        and isinstance(crc, int)
    ):
        raise ValueError("not a row of the spool")
    return at_us, topic, key, value, crc


def _value(payload: bytes, at: int, kind: int) -> tuple[int | str | bytes, int]:
    if kind in (8, 9):
        return kind - 8, at
    size = (kind - 12) // 2 if kind >= 12 else _INTEGER_BYTES[kind]
    raw = payload[at : at + size]
    if len(raw) < size:
        raise ValueError("cut off")
    if kind < 12:
        return int.from_bytes(raw, "big", signed=True), at + size
    return (raw.decode() if kind % 2 else raw), at + size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return an integer of SQLite's variable length, and the offset after it."""
    value = 0
    for number in range(9):
        byte = data[at + number]
        if number == 8:
            return value << 8 | byte, at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + number + 1
    raise AssertionError


def _integer(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
