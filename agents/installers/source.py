"""The interface to the installers of a site: a verified installer of one build, or why not.

A form over SSH asks it before each order of `startosinstall`, and again at each look until the
installer is there. Without a source the Mac fetches the installer from Apple.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from agents.mac import Obstacle
from schemas.jobs import Job


@dataclass(frozen=True, slots=True)
class Installer:
    """Apple's `InstallAssistant.pkg` of one build, which a Mac of the site can fetch.

    `url` is http or https, serves byte ranges and needs no header. It may have a secret, such as a
    signature for one job: it is in no argument of a process, no log and no journal. `size_bytes`
    and `sha256` (64 hexadecimal digits) are of the whole file; the Mac compares both, and then
    Apple's signature.
    """

    url: str
    size_bytes: int
    sha256: str

    def __repr__(self) -> str:
        """Return the text without `url`."""
        return f"Installer(size_bytes={self.size_bytes}, sha256={self.sha256!r})"


@dataclass(frozen=True, slots=True)
class Staging:
    """The installer is on its way to the site: ask again. `detail` says how far, without a URL."""

    detail: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a bucket that a site cache can fetch.

    `find` returns its present version there, None without one; it may raise the errors of the
    bucket.
    """

    sha256: str
    find: Callable[[], Any]


class InstallerSource(Protocol):
    """The installers of one site. Thread-safe; every call is short."""

    def installer(self, job: Job) -> Installer | Staging | Obstacle | None:
        """Return the installer of the job's target, of exactly its build if the target has one.

        Begins to fetch it to the site if it is not there. From then on it is kept until the job's
        `report_by`, or `expires_at` without one. An Obstacle ends the job: `installer_unavailable`
        if there is none, `installer_corrupt` if its bytes are not Apple's, `no_disk_space` if the
        site has no room for it. None: the Mac fetches it from Apple, as without a source.
        """
        ...

    def image(self, job: Job, stored: StoredFile) -> Installer | Staging | Obstacle | None:
        """Return the image of the job, as `installer` does. None: the Mac uses the image's own URL.

        Apple's content cache has no images, so they are fetched to the site beside one too.
        """
        ...
