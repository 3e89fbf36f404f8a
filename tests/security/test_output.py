"""Texts of senders in the output of commands (A26, A35)."""

import subprocess
import sys

import pytest

from tests.security.target import Target, report

DRYDOCK = (sys.executable, "-c", "from pipeline.cli import main; main()")
HIDDEN = {"bidi": "\u202ekcatta", "zero width": "a\u200bb"}


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN.keys())
@pytest.mark.parametrize("command", ["explain", "status"])
def test_a35_invisible_characters_of_a_mac_are_shown(at: Target, text: str, command: str) -> None:
    name = f"MAC-A35-{list(HIDDEN.values()).index(text)}"
    at.accept(report(name, hostname=text, model=text))
    arguments = [name] if command == "explain" else []
    done = subprocess.run(
        [*DRYDOCK, command, *arguments, "--data-dir", str(at.data_dir)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout
    assert not {"\u202e", "\u200b"} & {*done.stdout, *done.stderr}
