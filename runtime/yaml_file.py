"""Reading of YAML files and of stdin as text."""

import sys
from pathlib import Path
from typing import Final

# `located_yaml.MAX_CHARACTERS`, each of at most four bytes.
_MAX_BYTES: Final = 4 * 1024 * 1024


class UnreadableFileError(Exception):
    """The file is not readable text; the message is one line with its path."""


def read_yaml_text(path: Path) -> str:
    """Return the text of a file; `-` is stdin.

    Raises UnreadableFileError if it cannot be read, is not UTF-8, or is larger than any file of 1
    MiB of characters.
    """
    try:
        if str(path) == "-":
            raw = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with path.open("rb") as stream:
                raw = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UnreadableFileError(f"cannot read {path}: {error.strerror or error}") from error
    if len(raw) > _MAX_BYTES:
        raise UnreadableFileError(f"{path} is larger than 1 MiB of text")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        detail = f"{path} is not UTF-8 text: line {line}, byte {error.start}"
        raise UnreadableFileError(detail) from error
