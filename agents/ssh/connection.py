"""Connections to Macs over SSH: pinned host keys, keys or certificates, limits of time and size.

Each call is one connection. No setting of this machine's own SSH client and no SSH agent counts,
and a host key that is not in `known_hosts` is refused.

| error | meaning | nothing was run |
| --- | --- | --- |
| HostKeyNotVerifiable | the host key is another one, or unknown | certain |
| PermissionDenied | the Mac refuses the login | certain |
| a file of the login is unreadable | it may be being replaced | certain |
| no connection within `connect_timeout_s` | the Mac is off, or elsewhere | certain |
| cut or timeout after that | the command may go on without a connection | not known |
"""

import asyncio
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncssh

from agents.mac import Obstacle, UnreachableError
from schemas.results import ErrorCode

_MAX_OUTPUT: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Login:
    """Login of the agent at each Mac of a site, by the paths of its files.

    `certificate` is an OpenSSH certificate for the key. `known_hosts` has the Macs' host keys, or
    the key of the authority that certifies them (`@cert-authority`).
    """

    user: str
    key: Path
    known_hosts: Path
    certificate: Path | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds, for the login and for one command."""

    connect_s: float = 5.0
    command_s: float = 30.0


class NotConnectedError(UnreachableError):
    """There is no connection, so nothing was run."""


@dataclass(frozen=True, slots=True)
class Output:
    """End of a command on a Mac: exit status, and both streams as text."""

    exit_status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class SshConnection:
    """The way to run commands on one Mac at `address`."""

    address: str
    port: int
    login: Login
    timeouts: Timeouts = Timeouts()

    def run(self, argv: Sequence[str], stdin: str = "") -> Output:
        """Run one command and return its end. A secret belongs in `stdin`, never in `argv`.

        Raises NotConnectedError if it was not run, with an obstacle if the login or the host key is
        refused; UnreachableError if the connection was cut or the command took too long, which may
        go on then.
        """
        return asyncio.run(self._run(shlex.join(argv), stdin))

    async def _run(self, command: str, stdin: str) -> Output:
        connection = await self._connect()
        try:
            async with asyncio.timeout(self.timeouts.command_s):
                return await _complete(connection, command, stdin)
        except TimeoutError as error:
            raise UnreachableError(f"no end within {self.timeouts.command_s:g} s") from error
        except (asyncssh.Error, OSError) as error:
            raise UnreachableError(f"the connection was cut: {error}") from error
        finally:
            connection.abort()

    async def _connect(self) -> asyncssh.SSHClientConnection:
        login = self.login
        try:
            key: Any = login.key.read_bytes()
            if login.certificate is not None:
                key = (key, login.certificate.read_bytes())
            # Never None, which would switch the check off.
            known_hosts = asyncssh.read_known_hosts(str(login.known_hosts))
        except (OSError, ValueError) as error:
            raise NotConnectedError(f"a file of the SSH login is unusable: {error}") from error
        try:
            async with asyncio.timeout(self.timeouts.connect_s):
                return await asyncssh.connect(
                    self.address,
                    self.port,
                    username=login.user,
                    client_keys=[key],
                    known_hosts=known_hosts,
                    agent_path=None,
                    config=None,
                    preferred_auth="publickey",
                )
        except TimeoutError as error:
            raise NotConnectedError(f"no login within {self.timeouts.connect_s:g} s") from error
        except asyncssh.HostKeyNotVerifiable as error:
            detail = f"the host key of {self.address} is not one of known_hosts"
            raise NotConnectedError(detail, Obstacle(ErrorCode.HOST_KEY_UNKNOWN, detail)) from error
        except asyncssh.PermissionDenied as error:
            detail = f"{self.address} refuses the login of {login.user}"
            raise NotConnectedError(
                detail, Obstacle(ErrorCode.SSH_LOGIN_REFUSED, detail)
            ) from error
        except (asyncssh.Error, OSError) as error:
            raise NotConnectedError(f"no connection: {error}") from error
        except ValueError as error:
            raise NotConnectedError(f"key or certificate is unusable: {error}") from error


async def _complete(connection: asyncssh.SSHClientConnection, command: str, stdin: str) -> Output:
    """Return the end of a command. Raises asyncssh.Error if the connection is cut before it."""
    # Not as a context: its end would wait for the command, also after a timeout.
    process = await connection.create_process(command, errors="replace")
    process.stdin.write(stdin)
    process.stdin.write_eof()
    stdout, stderr = await asyncio.gather(_read(process.stdout), _read(process.stderr))
    await process.wait()
    status = process.exit_status
    # asyncssh has -1 for a command that a signal ended: it is not known how far the command came.
    if status is None or status < 0:
        raise asyncssh.ConnectionLost("no exit status")
    return Output(status, stdout, stderr)


async def _read(stream: asyncssh.SSHReader[str]) -> str:
    """Return the text of a stream. Raises asyncssh.ConnectionLost if it is too long."""
    parts: list[str] = []
    size = 0
    while part := await stream.read(64 * 1024):
        parts.append(part)
        size += len(part)
        if size > _MAX_OUTPUT:
            raise asyncssh.ConnectionLost("the output is too long")
    return "".join(parts)
