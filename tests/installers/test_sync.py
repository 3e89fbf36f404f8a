"""`InstallerSync` with a real S3 server: one origin, one object, whatever is cut in between."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.installers.bucket import (
    BucketConfig,
    BucketRefusedError,
    InstallerBucket,
    UnusableObjectError,
)
from agents.installers.catalog import CatalogEntry
from agents.installers.origin import origin_client
from agents.installers.sync import InstallerSync, SyncOutcome, SyncResult
from agents.installers.transfer import TransferCutError, continue_transfer, sha256_of
from agents.installers.upload import PART_BYTES, Upload, upload
from runtime.retry import RetryPolicy
from schemas.macos import parse_build, parse_os_version
from tests.installers.servers import AppleOrigin, S3Server, other_way, serving
from tests.toxiproxy import Toxiproxy

BUILD = parse_build("25G72")
FAST = RetryPolicy(first_s=0.01, max_s=0.05)
# S3 accepts no smaller parts, but for the last one.
PART = 5 * 1024 * 1024
CONTENT = bytes(range(251)) * 45_000  # 11 MB: three parts


def entry_of(origin: AppleOrigin, size: int | None = None) -> CatalogEntry:
    wanted = len(origin.content) if size is None else size
    return CatalogEntry(parse_os_version("26.6"), BUILD, origin.url, wanted)


@contextmanager
def syncing(bucket: InstallerBucket, folder: Path, **options: object) -> Iterator[InstallerSync]:
    with origin_client() as http:
        yield InstallerSync(
            bucket,
            http,
            folder,
            hosts=("127.0.0.1",),
            retry=FAST,
            part_bytes=PART,
            **options,  # type: ignore[arg-type]
        )


def sync(
    bucket: InstallerBucket, origin: AppleOrigin, folder: Path, *, replace: bool = False
) -> SyncResult:
    with syncing(bucket, folder) as one:
        return one.sync(entry_of(origin), replace=replace)


def stored_bytes(bucket: InstallerBucket) -> bytes:
    body = bucket.client.get_object(Bucket=bucket.config.bucket, Key=bucket.key(BUILD))["Body"]
    return bytes(body.read())


def unfinished_uploads(bucket: InstallerBucket) -> int:
    found = bucket.client.list_multipart_uploads(Bucket=bucket.config.bucket)
    return len(found.get("Uploads", ()))


@pytest.fixture
def origin() -> Iterator[AppleOrigin]:
    with serving(AppleOrigin(CONTENT)) as running:
        yield running


def test_object_has_apples_bytes_and_states_build_version_and_sha256(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    result = sync(bucket, origin, tmp_path)
    assert result.outcome is SyncOutcome.STORED, result.detail
    assert stored_bytes(bucket) == CONTENT
    stored = bucket.find(BUILD)
    assert stored == result.stored
    assert stored is not None
    assert stored.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert (stored.build, str(stored.version), stored.origin) == (BUILD, "26.6", origin.url)
    assert bucket.builds() == (BUILD,)
    assert list(tmp_path.iterdir()) == []


def test_second_sync_fetches_and_writes_nothing(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    first = sync(bucket, origin, tmp_path)
    origin.requests.clear()
    again = sync(bucket, origin, tmp_path)
    assert again.outcome is SyncOutcome.PRESENT
    assert again.stored == first.stored
    assert origin.requests == []


def test_cuts_by_the_origin_cost_no_byte_twice(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    origin.cuts = [0, 1, 65_537, 3_000_000, 1]
    result = sync(bucket, origin, tmp_path)
    assert result.outcome is SyncOutcome.STORED, result.detail
    assert stored_bytes(bucket) == CONTENT
    assert origin.sent_bytes == len(CONTENT)


def test_changed_file_at_the_origin_begins_again(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    origin.cuts = [4_000_000] + [0] * 20
    assert sync(bucket, origin, tmp_path).outcome is SyncOutcome.FAILED
    origin.cuts.clear()
    origin.etag, origin.content = '"second"', CONTENT[::-1]
    result = sync(bucket, origin, tmp_path)
    assert result.outcome is SyncOutcome.STORED, result.detail
    assert stored_bytes(bucket) == CONTENT[::-1]


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_size_other_than_that_of_sofa_is_refused(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path, size: int
) -> None:
    with syncing(bucket, tmp_path) as one:
        result = one.sync(entry_of(origin, size))
    assert result.outcome is SyncOutcome.REFUSED
    assert f"SOFA states {size}" in result.detail
    assert bucket.builds() == ()
    assert origin.requests == ["HEAD"]


def test_origin_other_than_apple_is_refused_before_a_request(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    with origin_client() as http:
        result = InstallerSync(bucket, http, tmp_path).sync(entry_of(origin))
    assert result.outcome is SyncOutcome.REFUSED
    assert "not at Apple" in result.detail
    assert origin.requests == []


@pytest.mark.parametrize("cut_at", [1, PART - 1, PART + 1, 2 * PART + 70_000])
def test_upload_that_is_cut_at_any_byte_sends_each_finished_part_once(
    s3: S3Server, toxiproxy: Toxiproxy, tmp_path: Path, cut_at: int
) -> None:
    bucket = s3.bucket()
    way = toxiproxy.proxy(s3.url)
    cut = other_way(bucket, way.url)
    sent: list[int] = []
    file = tmp_path / "25G72.pkg"
    file.write_bytes(CONTENT)
    wanted = Upload(
        file=file,
        build=BUILD,
        version=parse_os_version("26.6"),
        size_bytes=len(CONTENT),
        sha256=sha256_of(file),
        origin="https://swcdn.apple.com/InstallAssistant.pkg",
    )
    way.add("limit_data", "upstream", bytes=cut_at)
    with pytest.raises(TransferCutError):
        upload(cut, wanted, sent.append, PART)
    way.clear()
    finished = sum(sent)
    stored = upload(cut, wanted, sent.append, PART)
    assert stored_bytes(bucket) == CONTENT
    assert stored.sha256 == wanted.sha256
    assert sum(sent) == len(CONTENT), finished
    assert unfinished_uploads(bucket) == 0


def test_lost_response_to_the_last_request_is_found_out(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    """S3 completed the upload and the connection was cut: the object is there, the upload gone."""

    class LosesTheLastResponse:
        def __init__(self) -> None:
            self.completed = 0

        def __getattr__(self, name: str) -> object:
            return getattr(bucket.client, name)

        def complete_multipart_upload(self, **arguments: object) -> None:
            bucket.client.complete_multipart_upload(**arguments)
            self.completed += 1
            raise TransferCutError("cut")

    client = LosesTheLastResponse()
    result = sync(InstallerBucket(bucket.config, client), origin, tmp_path)
    assert result.outcome is SyncOutcome.STORED, result.detail
    assert client.completed == 1
    assert stored_bytes(bucket) == CONTENT


def test_of_two_syncs_at_one_time_one_writes(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    results: list[SyncResult] = []

    def run(name: str) -> None:
        folder = tmp_path / name
        folder.mkdir()
        results.append(sync(bucket, origin, folder))

    threads = [threading.Thread(target=run, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {result.outcome for result in results} <= {SyncOutcome.STORED, SyncOutcome.PRESENT}
    assert len({result.stored.etag for result in results if result.stored}) == 1
    versions = bucket.client.list_objects_v2(Bucket=bucket.config.bucket)["Contents"]
    assert len(versions) == 1
    assert stored_bytes(bucket) == CONTENT
    assert unfinished_uploads(bucket) == 0


def test_object_of_another_file_is_refused_and_not_replaced(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    sync(bucket, origin, tmp_path)
    file = tmp_path / "other.pkg"
    file.write_bytes(CONTENT[::-1])
    wanted = Upload(
        file=file,
        build=BUILD,
        version=parse_os_version("26.6"),
        size_bytes=len(CONTENT),
        sha256=sha256_of(file),
        origin="",
    )
    with pytest.raises(Exception, match="another file for 25G72"):
        upload(bucket, wanted, part_bytes=PART)
    assert stored_bytes(bucket) == CONTENT
    assert unfinished_uploads(bucket) == 0


def test_damaged_object_is_replaced_if_asked_for(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    sync(bucket, origin, tmp_path)
    found = bucket.client.head_object(Bucket=bucket.config.bucket, Key=bucket.key(BUILD))
    metadata = found["Metadata"] | {"sha256": "0" * 64}
    bucket.client.put_object(
        Bucket=bucket.config.bucket, Key=bucket.key(BUILD), Body=CONTENT, Metadata=metadata
    )
    assert sync(bucket, origin, tmp_path).outcome is SyncOutcome.PRESENT
    result = sync(bucket, origin, tmp_path, replace=True)
    assert result.outcome is SyncOutcome.STORED, result.detail
    assert result.stored is not None
    assert result.stored.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_killed_sync_continues_at_the_last_durable_byte(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    """Like a kill: the process ends between two syncs to the disk."""

    class KilledError(BaseException):
        pass

    fetched = 0

    def kill(size: int) -> None:
        nonlocal fetched
        fetched += size
        if fetched > 6_000_000:
            raise KilledError

    with syncing(bucket, tmp_path, on_bytes=kill) as one, pytest.raises(KilledError):
        one.sync(entry_of(origin))
    result = sync(bucket, origin, tmp_path)
    assert result.outcome is SyncOutcome.STORED, result.detail
    starts = [int(one.split()[1]) for one in origin.requests if one.startswith("GET")]
    assert starts[0] == 0
    assert starts[1] > 5_000_000


def test_wrong_login_and_missing_bucket_are_refused(s3: S3Server, bucket: InstallerBucket) -> None:
    wrong = other_way(bucket, None, secret_key="another-secret")
    with pytest.raises(BucketRefusedError, match=r"refuses with SignatureDoesNotMatch"):
        wrong.builds()
    with pytest.raises(BucketRefusedError, match="NoSuchBucket"):
        other_way(bucket, None, bucket="no-such-bucket").builds()


def test_object_without_metadata_is_unusable(bucket: InstallerBucket) -> None:
    place = {"Bucket": bucket.config.bucket, "Key": bucket.key(BUILD)}
    bucket.client.put_object(**place, Body=b"by hand")
    with pytest.raises(UnusableObjectError):
        bucket.find(BUILD)


def test_s3_away_is_an_outage_and_no_refusal() -> None:
    away = InstallerBucket(
        BucketConfig(
            bucket="installers",
            endpoint="http://127.0.0.1:9",
            access_key="a",
            secret_key="b",
            timeout_s=1.0,
        )
    )
    with pytest.raises(TransferCutError):
        away.find(BUILD)


def test_read_of_another_version_is_refused(
    bucket: InstallerBucket, origin: AppleOrigin, tmp_path: Path
) -> None:
    sync(bucket, origin, tmp_path)
    stored = bucket.find(BUILD)
    assert stored is not None
    bucket.client.put_object(Bucket=bucket.config.bucket, Key=bucket.key(BUILD), Body=CONTENT[::-1])
    with pytest.raises(TransferCutError, match="another version"):
        continue_transfer(bucket.open(stored), tmp_path / "read.pkg")


def test_parts_of_the_largest_installer_are_few_enough_for_s3() -> None:
    assert 18_380_741_420 / PART_BYTES < 10_000
