"""Output of all commands: a line on stdout, or a line on stderr with exit 1 or 2."""

import sys
from typing import NoReturn

import typer

ATTENTION = 1
USAGE = 2


def emit(line: bytes | str) -> None:
    """Print one line on stdout."""
    text = line.decode() if isinstance(line, bytes) else line
    sys.stdout.write(text + "\n")


def fail(message: str) -> NoReturn:
    """End the command with one line on stderr, exit 2: bad usage or unreadable input."""
    sys.stderr.write(f"drydock: {message}\n")
    raise typer.Exit(USAGE)


def fail_attention(message: str) -> NoReturn:
    """End the command with one line on stderr, exit 1: it is done, and something needs a person."""
    sys.stderr.write(f"drydock: {message}\n")
    raise typer.Exit(ATTENTION)
