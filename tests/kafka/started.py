"""A program of Drydock on a broker, from its readiness to the end of a block."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.kafka.brokers import free_ports
from tests.waiting import wait_until

DRYDOCK: Final = (sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()")
_READY_S: Final = 90.0


@contextmanager
def started(
    folder: Path, name: str, command: Sequence[str], bootstrap: str, env: Mapping[str, str]
) -> Iterator[str]:
    """Run a command with probes within the block, which begins when it is ready.

    Yields its URL. Its data and its log, `<name>.log`, are in the folder.
    """
    address = f"127.0.0.1:{free_ports(1)[0]}"
    where = ("--data-dir", str(folder / name), "--listen", address, "--bootstrap", bootstrap)
    with (folder / f"{name}.log").open("wb") as log:
        program = subprocess.Popen(
            [*DRYDOCK, *command, *where], stderr=log, env=os.environ | dict(env)
        )
    try:
        wait_until(lambda: _is_ready(address), _READY_S, f"{name} is not ready")
        assert program.poll() is None
        yield f"http://{address}"
    finally:
        program.kill()
        program.wait()


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
