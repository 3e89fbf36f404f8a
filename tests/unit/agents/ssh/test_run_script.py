"""The runner of a task during the notice to the user: with fake tools of the Mac, without SSH."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import agents.ssh
from agents.ssh.progress import NOTICE

SCRIPT = Path(agents.ssh.__file__).parent / "scripts" / "run.sh"
WITHIN_S = 60.0


@contextmanager
def runner(folder: Path, notice_s: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a task that prints `done`, on a Mac whose notice shows for so long."""
    tools = folder / "tools"
    tools.mkdir()
    for name in ("stat", "launchctl", "id"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    (folder / "task").mkdir()
    env = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"}
    arguments = [str(folder / "task"), "", str(notice_s), "60", "echo", "done"]
    process = subprocess.Popen(["bash", str(SCRIPT), *arguments], env=env, process_group=0)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def output(folder: Path) -> str:
    file = folder / "task" / "output"
    return file.read_text().strip() if file.exists() else ""


def test_runner_that_ends_during_the_notice_leaves_its_line(tmp_path: Path) -> None:
    with runner(tmp_path, 3600):
        end = time.monotonic() + WITHIN_S
        while output(tmp_path) != NOTICE:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert (tmp_path / "task" / "begun").is_symlink()
    assert output(tmp_path) == NOTICE


def test_output_of_the_command_replaces_the_line(tmp_path: Path) -> None:
    with runner(tmp_path, 1) as process:
        assert process.wait(WITHIN_S) == 0
    assert output(tmp_path) == "done"
    assert (tmp_path / "task" / "exit").read_text().startswith("0 ")
