"""The programs of a fleet as processes that can be killed and started again."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from tests.kafka.brokers import ROOT

DRYDOCK: Final = (sys.executable, "-W", "ignore", "-c", "from pipeline.cli import main; main()")
GATEWAY: Final = (sys.executable, "-W", "ignore", "-m", "tests.kafka.gateway_program")
# Secrets of the senders: NanoMDM for the Macs' messages, SOFA for releases, the operators'.
SECRETS: Final = {
    "nanomdm": "secret-of-nanomdm",
    "sofa": "secret-of-sofa",
    "admin": "secret-of-admin",
}
SECRETS_ENV: Final = {f"DRYDOCK_{name.upper()}_SECRET": text for name, text in SECRETS.items()}
STAMPS_ENV: Final = {"DRYDOCK_STAMP_KEYS": "the-stamp-key-of-a-fleet"}
WORKER: Final = (sys.executable, "-W", "ignore", "-m", "tests.chaos.worker_program")
_ENDS_WITHIN_S: Final = 60.0


class Kind(StrEnum):
    """Kind of a program."""

    WORKER = "worker"
    AGENT = "agent"
    GATEWAY = "gateway"


@dataclass
class Program:
    """One program and its process. On Linux the process dies with the process that started it.

    `env` has the settings of Drydock that are not options.
    """

    kind: Kind
    name: str
    data_dir: Path
    command: Sequence[str]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    lives: int = 0
    frozen: bool = False
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process; its output is appended to `log_path`."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        command = [*self.command]
        if shutil.which("setpriv"):
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        # Settings of the caller's environment must not reach this fleet.
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
                env=given | dict(self.env),
                start_new_session=True,
            )
        self.lives += 1
        self.frozen = False

    @property
    def is_running(self) -> bool:
        """True if the process exists, frozen or not."""
        return self.process is not None and self.process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last process; None while it runs or before it started."""
        return None if self.process is None else self.process.poll()

    def kill(self) -> None:
        """End the process at once (SIGKILL)."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        self.process.send_signal(number)

    def freeze(self) -> None:
        """Stop the process with SIGSTOP, which it cannot notice."""
        self.signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Let the process continue."""
        if self.is_running:
            self.signal(signal.SIGCONT)
        self.frozen = False

    def ended(self) -> int:
        """Wait until the process ends and return its exit code.

        Raises TimeoutExpired after 60 s, and kills the process first.
        """
        assert self.process is not None
        try:
            return self.process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def log_tail(self, size: int = 600) -> str:
        """Return the end of the log, at most `size` characters."""
        return self.log_path.read_text(errors="replace")[-size:].strip()


@dataclass(frozen=True, slots=True)
class Fleet:
    """The programs of one fleet."""

    programs: tuple[Program, ...]

    def of(self, kind: Kind) -> list[Program]:
        """Return the programs of one kind."""
        return [program for program in self.programs if program.kind is kind]

    def start(self) -> None:
        """Start all programs."""
        for program in self.programs:
            program.start()

    def end(self) -> dict[str, int]:
        """End all with SIGTERM: gateway, workers, executors. Return the exit codes by name.

        The code is -9 for a program that had to be killed.
        """
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
        """Kill all programs that run."""
        for program in self.programs:
            if program.is_running:
                program.kill()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Folder, addresses and size of a fleet; `slots` is the capacity of each executor."""

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
        """Folder with the keys that sign jobs."""
        return self.folder / "keys"

    @property
    def clock(self) -> Path:
        """File with the time line of the Macs' clock."""
        return self.folder / "clock.json"

    def fleet(self) -> Fleet:
        """Return the programs, not started."""
        agents = [self._agent(site, number) for site in self.sites for number in range(self.agents)]
        workers = [self._worker(number) for number in range(self.workers)]
        return Fleet((self._gateway(), *workers, *agents))

    def _program(
        self,
        kind: Kind,
        name: str,
        main: Sequence[str],
        *options: str,
        env: dict[str, str] | None = None,
    ) -> Program:
        data_dir = self.folder / name
        command = (*main, *options, "--data-dir", str(data_dir), "--bootstrap", self.bootstrap)
        return Program(
            kind, name, data_dir, command, self.folder / f"{name}.log", STAMPS_ENV | (env or {})
        )

    def _gateway(self) -> Program:
        where = ("--listen", f"127.0.0.1:{self.gateway_port}", "--time-line", str(self.clock))
        return self._program(Kind.GATEWAY, "gateway", GATEWAY, *where, env=SECRETS_ENV)

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
