"""Output of all commands: a line on stdout, or a line on stderr with exit 1 or 2."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import typer

from runtime.printable import printable

ATTENTION = 1
USAGE = 2
# As of a program that SIGPIPE ends: its work may not be complete, so it is not 0.
OUTPUT_ENDED = 141


class OutputEnded(typer.Exit):
    """The reader of stdout, such as `head`, has ended: ends the command, by default with 141."""

    def __init__(self) -> None:
        super().__init__(OUTPUT_ENDED)


def emit(line: bytes | str) -> None:
    """Print one line on stdout, a JSON text or a text for people, with `printable` characters."""
    text = line.decode() if isinstance(line, bytes) else line
    try:
        sys.stdout.write(printable(text) + "\n")
    except BrokenPipeError:
        end_output()


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


def end_output() -> NoReturn:
    """Raise OutputEnded after a BrokenPipeError of stdout; what is still written there is lost."""
    _discard_output()
    raise OutputEnded from None


def run_command(app: Callable[[], object]) -> None:
    """Run the command line `app`, which exits; its last output may have no reader."""
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _discard_output()


def _discard_output() -> None:
    # The interpreter flushes stdout once more at its end.
    with suppress(OSError, ValueError):  # a test's stdout has no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
