"""A Mac on loopback: OpenSSH's server, and fakes of Apple's tools with the Mac's state."""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from agents.installers.source import InstallerSource
from agents.mac import Observation, UnreachableError
from agents.ssh.activations import Activation
from agents.ssh.connection import Login, SshConnection, Timeouts
from agents.ssh.images import Image
from agents.ssh.mac import SshMacs, VolumeOwner
from agents.ssh.shell import MacPaths
from schemas.jobs import Job, Target
from schemas.macos import parse_build, parse_os_version
from tests.factories.sites import a_job
from tests.ssh.sshd import Sshd

SERIAL: Final = "C02XK1ZYJHD3"
PASSWORD: Final = "owner-Secret 1'\"$x"
TARGET: Final = Target(version=parse_os_version("26.7"), build=parse_build("25G229"))
LABEL: Final = "macOS Tahoe 26.7-25G229"
UPDATE: Final = a_job(serial=SERIAL, target=TARGET, intent=TARGET.key)
LISTING: Final = """\
Software Update Tool

Finding available software
Software Update found the following new or updated software:
* Label: macOS Tahoe 26.7-25G229
\tTitle: macOS Tahoe 26.7, Version: 26.7, Size: 3039632KiB, Recommended: YES, Action: restart, \n\
* Label: macOS 27-26A428
\tTitle: macOS 27, Version: 27, Size: 11727219KiB, Recommended: YES, Action: restart, \n"""
NO_UPDATES: Final = "Software Update Tool\n\nNo new software available.\n"
INSTALLS: Final = """\
printf 'Software Update Tool\\n\\nDownloading macOS Tahoe 26.7\\n\\rDownloading: 30.00%'
printf '\\rDownloading: 100.00%\\nDownloaded: macOS Tahoe 26.7\\n\\rPreparing: 50.0%'
sleep 0.3
printf '\\nRestarting...\\n'
restart_into 26.7 25G229
"""
_FAKE_TOOLS: Final = Path(__file__).parent / "fake_tools"
_FACTS: Final = ("sw_vers", "ioreg", "sysctl", "df", "pmset", "stat", "diskutil", "dscl", "ps")
_ACTIONS: Final = ("profiles", "osascript", "sudo", "sync", "sleep", "tmutil", "plutil")
_IMAGING: Final = ("asr", "bless", "shutdown", "system_profiler")
_INSTALLING: Final = ("hdiutil", "PlistBuddy", "pkgutil", "installer")
_OWNER_UID: Final = "11111111-2222-3333-4444-555555555555"


@dataclass
class MacBench:
    """One Mac: an up-to-date folder of its state, which a test may change at any time."""

    folder: Path
    server: Sshd
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(connect_s=20, command_s=40))
    port: int | None = None
    root_command: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        programs = self.folder / "bin"
        if programs.exists():  # another process of the test has made the Mac
            return
        programs.mkdir(parents=True)
        self.applications.mkdir()
        for name in (*_FACTS, *_ACTIONS):
            shutil.copy(_FAKE_TOOLS / "fact", programs / name)
        for name in _INSTALLING:
            shutil.copy(_FAKE_TOOLS / "install_tools", programs / name)
        for name in _IMAGING:
            shutil.copy(_FAKE_TOOLS / "image_tools", programs / name)
        for name in ("launchctl", "restart", "softwareupdate", "startosinstall"):
            shutil.copy(_FAKE_TOOLS / name, programs / name)
        self.set(
            serial=SERIAL,
            version="26.6",
            build="25G72",
            boot=str(int(time.time()) - 86400),
            free_kb="62500000",
            power="Now drawing from 'AC Power'",
            console="root",
            owner_uid=_OWNER_UID,
            account_uid=_OWNER_UID,
            processes="/sbin/launchd",
        )
        self.set(**{"list.txt": LISTING, "install.sh": INSTALLS})

    def set(self, **state: str) -> None:
        """Write parts of the Mac's state."""
        for name, text in state.items():
            (self.folder / name).write_text(text if text.endswith("\n") else f"{text}\n")

    def offer_updates(self) -> None:
        """Leave the ended listing of `list.txt` on the Mac, as if a look had begun it."""
        listing = self.tasks / f"{UPDATE.job_id}.list.1"
        listing.mkdir(parents=True)
        now = int(time.time())
        (listing / "begun").symlink_to(f"1.{now}")
        (listing / "output").write_text((self.folder / "list.txt").read_text())
        (listing / "exit").write_text(f"0 {now}\n")

    @property
    def paths(self) -> MacPaths:
        """The places on the Mac."""
        return MacPaths(
            root_command=self.root_command,
            commands=f"{self.folder / 'bin'}:/usr/bin:/bin:/usr/sbin:/sbin",
            tasks=str(self.tasks),
            installers=str(self.folder / "Drydock installers"),
            applications=str(self.applications),
        )

    @property
    def applications(self) -> Path:
        """The folder of applications on the Mac."""
        return self.folder / "Applications"

    @property
    def tasks(self) -> Path:
        """The folder of all tasks on the Mac."""
        return self.folder / "Drydock tasks"

    def lines(self, name: str) -> list[str]:
        """Return the lines of a record of the Mac; none if nothing happened."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def connection(self, **login: Path | None) -> SshConnection:
        """Return a connection to the Mac; `login` replaces files of the login."""
        files = {"key": self.server.key, "known_hosts": self.server.known_hosts}
        port = self.port or self.server.port
        if self.port is not None and "known_hosts" not in login:
            # The key is pinned by address and port, and a proxy has another port.
            known = self.server.known_hosts.read_text()
            files["known_hosts"] = self.folder / "known_hosts"
            files["known_hosts"].write_text(known.replace(f":{self.server.port} ", f":{port} "))
        whole = Login(self.server.user, **(files | login))  # type: ignore[arg-type]
        return SshConnection("127.0.0.1", port, whole, self.timeouts)

    def macs(
        self,
        password: str | None = PASSWORD,
        silence_s: int = 60,
        installers: InstallerSource | None = None,
        images: Sequence[Image] = (),
        activations: Mapping[str, Activation] | None = None,
    ) -> SshMacs:
        """Return the executor's form of this Mac. `password` None: none can be read."""
        return SshMacs(
            lambda _: self.connection(),
            now=lambda: datetime.now(UTC),
            volume_owner=VolumeOwner("itadmin", lambda: password),
            installers=installers,
            images=lambda: images,
            activations=activations,
            silence_s=silence_s,
            paths=self.paths,
        )


def look(macs: SshMacs, job: Job = UPDATE) -> Observation:
    """Return an observation; look again while the offered updates are being listed."""
    for _ in range(100):
        try:
            return macs.look(job)
        except UnreachableError as error:
            if error.obstacle is not None or "listed" not in str(error):
                raise
            time.sleep(0.1)
    raise AssertionError("the listing does not end")


def processes_of(folder: Path) -> list[str]:
    """Return the command lines of processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command and str(os.getpid()) != path.parent.name:
            found.append(command)
    return found
