"""The site cache with a real S3 server: one download, whatever is cut, damaged, full or away."""

import hashlib
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.installers.bucket import InstallerBucket
from agents.installers.cache import State, Waiting
from agents.installers.cache_folder import CachedFile
from agents.installers.transfer import durable_path, partial_path
from schemas.macos import parse_build
from tests.faults.volumes import small_volume
from tests.installers.servers import S3Server, other_way
from tests.installers.site import put, site
from tests.toxiproxy import Proxy, Toxiproxy

CONTENT = bytes(range(251)) * 8_000  # 2 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def test_twelve_jobs_at_one_time_cause_one_download(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", CONTENT, SHA256)
    with site(bucket, tmp_path) as one, ThreadPoolExecutor(12) as pool:
        jobs = [f"job-{number}" for number in range(12)]
        files = list(pool.map(lambda job: one.wait("25G72", job), jobs))
        assert {file.path.read_bytes() for file in files} == {CONTENT}
        assert one.metric("drydock_installer_fetched_bytes_total") == len(CONTENT)
        assert one.metric("drydock_installer_requests_total", outcome="miss") == 12
        assert one.wait("25G72", "job-12").sha256 == SHA256
        assert one.metric("drydock_installer_requests_total", outcome="hit") == 1
        assert one.metric("drydock_installer_fetched_bytes_total") == len(CONTENT)
        assert one.metric("drydock_installer_jobs_held") == 0


def test_other_builds_wait_until_the_first_has_arrived(
    s3: S3Server, toxiproxy: Toxiproxy, tmp_path: Path
) -> None:
    bucket, way = s3.bucket(), toxiproxy.proxy(s3.url)
    for build in ("25G72", "24G720"):
        put(bucket, build, CONTENT, SHA256)
    way.add("bandwidth", rate=4_000)  # KB/s: half a second for each
    with site(other_way(bucket, way.url), tmp_path) as one:
        assert one.request("25G72", "job-1") == Waiting(State.QUEUED)
        one.wait_for_state("25G72", State.ARRIVING)
        assert one.request("24G720", "job-2") == Waiting(State.QUEUED)
        one.wait("25G72", "job-1")
        one.wait("24G720", "job-2")


@pytest.fixture(scope="module")
def cut_way(s3: S3Server, toxiproxy: Toxiproxy) -> tuple[InstallerBucket, Proxy]:
    """A bucket with one installer, and the proxy in the way to it."""
    bucket, way = s3.bucket(), toxiproxy.proxy(s3.url)
    put(bucket, "25G72", CONTENT, SHA256)
    return other_way(bucket, way.url), way


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(1, len(CONTENT) + 2_000), min_size=1, max_size=3))
def test_download_cut_at_any_byte_continues(
    cut_way: tuple[InstallerBucket, Proxy],
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
) -> None:
    bucket, way = cut_way
    with site(bucket, tmp_path_factory.mktemp("cache")) as one:
        for number, cut in enumerate(cuts, start=1):
            way.add("limit_data", bytes=cut)
            deadline = time.monotonic() + 10
            while one.metric("drydock_installer_cuts_total") < number:
                found = one.request("25G72")
                if isinstance(found, CachedFile):
                    break
                assert time.monotonic() < deadline, found
                time.sleep(0.005)
            way.clear()
        assert one.wait("25G72").path.read_bytes() == CONTENT
        # No byte that was written is fetched again.
        assert one.metric("drydock_installer_fetched_bytes_total") == len(CONTENT)


def test_s3_away_for_a_while_loses_no_job_and_no_byte(
    s3: S3Server, toxiproxy: Toxiproxy, tmp_path: Path
) -> None:
    bucket, way = s3.bucket(), toxiproxy.proxy(s3.url)
    put(bucket, "25G72", CONTENT, SHA256)
    way.add("bandwidth", rate=2_000)
    with site(other_way(bucket, way.url, timeout_s=1.0), tmp_path) as one:
        one.wait_for_state("25G72", State.ARRIVING)
        while one.metric("drydock_installer_fetched_bytes_total") < 200_000:
            time.sleep(0.02)
        way.switch(enabled=False)
        waiting = one.wait_for_state("25G72", State.STORAGE_AWAY)
        assert "25G72" in waiting.detail
        before = one.metric("drydock_installer_fetched_bytes_total")
        time.sleep(1.0)
        assert one.metric("drydock_installer_fetched_bytes_total") == before
        way.clear()
        way.switch(enabled=True)
        assert one.wait("25G72").path.read_bytes() == CONTENT
        assert one.metric("drydock_installer_fetched_bytes_total") == len(CONTENT)


def test_installer_at_the_site_needs_no_s3(
    s3: S3Server, toxiproxy: Toxiproxy, tmp_path: Path
) -> None:
    bucket, way = s3.bucket(), toxiproxy.proxy(s3.url)
    put(bucket, "25G72", CONTENT, SHA256)
    with site(other_way(bucket, way.url), tmp_path) as one:
        one.wait("25G72")
    way.switch(enabled=False)
    with site(other_way(bucket, way.url), tmp_path) as again:
        assert again.wait("25G72", "job-2").path.read_bytes() == CONTENT


def test_object_with_other_bytes_than_its_sha256_is_refused_once(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", CONTENT, "0" * 64)
    with site(bucket, tmp_path) as one:
        waiting = one.wait_for_state("25G72", State.CORRUPT)
        assert SHA256 in waiting.detail
        time.sleep(1.0)  # several pauses
        assert one.metric("drydock_installer_fetched_bytes_total") == len(CONTENT)
        assert one.metric("drydock_installers_refused_total", reason="corrupt") == 1
        assert list(tmp_path.glob("*.pkg*")) == []
        put(bucket, "25G72", CONTENT, SHA256)
        assert one.wait("25G72").path.read_bytes() == CONTENT


def test_file_that_is_damaged_at_the_site_is_fetched_again(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", CONTENT, SHA256)
    with site(bucket, tmp_path) as one:
        file = one.wait("25G72")
        damaged = bytearray(CONTENT)
        damaged[1_000_000] ^= 1
        file.path.write_bytes(damaged)
        assert isinstance(one.request("25G72"), Waiting)
        assert one.wait("25G72").path.read_bytes() == CONTENT
        assert one.metric("drydock_installers_refused_total", reason="corrupt") == 1


def test_damage_while_the_program_is_stopped_is_found_too(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", CONTENT, SHA256)
    with site(bucket, tmp_path) as one:
        file = one.wait("25G72")
    file.path.write_bytes(CONTENT[:-1] + b"!")
    with site(bucket, tmp_path) as again:
        assert again.wait("25G72").path.read_bytes() == CONTENT


def test_zeros_of_a_power_failure_are_fetched_again(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    """The file system kept the new size of the file and lost its last bytes."""
    put(bucket, "25G72", CONTENT, SHA256)
    with site(bucket, tmp_path) as one:
        assert one.wait("25G72").key == parse_build("25G72")
        stored = bucket.find(parse_build("25G72"))
        assert stored is not None
        (target,) = tmp_path.glob("*.pkg")
    tag = bucket.open(stored).tag
    partial_path(target).write_bytes(CONTENT[:500_000] + bytes(700_000))
    durable_path(target).write_text(f'{{"tag": {tag!r}, "bytes": 500000}}'.replace("'", '"'))
    target.unlink()
    with site(bucket, tmp_path) as again:
        assert again.wait("25G72").path.read_bytes() == CONTENT


def test_missing_installer_is_fetched_after_it_was_added(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    with site(bucket, tmp_path) as one:
        waiting = one.wait_for_state("25G72", State.MISSING)
        assert "drydock installers sync" in waiting.detail
        put(bucket, "25G72", CONTENT, SHA256)
        one.wait("25G72")


def test_installer_over_the_budget_is_refused_without_a_download(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", CONTENT, SHA256)
    with site(bucket, tmp_path, budget=len(CONTENT) - 1) as one:
        one.wait_for_state("25G72", State.TOO_LARGE)
        assert one.metric("drydock_installer_fetched_bytes_total") == 0
        assert one.metric("drydock_installers_refused_total", reason="too_large") == 1


def test_needed_installer_is_not_evicted_and_the_other_job_waits(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    for build in ("25G72", "24G720"):
        put(bucket, build, CONTENT, SHA256)
    with site(bucket, tmp_path, budget=len(CONTENT) + 100) as one:
        one.wait("25G72", "job-1")
        waiting = one.wait_for_state("24G720", State.BUDGET_FULL, "job-2")
        assert "open jobs need" in waiting.detail
        time.sleep(0.3)  # several pauses
        assert one.metric("drydock_installer_fetched_bytes_total") == len(CONTENT)
        assert one.metric("drydock_installer_evictions_total") == 0
        one.request("24G720", "job-1")  # it needs the first build no longer
        one.wait("24G720", "job-2")
        assert one.metric("drydock_installer_evictions_total") == 1


def test_full_disk_holds_the_job_and_fetches_nothing_until_it_has_room(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", CONTENT, SHA256)
    with (
        small_volume(tmp_path / "volume", 8_000_000) as volume,
        site(bucket, volume.path) as one,
    ):
        volume.fill()
        # Not even the record of the job has room.
        waiting = one.wait_for_state("25G72", State.DISK_FAILED)
        assert "full" in waiting.detail
        volume.free()
        volume.fill(keep=300_000)
        one.wait_for_state("25G72", State.DISK_FULL)
        time.sleep(0.5)
        assert one.metric("drydock_installer_fetched_bytes_total") == 0
        volume.free()
        assert one.wait("25G72").path.read_bytes() == CONTENT


def test_disk_that_fills_during_a_download_continues_at_the_same_byte(
    s3: S3Server, toxiproxy: Toxiproxy, tmp_path: Path
) -> None:
    bucket, way = s3.bucket(), toxiproxy.proxy(s3.url)
    put(bucket, "25G72", CONTENT, SHA256)
    way.add("bandwidth", rate=2_000)
    with (
        small_volume(tmp_path / "volume", 8_000_000) as volume,
        site(other_way(bucket, way.url), volume.path) as one,
    ):
        one.request("25G72")
        while one.metric("drydock_installer_fetched_bytes_total") < 300_000:
            time.sleep(0.01)
        volume.fill()
        one.wait_for_state("25G72", State.DISK_FULL)
        way.clear()
        fetched = one.metric("drydock_installer_fetched_bytes_total")
        volume.free()
        assert one.wait("25G72").path.read_bytes() == CONTENT
        again = one.metric("drydock_installer_fetched_bytes_total") - fetched
        assert again <= len(CONTENT) - 300_000 + 65_536


def test_job_needs_its_installer_until_its_end_and_not_longer(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    for build in ("25G72", "24G720"):
        put(bucket, build, CONTENT, SHA256)
    with site(bucket, tmp_path, budget=len(CONTENT) + 100) as one:
        one.wait("25G72", "job-1")
        one.request("24G720", "job-2", minutes=600)
        time.sleep(0.3)
        assert len(one.builds()) == 1
        one.now = one.now.replace(hour=14)  # job-1 has ended
        one.wait("24G720", "job-2")
        assert [str(build) for build in one.builds()] == ["24G720"]


def test_waiting_jobs_are_known_after_a_restart(bucket: InstallerBucket, tmp_path: Path) -> None:
    with site(bucket, tmp_path) as one:
        one.wait_for_state("25G72", State.MISSING)
    put(bucket, "25G72", CONTENT, SHA256)
    with site(bucket, tmp_path) as again:
        deadline = time.monotonic() + 20
        while again.metric("drydock_installer_jobs_held") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert {str(build) for build in again.builds()} == {"25G72"}


def test_damaged_records_are_begun_again_and_files_are_kept(
    bucket: InstallerBucket, tmp_path: Path
) -> None:
    put(bucket, "25G72", CONTENT, SHA256)
    with site(bucket, tmp_path) as one:
        one.wait("25G72")
    (tmp_path / "cache.sqlite").write_bytes(b"not a database" * 1000)
    with site(bucket, tmp_path) as again:
        assert again.wait("25G72").path.read_bytes() == CONTENT
        assert again.metric("drydock_installer_fetched_bytes_total") == 0


def test_stopped_download_is_continued_by_the_next_process(
    s3: S3Server, toxiproxy: Toxiproxy, tmp_path: Path
) -> None:
    bucket, way = s3.bucket(), toxiproxy.proxy(s3.url)
    put(bucket, "25G72", CONTENT, SHA256)
    way.add("bandwidth", rate=2_000)
    with site(other_way(bucket, way.url), tmp_path) as one:
        one.request("25G72")
        while (fetched := one.metric("drydock_installer_fetched_bytes_total")) < 300_000:
            time.sleep(0.01)
    assert threading.active_count() < 20
    way.clear()
    with site(other_way(bucket, way.url), tmp_path) as again:
        again.wait("25G72")
        rest = again.metric("drydock_installer_fetched_bytes_total")
        assert rest <= len(CONTENT) - fetched + 65_536
