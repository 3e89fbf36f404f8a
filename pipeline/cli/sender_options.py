"""Options of the commands that accept requests of senders."""

from typing import Annotated

import typer

InsecureLoopback = Annotated[
    bool,
    typer.Option(
        "--insecure-loopback", help="Without any secret, accept requests of this machine."
    ),
]
