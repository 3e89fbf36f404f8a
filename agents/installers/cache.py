"""The cache of installers at a site: one thread fetches each needed file once, for all its jobs.

A file is the installer of a build, or an image for `asr`. A job that needs one is recorded until it
ends. The thread takes the needed files in the order in which they were asked for, one at a time:
they share one uplink. While a file is not there, its
state has the reason:

| state | the thread tries again |
| --- | --- |
| `queued`, `verifying`, `arriving` | it is at work |
| `storage_away` | after a random delay of at most 10 s; it continues at the byte that it has |
| `storage_refused`, `disk_failed` | each minute |
| `missing` | each minute, for an installer that is added later |
| `corrupt`, `unusable`, `too_large` | each five minutes; fetched again only if the object changed |
| `budget_full`, `disk_full` | each ten seconds, without a transfer |

Invariants: a file is handed out only after its SHA-256 was compared by this process, and while it
is unchanged since; the files never exceed the budget; a file that an open job needs is not
deleted. A crash loses no complete file and no recorded job.
"""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Final

from agents.installers.bucket import (
    BucketFile,
    BucketRefusedError,
    InstallerBucket,
    UnusableObjectError,
)
from agents.installers.cache_folder import (
    BudgetFullError,
    CachedFile,
    CacheFolder,
    VolumeFullError,
)
from agents.installers.cache_index import CacheIndex
from agents.installers.cache_key import CacheKey, ImageKey
from agents.installers.metrics import InstallerMetrics
from agents.installers.refusal import RefusalReason
from agents.installers.transfer import (
    ChangedError,
    NoRoomError,
    TransferCutError,
    continue_transfer,
    discard,
    finish,
    sha256_of,
)
from runtime.free_space import SpaceReserve
from runtime.logs import Log
from runtime.retry import BROKER, Backoff, RetryPolicy
from schemas import logkeys as key

_CHECK_ROOM_EVERY: Final = 64 * 1024 * 1024
_STOP_S: Final = 5.0
_LONGEST_WAIT_S: Final = 60.0


FindFile = Callable[[], BucketFile | None]


class State(StrEnum):
    """Reason for which a file is not at the site yet."""

    QUEUED = "queued"
    VERIFYING = "verifying"
    ARRIVING = "arriving"
    STORAGE_AWAY = "storage_away"
    STORAGE_REFUSED = "storage_refused"
    MISSING = "missing"
    UNUSABLE = "unusable"
    CORRUPT = "corrupt"
    TOO_LARGE = "too_large"
    BUDGET_FULL = "budget_full"
    DISK_FULL = "disk_full"
    DISK_FAILED = "disk_failed"


@dataclass(frozen=True, slots=True)
class Waiting:
    """The installer is not there; `detail` has no secret."""

    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds until the thread tries again."""

    away: RetryPolicy = BROKER
    room_s: float = 10.0
    missing_s: float = 60.0
    refused_s: float = 300.0


@dataclass(frozen=True, slots=True)
class _Verified:
    """A file whose SHA-256 was compared, and what shows that it has not changed since."""

    file: CachedFile
    mark: tuple[int, int, int]


class _EndingError(Exception):
    """The process ends: the transfer is left as it is."""


class SiteCache:
    """The cache in the folder of `reserve`, of at most `budget_bytes`.

    `now` is the clock of the jobs. Raises what `CacheIndex.open` raises. `start` begins the thread;
    any thread may call `request`, which waits for no transfer.
    """

    def __init__(
        self,
        bucket: InstallerBucket,
        reserve: SpaceReserve,
        budget_bytes: int,
        *,
        now: Callable[[], datetime],
        metrics: InstallerMetrics,
        log: Log,
        pauses: Pauses | None = None,
    ) -> None:
        self._bucket = bucket
        self._now = now
        self._metrics = metrics
        self._log = log
        self._pauses = pauses or Pauses()
        self._index = CacheIndex.open(reserve.folder)
        self._folder = CacheFolder(reserve, budget_bytes, self._order_of_use, self._give_up)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._verified: dict[CacheKey, _Verified] = {}
        self._states: dict[CacheKey, Waiting] = {}
        self._retry_at: dict[CacheKey, float] = {}
        self._backoffs: dict[CacheKey, Backoff] = {}
        self._refused: dict[CacheKey, str] = {}
        self._find_image: dict[CacheKey, FindFile] = {}
        metrics.watch(self.used_bytes, lambda: budget_bytes, self.held_jobs)

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, daemon=True, name="installers")
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; a transfer is continued by the next process. Close the records."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_STOP_S)
            if self._thread.is_alive():
                return  # it waits for S3: the end of the process ends it
        with self._lock:
            self._index.close()

    def request(
        self, name: CacheKey, job_id: str, until: datetime, find: FindFile | None = None
    ) -> CachedFile | Waiting:
        """Return the file of this key that a job needs until a time, or the reason to wait.

        `find` returns an image in its bucket, None without one, and raises as InstallerBucket does.
        An image is fetched only while this process has got it; one at the site is verified without.
        """
        if find is not None:
            self._find_image[name] = find
        try:
            return self._request(name, job_id, until)
        except sqlite3.Error as error:
            return Waiting(
                State.DISK_FAILED, f"the records of the cache cannot be written: {error}"
            )

    def _request(self, name: CacheKey, job_id: str, until: datetime) -> CachedFile | Waiting:
        with self._lock:
            is_new = self._index.need(job_id, name, until)
            file = self._ready(name)
            if is_new:
                self._metrics.count_request(hit=file is not None)
            if file is None:
                self._wake.set()
                return self._states.get(name, Waiting(State.QUEUED))
            if is_new:
                self._index.touch(file.path.name)
            return file

    def used_bytes(self) -> int:
        """Return the size of all files."""
        try:
            return self._folder.used_bytes()
        except (OSError, sqlite3.Error):
            return 0

    def held_jobs(self) -> int:
        """Return the number of open jobs whose installer is not there."""
        with self._lock:
            if self._stop.is_set():
                return 0
            needs = self._index.needs(self._now())
            return sum(1 for need in needs if self._ready(need.key) is None)

    def _ready(self, name: CacheKey) -> CachedFile | None:
        """Return the verified file of a key, unless it has changed or is gone."""
        verified = self._verified.get(name)
        if verified is None:
            return None
        if _mark(verified.file.path) != verified.mark:
            del self._verified[name]
            return None
        return verified.file

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                wait_s = self._step()
            except Exception as error:  # noqa: BLE001 - a bug must not end the thread silently
                self._log.exception("unhandled exception", **{key.DETAIL: type(error).__name__})
                wait_s = _LONGEST_WAIT_S
            if wait_s > 0 and not self._wake.wait(wait_s):
                self._prune()

    def _prune(self) -> None:
        """Delete the records of jobs that have ended; a full disk leaves them for later."""
        with self._lock, suppress(sqlite3.Error):
            if not self._stop.is_set():
                self._index.prune(self._now())

    def _step(self) -> float:
        """Try the first needed file that is due; return the seconds until the next step."""
        with self._lock:
            now = self._now()
            needed = dict.fromkeys(need.key for need in self._index.needs(now))
            missing = [name for name in needed if self._ready(name) is None]
        wait_s = _LONGEST_WAIT_S
        for name in missing:
            if not self._has_place(name) and self._folder.find(name) is None:
                continue
            rest = self._retry_at.get(name, 0.0) - monotonic()
            if rest <= 0:
                self._try(name)
                return 0.0
            wait_s = min(wait_s, rest)
        return wait_s

    def _try(self, name: CacheKey) -> None:
        """Bring one file to the site as far as possible now."""
        try:
            self._stage(name)
        except _EndingError:
            return
        except TransferCutError as error:
            self._metrics.count_cut()
            backoff = self._backoffs.setdefault(name, Backoff(self._pauses.away))
            self._wait(name, State.STORAGE_AWAY, str(error), backoff.next_delay_s())
        except BucketRefusedError as error:
            self._wait(name, State.STORAGE_REFUSED, str(error), self._pauses.missing_s)
        except UnusableObjectError as error:
            self._refuse(name, State.UNUSABLE, RefusalReason.UNUSABLE, str(error), "")
        except BudgetFullError as error:
            self._wait(name, State.BUDGET_FULL, str(error), self._pauses.room_s)
        except (NoRoomError, VolumeFullError) as error:
            self._wait(name, State.DISK_FULL, str(error), self._pauses.room_s)
        except (OSError, sqlite3.Error) as error:
            detail = f"the disk of the cache fails: {error}"
            self._wait(name, State.DISK_FAILED, detail, self._pauses.missing_s)

    def _stage(self, name: CacheKey) -> None:
        if (file := self._folder.find(name)) is not None and self._verify(file):
            return
        if not self._has_place(name):
            return  # the next request of a job has its place
        stored = self._find(name)
        if stored is None:
            self._wait(name, State.MISSING, _missing(name), self._pauses.missing_s)
            return
        tag = stored.tag
        if self._refused.get(name) == tag:
            self._retry_at[name] = monotonic() + self._pauses.refused_s
            return
        target = self._folder.target(name, stored.sha256)
        if stored.size_bytes > self._folder.budget_bytes:
            detail = f"{stored.size_bytes} bytes, the budget is {self._folder.budget_bytes}"
            self._refuse(name, State.TOO_LARGE, RefusalReason.TOO_LARGE, detail, tag)
            return
        self._folder.make_room(target, stored.size_bytes)
        self._fetch(name, stored, target)

    def _has_place(self, name: CacheKey) -> bool:
        """Return True if this process knows the place of a file in its bucket."""
        return not isinstance(name, ImageKey) or name in self._find_image

    def _find(self, name: CacheKey) -> BucketFile | None:
        """Return the file in its bucket, None if it has none."""
        if isinstance(name, ImageKey):
            return self._find_image[name]()
        stored = self._bucket.find(name)
        return None if stored is None else self._bucket.open(stored)

    def _fetch(self, name: CacheKey, stored: BucketFile, target: Path) -> None:
        self._set(name, Waiting(State.ARRIVING))
        unchecked = 0

        def on_bytes(size: int) -> None:
            nonlocal unchecked
            self._end_if_stopped()
            self._metrics.count_fetched(size)
            if name in self._backoffs:
                self._backoffs[name].reset()
            unchecked += size
            if unchecked >= _CHECK_ROOM_EVERY:
                unchecked = 0
                self._report_progress(name, stored, target)
                if shortage := self._folder.shortage():
                    raise NoRoomError(shortage)

        try:
            partial = continue_transfer(stored, target, on_bytes)
        except ChangedError:
            discard(target)
            raise
        self._set(name, Waiting(State.VERIFYING))
        found = sha256_of(partial, self._end_if_stopped)
        if found != stored.sha256:
            discard(target)
            detail = f"its bytes have SHA-256 {found}, its metadata states {stored.sha256}"
            self._refuse(name, State.CORRUPT, RefusalReason.CORRUPT, detail, stored.tag)
            return
        file = CachedFile(finish(target), name, stored.sha256)
        self._accept(file)
        self._log.info("installer fetched", **{key.KEY: str(name), key.PATH: str(file.path)})

    def _verify(self, file: CachedFile) -> bool:
        """Compare a complete file with its name; a damaged one is deleted."""
        self._set(file.key, Waiting(State.VERIFYING))
        if sha256_of(file.path, self._end_if_stopped) == file.sha256:
            self._accept(file)
            return True
        self._folder.delete(file)
        self._metrics.count_refusal(RefusalReason.CORRUPT)
        self._log.error(
            "installer in the cache is damaged: fetched again", **{key.KEY: str(file.key)}
        )
        return False

    def _accept(self, file: CachedFile) -> None:
        with self._lock:
            self._verified[file.key] = _Verified(file, _mark(file.path))
            self._index.touch(file.path.name)
            self._states.pop(file.key, None)
        self._retry_at.pop(file.key, None)
        self._refused.pop(file.key, None)

    def _refuse(
        self, name: CacheKey, state: State, reason: RefusalReason, detail: str, tag: str
    ) -> None:
        self._metrics.count_refusal(reason)
        self._refused[name] = tag
        self._wait(name, state, detail, self._pauses.refused_s)

    def _wait(self, name: CacheKey, state: State, detail: str, pause_s: float) -> None:
        self._retry_at[name] = monotonic() + pause_s
        if self._states.get(name, Waiting(State.QUEUED)).state is not state:
            self._log.warning(
                "installer is not at the site",
                **{key.KEY: str(name), key.REASON: state.value, key.DETAIL: detail},
            )
        self._set(name, Waiting(state, detail))

    def _report_progress(self, name: CacheKey, stored: BucketFile, target: Path) -> None:
        percent = 100 * self._folder.fetched_bytes(target) // max(stored.size_bytes, 1)
        self._set(name, Waiting(State.ARRIVING, f"{percent} % of {stored.size_bytes} bytes"))

    def _set(self, name: CacheKey, waiting: Waiting) -> None:
        with self._lock:
            self._states[name] = waiting

    def _end_if_stopped(self, _: int = 0) -> None:
        if self._stop.is_set():
            raise _EndingError

    def _order_of_use(self) -> dict[str, int]:
        with self._lock:
            return self._index.order_of_use()

    def _give_up(self, name: CacheKey, file: CachedFile | None) -> bool:
        """Return True if no open job needs the file; then its file is handed out no more."""
        with self._lock:
            if any(need.key == name for need in self._index.needs(self._now())):
                return False
            if file is not None:
                self._verified.pop(name, None)
                self._index.forget(file.path.name)
        if file is not None:
            self._metrics.count_eviction()
            self._log.info("installer evicted", **{key.KEY: str(name)})
        return True


def _missing(name: CacheKey) -> str:
    if isinstance(name, ImageKey):
        return "the bucket has no file of this image"
    return f"the bucket has no installer of {name}: run drydock installers sync"


def _mark(path: Path) -> tuple[int, int, int]:
    """Return what changes with the content of a file; zeros if it is gone."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns
