"""The `drydock` command: one module per command, which parses, calls and prints.

`--json` prints one JSON object per line on stdout; logs and progress go to stderr. Exit codes:
0 done; 1 done, and something needs a person; 2 bad usage or unreadable input, with the reason in
one line on stderr.
"""

from pipeline.cli.app import main

__all__ = ["main"]
