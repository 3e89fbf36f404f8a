"""The installers of one live site: its cache, its HTTP server, and Apple's content cache."""

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from agents.installers.cache import FindFile, SiteCache, State, Waiting
from agents.installers.cache_key import CacheKey, ImageKey
from agents.installers.content_cache import CacheReport, read_report, serves
from agents.installers.links import Link, LinkSigner
from agents.installers.serving import InstallerServer
from agents.installers.source import Installer, Staging, StoredFile
from agents.mac import Obstacle
from runtime.listening import Listen
from runtime.logs import Log
from schemas import logkeys as key
from schemas.jobs import Job
from schemas.results import ErrorCode

# In the other states the job waits: they end by themselves, or a person ends them.
_OBSTACLES: Final = {
    State.MISSING: ErrorCode.INSTALLER_UNAVAILABLE,
    State.UNUSABLE: ErrorCode.INSTALLER_UNAVAILABLE,
    State.CORRUPT: ErrorCode.INSTALLER_CORRUPT,
    State.TOO_LARGE: ErrorCode.NO_DISK_SPACE,
}
# A site has one or two content caches.
_MOST_REPORTS: Final = 32


class SiteInstallers:
    """The source of installers of a site (InstallerSource).

    `url` is the address of the server for the Macs. `report_secret` returns the secret of the URL
    for reports, None if there are none. The constructor raises ValueError if the address cannot be
    used, OSError if the folder cannot.
    """

    def __init__(
        self,
        cache: SiteCache,
        folder: Path,
        listen: Listen,
        url: str,
        *,
        now: Callable[[], datetime],
        on_bytes: Callable[[int], None],
        log: Log,
        report_secret: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._cache = cache
        self._url = url.rstrip("/")
        self._now = now
        self._log = log
        self._signer = LinkSigner.in_folder(folder)
        self._reports: dict[str, CacheReport] = {}
        self._lock = threading.Lock()
        self.server = InstallerServer(
            listen,
            lambda path: self._signer.read(path, now()),
            self._find,
            on_bytes=on_bytes,
            report=self.add_report,
            report_secret=report_secret,
        )

    def start(self) -> None:
        """Start the cache and the server."""
        self._cache.start()
        self.server.start()

    def stop(self) -> None:
        """Stop both."""
        self.server.stop()
        self._cache.stop()

    def installer(self, job: Job) -> Installer | Staging | Obstacle | None:
        """Return the installer of the job's target; see InstallerSource.

        None while Apple's content cache serves the site, and for a target without a build: the Mac
        fetches its installer from Apple.
        """
        if job.target is None or job.target.build is None or self.is_served_by_apple():
            return None
        return self._file(job, job.target.build)

    def image(self, job: Job, stored: StoredFile) -> Installer | Staging | Obstacle:
        """Return an image for `asr`; see InstallerSource."""
        return self._file(job, ImageKey(stored.sha256), stored.find)

    def _file(
        self, job: Job, name: CacheKey, find: FindFile | None = None
    ) -> Installer | Staging | Obstacle:
        until = job.report_by or job.expires_at
        found = self._cache.request(name, job.job_id, until, find)
        if isinstance(found, Waiting):
            code = _OBSTACLES.get(found.state)
            detail = f"{found.state}: {found.detail}" if found.detail else found.state.value
            return Staging(detail) if code is None else Obstacle(code, detail)
        url = self._url + self._signer.path(job.job_id, name, until)
        return Installer(url, found.size_bytes(), found.sha256)

    def is_served_by_apple(self) -> bool:
        """Return True if a content cache has reported that it serves the site."""
        with self._lock:
            return serves(self._reports, self._now())

    def add_report(self, document: bytes) -> None:
        """Keep a report of a content cache. Raises ReportError for another document."""
        report = read_report(document, self._now())
        with self._lock:
            before = serves(self._reports, self._now())
            if report.server not in self._reports and len(self._reports) >= _MOST_REPORTS:
                oldest = min(self._reports.values(), key=lambda one: one.valid_until)
                del self._reports[oldest.server]
            self._reports[report.server] = report
            after = serves(self._reports, self._now())
        if before != after:
            text = "content cache serves the site" if after else "content cache does not serve"
            self._log.info(text, **{key.DETAIL: report.problem or ""})

    def _find(self, link: Link) -> tuple[Path, str] | None:
        until = datetime.fromtimestamp(link.until_s, self._now().tzinfo)
        found = self._cache.request(link.key, link.job_id, until)
        return None if isinstance(found, Waiting) else (found.path, found.sha256)
