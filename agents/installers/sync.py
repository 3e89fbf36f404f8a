"""Fetch installers from Apple once, and store them in a bucket with their SHA-256.

| step | continues after a cut or a crash |
| --- | --- |
| the file is fetched from Apple into `folder` | at the byte that is on disk |
| its size is compared with SOFA's, its SHA-256 is computed | computed again |
| it is uploaded in parts | with the parts that S3 lacks |
| the object appears, if the bucket has none for the build | yes: a lost response is found out |
| the local file is deleted | yes |

The SHA-256 proves that later copies equal this first one. The Mac proves that it is Apple's:
`pkgutil --check-signature`, before the installer is used.
"""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import httpx

from agents.installers.bucket import InstallerBucket, StoredInstaller, UnusableObjectError
from agents.installers.catalog import APPLE_HOSTS, CatalogEntry, origin_problem
from agents.installers.origin import Origin, OriginError
from agents.installers.transfer import (
    ChangedError,
    NoRoomError,
    TransferCutError,
    continue_transfer,
    discard,
    finish,
    partial_bytes,
    sha256_of,
)
from agents.installers.upload import (
    PART_BYTES,
    DifferentObjectError,
    Upload,
    discard_upload,
    upload,
)
from runtime.free_space import SpaceReserve
from runtime.retry import BROKER, RetryPolicy, retrying

_ATTEMPTS: Final = 8
P = ParamSpec("P")
T = TypeVar("T")


class SyncOutcome(StrEnum):
    """Outcome for one build."""

    STORED = "stored"
    PRESENT = "present"
    REFUSED = "refused"  # SOFA, the origin and the bucket do not agree: a person must look
    FAILED = "failed"  # an outage or a full disk: the next run continues


@dataclass(frozen=True, slots=True)
class SyncResult:
    """Outcome for one build, with the reason of a refusal or failure."""

    entry: CatalogEntry
    outcome: SyncOutcome
    detail: str = ""
    stored: StoredInstaller | None = None


class InstallerSync:
    """Fetches installers into `folder`, one at a time, and stores them in the bucket.

    `hosts` are the hosts of origins. `on_bytes` is called with the size of each piece that was
    transferred. `attempts` is the limit of attempts in a row without progress.
    """

    def __init__(
        self,
        bucket: InstallerBucket,
        http: httpx.Client,
        folder: Path,
        *,
        hosts: Collection[str] = APPLE_HOSTS,
        on_bytes: Callable[[int], None] = lambda _: None,
        retry: RetryPolicy = BROKER,
        attempts: int = _ATTEMPTS,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._bucket = bucket
        self._http = http
        self._folder = folder
        self._hosts = hosts
        self._on_bytes = on_bytes
        self._retry = retry
        self._attempts = attempts
        self._part_bytes = part_bytes
        self._progress = False

    def sync(self, entry: CatalogEntry, *, replace: bool = False) -> SyncResult:
        """Store one installer; with `replace` also in place of an object with other bytes.

        Raises BucketRefusedError: no other build would succeed either.
        """
        try:
            return self._sync(entry, replace=replace)
        except (OriginError, DifferentObjectError, UnusableObjectError) as error:
            return SyncResult(entry, SyncOutcome.REFUSED, str(error))
        except (TransferCutError, NoRoomError, OSError) as error:
            return SyncResult(entry, SyncOutcome.FAILED, str(error))

    def _sync(self, entry: CatalogEntry, *, replace: bool) -> SyncResult:
        present, replaces = self._present(entry, replace=replace)
        if present is not None and replaces is None:
            return self._compared(entry, present)
        if problem := origin_problem(entry.url, self._hosts):
            raise OriginError(problem)
        origin = self._repeat(Origin.find, self._http, entry.url)
        if origin.size_bytes != entry.size_bytes:
            detail = f"the origin has {origin.size_bytes} bytes, SOFA states {entry.size_bytes}"
            raise OriginError(detail)
        target = self._folder / f"{entry.build}.pkg"
        self._check_room(target, entry)
        file = target if self._is_fetched(target, entry) else self._fetch(origin, target)
        sha256 = sha256_of(file)
        if present is not None and present.sha256 == sha256 and not verify(self._bucket, present):
            file.unlink()
            return SyncResult(entry, SyncOutcome.PRESENT, "equal to Apple's file", present)
        wanted = Upload(
            file=file,
            build=entry.build,
            version=entry.version,
            size_bytes=entry.size_bytes,
            sha256=sha256,
            origin=entry.url,
            replaces=replaces,
        )
        stored = self._repeat(upload, self._bucket, wanted, self._moved, self._part_bytes)
        discard_upload(self._bucket, file, entry.build)
        file.unlink()
        return SyncResult(entry, SyncOutcome.STORED, stored=stored)

    def _present(
        self, entry: CatalogEntry, *, replace: bool
    ) -> tuple[StoredInstaller | None, str | None]:
        """Return the build's object, and its version if it is to be replaced."""
        present = self._repeat(self._bucket.find, entry.build)
        return present, present.etag if present is not None and replace else None

    def _compared(self, entry: CatalogEntry, present: StoredInstaller) -> SyncResult:
        if present.size_bytes != entry.size_bytes:
            detail = f"the bucket has {present.size_bytes} bytes, SOFA states {entry.size_bytes}"
            return SyncResult(entry, SyncOutcome.REFUSED, detail, present)
        return SyncResult(entry, SyncOutcome.PRESENT, stored=present)

    def _check_room(self, target: Path, entry: CatalogEntry) -> None:
        present = target.stat().st_size if target.exists() else partial_bytes(target)
        shortage = SpaceReserve(self._folder).shortage(max(entry.size_bytes - present, 0))
        if shortage is not None:
            raise NoRoomError(shortage)

    def _is_fetched(self, target: Path, entry: CatalogEntry) -> bool:
        """Return True if an earlier run has fetched the whole file and not stored it."""
        return target.exists() and target.stat().st_size == entry.size_bytes

    def _fetch(self, origin: Origin, target: Path) -> Path:
        self._repeat(self._continue, origin, target)
        return finish(target)

    def _continue(self, origin: Origin, target: Path) -> Path:
        try:
            return continue_transfer(origin, target, self._moved)
        except ChangedError:
            discard(target)
            raise

    def _moved(self, size: int) -> None:
        self._progress = True
        self._on_bytes(size)

    def _repeat(self, function: Callable[P, T], *args: P.args, **options: P.kwargs) -> T:
        """Call a function until it succeeds, or fails too often without progress in between."""
        while True:
            self._progress = False
            try:
                return retrying(self._retry, TransferCutError, attempts=self._attempts)(
                    function, *args, **options
                )
            except TransferCutError:
                if not self._progress:
                    raise


def verify(
    bucket: InstallerBucket, stored: StoredInstaller, size_bytes: int | None = None
) -> str | None:
    """Read an object whole; return the reason for which it is damaged, None if it is not.

    `size_bytes` is the size that SOFA states, None if it is unknown. A cut is continued. Raises
    TransferCutError if S3 stays away, BucketRefusedError.
    """
    if size_bytes is not None and stored.size_bytes != size_bytes:
        return f"it has {stored.size_bytes} bytes, SOFA states {size_bytes}"
    found, file, read = hashlib.sha256(), bucket.open(stored), 0

    def continue_reading() -> None:
        nonlocal read
        with file.read_from(read) as pieces:
            for piece in pieces:
                found.update(piece)
                read += len(piece)

    while read < stored.size_bytes:
        before = read
        try:
            retrying(BROKER, TransferCutError, attempts=_ATTEMPTS)(continue_reading)
        except TransferCutError:
            if read == before:
                raise
        else:
            if read == before:
                raise TransferCutError(f"the installer of {stored.build} was cut")
    if found.hexdigest() == stored.sha256:
        return None
    return f"its SHA-256 is {found.hexdigest()}, its metadata states {stored.sha256}"
