"""Everything that a command prints is printable."""

import io
import re
from pathlib import Path

import pytest
from rich.table import Table

from pipeline.cli.output import emit, note
from pipeline.cli.printable_console import printable_console

HARMFUL = "Mac\x1b]0;owned\x07 \u202egnp \u200b[bold]x"
SHOWN = "Mac\\u001b]0;owned\\u0007 \\u202egnp \\u200b[bold]x"
# The demo shows simulated Macs only, in a live view.
_OWN_CONSOLES = {"printable_console.py", "demo.py", "log_options.py"}


def test_table_and_sentences_are_printable() -> None:
    out = io.StringIO()
    console = printable_console(file=out)
    console.width = 200
    table = Table("Mac")
    table.add_row(HARMFUL)
    console.print(table)
    console.print(HARMFUL)
    shown = out.getvalue()
    assert not re.search("[\x00-\x09\x0b-\x1f\u200b\u202e]", shown)
    # rich removes some control characters by itself.
    assert SHOWN.replace("\\u0007", "") in shown.replace("\\u0007", "")


def test_lines_of_commands_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    emit(HARMFUL)
    note(HARMFUL)
    found = capsys.readouterr()
    assert found.out == f"{SHOWN}\n"
    assert found.err == f"drydock: {SHOWN}\n"


def test_commands_have_no_console_of_their_own() -> None:
    folder = Path(__file__).parents[3] / "pipeline" / "cli"
    own = {path.name for path in folder.glob("*.py") if "Console(" in path.read_text()}
    assert own <= _OWN_CONSOLES
