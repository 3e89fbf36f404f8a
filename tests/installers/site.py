"""A site cache on a bucket, for the tests of one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from agents.installers.bucket import InstallerBucket
from agents.installers.cache import Pauses, SiteCache, State, Waiting
from agents.installers.cache_folder import CachedFile
from agents.installers.metrics import InstallerMetrics
from runtime.free_space import SpaceReserve
from runtime.retry import RetryPolicy
from schemas.macos import Build, OSVersion, parse_build, parse_os_version

FAST = Pauses(away=RetryPolicy(first_s=0.02, max_s=0.1), room_s=0.1, missing_s=0.1, refused_s=0.1)
NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def put(
    bucket: InstallerBucket,
    build: str,
    content: bytes,
    sha256: str,
    version: OSVersion | None = None,
) -> None:
    """Store an installer as `drydock installers sync` does, with this SHA-256 in its metadata."""
    bucket.client.put_object(
        Bucket=bucket.config.bucket,
        Key=bucket.key(parse_build(build)),
        Body=content,
        Metadata={
            "build": build,
            "version": str(version or parse_os_version("26.6")),
            "sha256": sha256,
            "origin": "https://swcdn.apple.com/InstallAssistant.pkg",
        },
    )


class Site:
    """A running cache, with its metrics and a clock that the test sets."""

    def __init__(
        self, bucket: InstallerBucket, folder: Path, budget: int, reserve_bytes: int = 0
    ) -> None:
        self.registry = CollectorRegistry()
        self.now = NOON
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.cache = SiteCache(
            bucket,
            SpaceReserve(folder, reserve_bytes),
            budget,
            now=lambda: self.now,
            metrics=InstallerMetrics(self.registry),
            log=structlog.get_logger(),
            pauses=FAST,
        )

    def request(self, build: str, job_id: str = "job-1", minutes: int = 60) -> CachedFile | Waiting:
        """Ask for a build as the executor does at a look."""
        until = self.now + timedelta(minutes=minutes)
        return self.cache.request(parse_build(build), job_id, until)

    def wait(self, build: str, job_id: str = "job-1", timeout_s: float = 20.0) -> CachedFile:
        """Ask until the installer is there."""
        deadline = time.monotonic() + timeout_s
        until = self.now + timedelta(minutes=60)
        while True:
            found = self.cache.request(parse_build(build), job_id, until)
            if isinstance(found, CachedFile):
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def wait_for_state(
        self, build: str, state: State, job_id: str = "job-1", timeout_s: float = 20.0
    ) -> Waiting:
        """Ask until the build has this state."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.request(build, job_id)
            if isinstance(found, Waiting) and found.state is state:
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.02)

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a series."""
        value = self.registry.get_sample_value(name, labels)
        assert value is not None, name
        return value

    def builds(self) -> set[Build]:
        """Return the builds with a complete file."""
        return {parse_build(path.name.partition(".")[0]) for path in self.folder.glob("*.pkg")}


@contextmanager
def site(
    bucket: InstallerBucket, folder: Path, budget: int = 10**9, reserve_bytes: int = 0
) -> Iterator[Site]:
    """Run a cache in `folder`."""
    running = Site(bucket, folder, budget, reserve_bytes)
    running.cache.start()
    try:
        yield running
    finally:
        running.cache.stop()
