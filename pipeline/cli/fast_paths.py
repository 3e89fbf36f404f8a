"""The environment's DRYDOCK_FAST_PATHS: read once by each command that decides, then passed in."""

import os
from typing import Final

from pipeline.cli.output import fail

VARIABLE: Final = "DRYDOCK_FAST_PATHS"


def fast_paths_wanted() -> bool:
    """Return True if DRYDOCK_FAST_PATHS is `on` or not set, False if it is `off`.

    Exit 2 for another value. `off` runs the plain functions, with the same results:
    docs/explanation/fast-paths.md.
    """
    value = os.environ.get(VARIABLE, "on")
    if value not in ("on", "off"):
        fail(f"{VARIABLE} is `on` or `off`, not {value!r}")
    return value == "on"
