"""Damage to the files of a SQLite database, reproducible by its seed."""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

_PAGE_BYTES: Final = 4096

Damage = Callable[[Path, Random], None]


def flip_page(path: Path, random: Random) -> None:
    """Invert all bits of one page."""
    _overwrite(path, random, lambda page: bytes(byte ^ 0xFF for byte in page))


def zero_page(path: Path, random: Random) -> None:
    """Overwrite one page by zeros."""
    _overwrite(path, random, lambda page: bytes(len(page)))


def flip_bytes(path: Path, random: Random) -> None:
    """Change one byte in each of three places."""
    content = bytearray(path.read_bytes())
    for _ in range(3):
        content[random.randrange(len(content))] ^= random.randrange(1, 256)
    _write(path, content)


def truncate(path: Path, random: Random) -> None:
    """Cut the file, but leave at least a hundred bytes."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(random.randrange(100, size))


def zero_header(path: Path, random: Random) -> None:
    """Overwrite the header of the file by zeros."""
    del random
    content = bytearray(path.read_bytes())
    content[:100] = bytes(100)
    _write(path, content)


def write_text(path: Path, random: Random) -> None:
    """Replace the file by text."""
    del random
    path.write_bytes(b"not a database, " * 1000)


DAMAGES: Final[dict[str, Damage]] = {
    one.__name__: one
    for one in (flip_page, zero_page, flip_bytes, truncate, zero_header, write_text)
}


def change_text(path: Path, old: bytes, new: bytes) -> int:
    """Replace bytes of rows by as many others, without damage to the structure; return how often.

    The WAL file, if there is one, is changed too.
    """
    assert len(old) == len(new)
    changed = 0
    for each in (path, path.with_name(path.name + "-wal")):
        if each.exists():
            content = each.read_bytes()
            changed += content.count(old)
            _write(each, bytearray(content.replace(old, new)))
    return changed


def _overwrite(path: Path, random: Random, change: Callable[[bytes], bytes]) -> None:
    content = bytearray(path.read_bytes())
    at = random.randrange(len(content) // _PAGE_BYTES) * _PAGE_BYTES
    content[at : at + _PAGE_BYTES] = change(bytes(content[at : at + _PAGE_BYTES]))
    _write(path, content)


def _write(path: Path, content: bytearray) -> None:
    """Write in place: an open file changes under its process."""
    with path.open("r+b") as file:
        file.write(content)
