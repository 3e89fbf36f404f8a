"""The programs of a fleet as processes: started again and again under their own names."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from tests.kafka.brokers import ROOT

DRYDOCK: Final = (sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()")
WORKER: Final = (sys.executable, "-W", "ignore", "-m", "tests.chaos.worker_program")
_ENDS_WITHIN_S: Final = 60.0


class Kind(StrEnum):
    """What a program is."""

    WORKER = "worker"
    AGENT = "agent"
    GATEWAY = "gateway"


@dataclass
class Program:
    """One program. It outlives no death of who started it, where the system can see to that."""

    kind: Kind
    name: str
    data_dir: Path
    command: Sequence[str]
    log_path: Path
    lives: int = 0
    frozen: bool = False
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        """Start it (again)."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [*self.command]
        if shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        # What the environment says of Drydock is not meant for this fleet.
        given = {
            name: value for name, value in os.environ.items() if not name.startswith("DRYDOCK_")
        }
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=given,
                start_new_session=True,
            )
        self.lives += 1
        self.frozen = False

    @property
    def is_running(self) -> bool:
        """Whether its process is there, frozen or not."""
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended last; None while it runs."""
        return None if self.process is None else self.process.poll()

    def kill(self) -> None:
        """End it at once (kill -9)."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Let it stand still, without its knowing."""
        self.signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let it go on, where it was."""
        if self.is_running:
            self.signal(signal.SIGCONT)
        self.frozen = False

    def ended(self) -> int:
        """Its exit code, once it has ended by itself; it is killed if that takes too long."""
        assert self.process is not None
        try:
            return self.process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def last_words(self, size: int = 600) -> str:
        """The end of its log."""
        return self.log_path.read_text(errors="replace")[-size:].strip()


@dataclass(frozen=True, slots=True)
class Fleet:
    """All programs of one fleet."""

    programs: tuple[Program, ...]

    def of(self, kind: Kind) -> list[Program]:
        """The programs of a kind."""
        return [program for program in self.programs if program.kind is kind]

    def start(self) -> None:
        """Start all."""
        for program in self.programs:
            program.start()

    def end(self) -> dict[str, int]:
        """End all in good order: gateway, workers, executors. Their exit codes."""
        codes = {}
        for kind in (Kind.GATEWAY, Kind.WORKER, Kind.AGENT):
            running = [program for program in self.of(kind) if program.is_running]
            for program in running:
                program.thaw()
                program.signal(signal.SIGTERM)
            for program in running:
                try:
                    codes[program.name] = program.ended()
                except subprocess.TimeoutExpired:
                    codes[program.name] = -signal.SIGKILL
        return codes

    def kill(self) -> None:
        """End what still runs, at once."""
        for program in self.programs:
            if program.is_running:
                program.kill()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a fleet lives, and where its Kafka, its Macs and its clock are."""

    folder: Path
    bootstrap: str
    macs: str
    gateway_port: int
    sites: Sequence[str]
    workers: int
    agents: int
    slots: int

    @property
    def keys(self) -> Path:
        """The folder with the keys that sign jobs."""
        return self.folder / "keys"

    @property
    def clock(self) -> Path:
        """The file that says what time it is for the Macs."""
        return self.folder / "clock.json"

    def fleet(self) -> Fleet:
        """The programs, not started."""
        agents = [self._agent(site, number) for site in self.sites for number in range(self.agents)]
        workers = [self._worker(number) for number in range(self.workers)]
        return Fleet((self._gateway(), *workers, *agents))

    def _program(self, kind: Kind, name: str, main: Sequence[str], *options: str) -> Program:
        data_dir = self.folder / name
        command = (*main, *options, "--data-dir", str(data_dir), "--bootstrap", self.bootstrap)
        return Program(kind, name, data_dir, command, self.folder / f"{name}.log")

    def _gateway(self) -> Program:
        listen = f"127.0.0.1:{self.gateway_port}"
        return self._program(Kind.GATEWAY, "gateway", DRYDOCK, "gateway", "--listen", listen)

    def _worker(self, number: int) -> Program:
        return self._program(
            *(Kind.WORKER, f"worker-{number}", WORKER),
            *("--keys", str(self.keys), "--clock", str(self.clock)),
        )

    def _agent(self, site: str, number: int) -> Program:
        name = f"{site}-{number}"
        return self._program(
            *(Kind.AGENT, name, DRYDOCK, "agent", "--site", site, "--name", name),
            *("--keys", str(self.keys), "--simulate", self.macs, "--listen", ""),
            *("--session-s", "6", "--slots", str(self.slots), "--drain-s", "10"),
        )
