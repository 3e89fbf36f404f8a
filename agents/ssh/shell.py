"""Drydock's scripts on a Mac: report of its state, and begin of a task that runs once."""

import plistlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, Literal

from agents.mac import Obstacle
from agents.ssh.connection import NotConnectedError, Output, SshConnection
from agents.ssh.report import Report, parse_report
from schemas.ids import clean_text
from schemas.results import ErrorCode

_SCRIPTS: Final = files("agents.ssh") / "scripts"
# Longer than it takes launchd to start the runner.
_BEGIN_WAIT_S: Final = 10


CostlyFact = Literal["enrollment", "history", "backups", "image"]
"""Facts that are read only if a job needs them: slow, long, or limited in their rate by macOS."""


@dataclass(frozen=True, slots=True)
class MacPaths:
    """Places on a Mac. `root_command` runs a command as root; empty if the login is root's.

    `tasks` must survive updates of macOS. `installers` is for packages while they are fetched.
    """

    root_command: tuple[str, ...] = ("/usr/bin/sudo", "-n")
    commands: str = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/libexec"
    tasks: str = "/Library/Application Support/Drydock/tasks"
    installers: str = "/Library/Application Support/Drydock/installers"
    applications: str = "/Applications"


@dataclass(frozen=True, slots=True)
class Command:
    """A command for a task.

    `notice_s`: seconds after a notice to the user at the screen; 0: no notice. `silence_s`: seconds
    without output after which it is ended. `secret` is one line for its standard input: a password,
    or a URL with a signature.
    """

    argv: Sequence[str]
    silence_s: int
    notice_s: int = 0
    secret: str | None = None


class MacShell:
    """Root's shell of one Mac."""

    def __init__(self, connection: SshConnection, paths: MacPaths) -> None:
        self._connection = connection
        self._paths = paths

    def report(
        self, job_id: str, volume_owner: str, costly: frozenset[CostlyFact] = frozenset()
    ) -> Report:
        """Return the facts of the Mac and the tasks of a job.

        `volume_owner` is the account that authorizes installations, "" without one. Raises
        UnreadableReportError, and UnreachableError as `SshConnection.run`, with an obstacle if the
        account may not run commands as root.
        """
        wanted = " ".join(sorted(costly))
        output = self._run("report.sh", self._paths.tasks, job_id, volume_owner, wanted)
        if output.exit_status != 0 and not output.stdout:
            # As of sudo, which asks for a password.
            detail = f"no root shell on the Mac: {clean_text(output.stderr)}"[:200]
            raise NotConnectedError(detail, Obstacle(ErrorCode.SSH_LOGIN_REFUSED, detail))
        return parse_report(output.stdout)

    def begin(self, task: str, command: Command, *, until_end: bool = False) -> Output:
        """Begin the command of a task unless it has begun before; it continues without us.

        Waits some seconds for the begin, or with `until_end` for the end; neither is certain
        afterwards. Exit status 0: launchd runs it; another one: nothing was begun. Raises
        UnreachableError as `SshConnection.run`.
        """
        folder, token = f"{self._paths.tasks}/{task}", secrets.token_hex(4)
        pipe = "" if command.secret is None else f"{folder}/{token}.pipe"
        runner_argv = [
            *("/bin/bash", f"{folder}/{token}.sh", folder, pipe),
            *(str(command.notice_s), str(command.silence_s), *command.argv),
        ]
        job = plistlib.dumps(
            {
                "Label": f"drydock.{task}.{token}",
                "ProgramArguments": runner_argv,
                "EnvironmentVariables": self._environment(),
                "RunAtLoad": True,
                "LaunchOnlyOnce": True,
            }
        )
        milestone = "exit" if until_end else "begun"
        stdin = "" if command.secret is None else f"{command.secret}\n"
        arguments = (folder, token, _script("run.sh"), job.decode(), milestone, str(_BEGIN_WAIT_S))
        return self._run("begin.sh", *arguments, stdin=stdin)

    def _run(self, script: str, *arguments: str, stdin: str = "") -> Output:
        variables = [f"{name}={value}" for name, value in self._environment().items()]
        command = script_command(script, *arguments)
        argv = [*self._paths.root_command, "/usr/bin/env", "-i", *variables, *command]
        return self._connection.run(argv, stdin)

    def _environment(self) -> dict[str, str]:
        """Return the environment of each command: nothing of the account's own profile."""
        return {"PATH": self._paths.commands, "LANG": "en_US.UTF-8", "HOME": "/var/root"}


def script_command(name: str, *arguments: str) -> list[str]:
    """Return the command line that runs one of the scripts of this folder."""
    return ["/bin/bash", "-c", _script(name), name, *arguments]


def _script(name: str) -> str:
    return (_SCRIPTS / name).read_text(encoding="utf-8")
