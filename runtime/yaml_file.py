"""YAML files for a command: reading them as text, and printing their problems."""

import json
import sys
from pathlib import Path
from typing import Final

from runtime.located_yaml import Problem

# `located_yaml.MAX_CHARACTERS`, each of at most four bytes.
_MAX_BYTES: Final = 4 * 1024 * 1024


class UnreadableFileError(Exception):
    """The file is not readable text; the message is one line with its path."""


def problem_line(path: Path, problem: Problem, level: str, *, as_json: bool) -> str:
    """Return a problem of a file as a line; `level` is `error` or `warning`.

    The line is `file:line:column: path: message`, with `warning: ` before the path of a warning; or
    a JSON object with these fields and `kind`, the level.
    """
    if as_json:
        row = {"kind": level, "file": str(path), **problem._asdict()}
        return json.dumps(row, ensure_ascii=False)
    mark = "warning: " if level == "warning" else ""
    where = f"{path}:{problem.line}:{problem.column}: {mark}"
    return where + (f"{problem.path}: " if problem.path else "") + problem.message


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
