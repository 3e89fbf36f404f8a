"""Output of all commands: a line on stdout, or a line on stderr with exit 1 or 2."""

import sys
from typing import NoReturn

import typer

from runtime.printable import printable

ATTENTION = 1
USAGE = 2


def emit(line: bytes | str) -> None:
    """Print one line on stdout, a JSON text or a text for people, with `printable` characters."""
    text = line.decode() if isinstance(line, bytes) else line
    sys.stdout.write(printable(text) + "\n")


def note(message: str) -> None:
    """Print one line on stderr; the command goes on."""
    sys.stderr.write(f"drydock: {printable(message)}\n")


def fail(message: str) -> NoReturn:
    """End the command with one line on stderr, exit 2: bad usage or unreadable input."""
    note(message)
    raise typer.Exit(USAGE)


def fail_attention(message: str) -> NoReturn:
    """End the command with one line on stderr, exit 1: it is done, and something needs a person."""
    note(message)
    raise typer.Exit(ATTENTION)
