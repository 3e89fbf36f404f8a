"""The `drydock` command. One module a command: it parses, calls, prints.

`--json` prints one JSON object a line on stdout; logs and progress go to stderr. Exit codes: 0
done, 1 a finding, 2 bad usage or unreadable input, said in one line.
"""

from pipeline.cli.app import main

__all__ = ["main"]
