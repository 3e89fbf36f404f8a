"""Servers as child processes on loopback: where they are installed, how they start and end."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.kafka.brokers import ROOT
from tests.waiting import wait_until

READY_S = 30.0
STOP_S = 20.0


@cache
def tool(name: str, file: str | None = None) -> Path:
    """Return the path of a program of `tools/servers`, or of a file beside it; may be missing."""
    command = [str(ROOT / "tools" / "servers"), "path", name]
    folder = subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    return ROOT / folder / (file or name)


def missing_tools() -> str | None:
    """Return the missing MDM programs and how to get them; None if none is missing."""
    names = ("nanomdm", "kmfddm", "scepserver", "scepclient")
    missing = [name for name in names if not tool(name).exists()]
    return f"{', '.join(missing)}: `make tools` builds them (needs go)" if missing else None


@dataclass
class Program:
    """A server that runs in `folder`, where its output is the file `log`.

    `responds` is True when the started server accepts requests.
    """

    command: Sequence[str]
    folder: Path
    responds: Callable[[], bool]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    _process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        """Start the server; return when it responds."""
        command = list(self.command)
        if shutil.which("setpriv"):  # it ends with the tests, even if they are killed
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=os.environ | self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must not reach it before the tests end
            )
        self._process = process

        def ready() -> bool:
            assert process.poll() is None, self.log()
            return self.responds()

        wait_until(ready, READY_S, f"{command[-1]} does not respond")

    def stop(self) -> None:
        """Stop the server, if it runs; kill it if it does not stop within 20 s."""
        if self._process is None:
            return
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """Kill the server, if it runs (kill -9)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        """Return the end of the server's output."""
        return (self.folder / "log").read_text(errors="replace")[-2000:]
