"""`drydock run` as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ENDS_WITHIN_S = 60.0
DRYDOCK = (sys.executable, "-c", "from pipeline.cli import main; main()")


class Running:
    """A started `drydock run` that listens at `url`; `log_lines` has its log so far.

    `env` is added to its environment. Without a secret in it, requests need none.
    """

    def __init__(self, data_dir: Path, *options: str, env: Mapping[str, str] | None = None) -> None:
        where = ["--data-dir", str(data_dir), "--listen", "127.0.0.1:0", "--insecure-loopback"]
        self.process = subprocess.Popen(
            [*DRYDOCK, "run", *where, *options],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | dict(env or {}),
        )
        self.log_lines: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log_lines.append(line)
            if '"listening"' in line:
                break
        else:
            raise AssertionError(f"the service did not start: {self.log_lines}")
        self.url = str(json.loads(self.log_lines[-1])["address"])
        # Keep reading: the service blocks when the pipe is full.
        self._reader = threading.Thread(target=self.log_lines.extend, args=(self.process.stderr,))
        self._reader.start()

    def end(self, how: signal.Signals) -> int:
        """Send this signal, wait for the end, and return the exit code."""
        self.process.send_signal(how)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(ENDS_WITHIN_S)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def running(
    data_dir: Path, *options: str, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run a service that does not outlive the block."""
    service = Running(data_dir, *options, env=env)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.end(signal.SIGKILL)
