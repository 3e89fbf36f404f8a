"""Options of the commands that accept requests of senders."""

from pathlib import Path
from typing import Annotated

import typer

InsecureLoopback = Annotated[
    bool,
    typer.Option(
        "--insecure-loopback", help="Without any secret, accept requests of this machine."
    ),
]
Senders = Annotated[
    Path | None,
    typer.Option(
        "--senders",
        envvar="DRYDOCK_SENDERS_FILE",
        metavar="FILE",
        help="Senders with secrets by reference, scopes and limits (docs/reference/senders.md).",
    ),
]
