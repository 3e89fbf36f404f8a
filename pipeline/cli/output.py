"""What every command prints the same way."""

import sys
from typing import NoReturn

import typer

FINDING = 1
USAGE = 2


def emit(line: bytes | str) -> None:
    """One line on stdout."""
    text = line.decode() if isinstance(line, bytes) else line
    sys.stdout.write(text + "\n")


def fail(message: str) -> NoReturn:
    """Bad usage or unreadable input: one clear line on stderr, exit 2."""
    sys.stderr.write(f"drydock: {message}\n")
    raise typer.Exit(USAGE)


def finding(message: str) -> NoReturn:
    """Done, and something is wrong: one line on stderr, exit 1."""
    sys.stderr.write(f"drydock: {message}\n")
    raise typer.Exit(FINDING)
