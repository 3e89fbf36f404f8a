"""A real OpenSSH server on loopback, with keys of its own."""

import getpass
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.kafka.brokers import free_ports
from tests.mdm.programs import Program

SSHD: Final = Path("/usr/sbin/sshd")
MISSING: Final = "OpenSSH's server is missing: apt install openssh-server"


@dataclass(frozen=True)
class Sshd:
    """A running server and the files of its clients."""

    folder: Path
    port: int

    @property
    def user(self) -> str:
        """The account of each login."""
        return getpass.getuser()

    @property
    def key(self) -> Path:
        """A private key that may log in."""
        return self.folder / "client"

    @property
    def stranger_key(self) -> Path:
        """A private key that may not."""
        return self.folder / "stranger"

    @property
    def certified_key(self) -> Path:
        """A private key that may log in by its certificate only."""
        return self.folder / "certified"

    @property
    def certificate(self) -> Path:
        """The certificate of `certified_key`."""
        return self.folder / "certified-cert.pub"

    @property
    def known_hosts(self) -> Path:
        """The server's host key."""
        return self.folder / "known_hosts"

    @property
    def known_authority(self) -> Path:
        """The authority that certifies the server's host key, instead of the key."""
        return self.folder / "known_authority"

    @property
    def other_hosts(self) -> Path:
        """A host key of another server at this address."""
        return self.folder / "other_hosts"


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """Run a server within the block. Only public keys and certificates may log in."""
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd refuses to start as root without it
    folder.mkdir(parents=True)
    (port,) = free_ports(1)
    server = Sshd(folder, port)
    for name in ("host_key", "authority", "client", "stranger", "certified"):
        _keygen(folder, "-q", "-t", "ed25519", "-N", "", "-f", name)
    _keygen(folder, "-q", "-s", "authority", "-I", "agent", "-n", server.user, "certified.pub")
    _keygen(folder, "-q", "-s", "authority", "-I", "mac", "-h", "-n", "127.0.0.1", "host_key.pub")
    (folder / "authorized").write_text((folder / "client.pub").read_text())
    for file, mark, key in (
        (server.known_hosts, "", "host_key.pub"),
        (server.known_authority, "@cert-authority ", "authority.pub"),
        (server.other_hosts, "", "stranger.pub"),
    ):
        file.write_text(f"{mark}[127.0.0.1]:{port} {(folder / key).read_text()}")
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host_key",
        "HostCertificate": folder / "host_key-cert.pub",
        "PidFile": "none",
        "AuthorizedKeysFile": folder / "authorized",
        "TrustedUserCAKeys": folder / "authority.pub",
        "AuthenticationMethods": "publickey",
        "PermitRootLogin": "prohibit-password",
        "StrictModes": "no",
        "UsePAM": "no",
        "MaxStartups": "100",
    }
    lines = [f"{name} {value}\n" for name, value in settings.items()]
    (folder / "config").write_text("".join(lines))

    def responds() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False

    # By its absolute path: sshd starts itself again for each connection.
    command = [str(SSHD), "-D", "-e", "-f", str(folder / "config")]
    program = Program(command, folder, responds)
    program.start()
    try:
        yield server
    finally:
        program.stop()


def _keygen(folder: Path, *arguments: str) -> None:
    subprocess.run(["ssh-keygen", *arguments], cwd=folder, check=True, capture_output=True)
