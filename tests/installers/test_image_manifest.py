"""Images of a manifest in a real S3 server, with links that a Mac can use."""

import hashlib
import json
from datetime import timedelta
from typing import Any

import httpx
import pytest

from agents.config.image_manifest import MANIFEST, MAX_AGE, ImageManifest
from agents.config.secrets import SecretError
from agents.installers.bucket import InstallerBucket
from agents.mac import UnreachableError
from schemas.macos import parse_build, parse_os_version
from tests.factories.sites import START
from tests.installers.servers import SECRET_KEY, other_way
from tests.mdm.fleet import ManualClock

DATA = b"an image " * 1000
IMAGE = {
    "name": "loan",
    "key": "loan/2026-spring.dmg",
    "size_bytes": len(DATA),
    "sha256": hashlib.sha256(DATA).hexdigest(),
    "models": ["MacBookPro13,*"],
    "version": "12.7.6",
    "build": "21H1320",
    "firmware": "529.140.2.0.0",
    "volume": "Loan",
}


def put(bucket: InstallerBucket, key: str, content: bytes) -> None:
    bucket.client.put_object(Bucket=bucket.config.bucket, Key=key, Body=content)


def put_manifest(bucket: InstallerBucket, *images: dict[str, Any]) -> None:
    put(bucket, MANIFEST, json.dumps(images).encode())


def test_image_has_the_facts_of_the_manifest_and_a_link_to_its_bytes(
    bucket: InstallerBucket,
) -> None:
    put(bucket, IMAGE["key"], DATA)  # type: ignore[arg-type]
    put_manifest(bucket, IMAGE)
    (image,) = ImageManifest(lambda: bucket, ManualClock(START)).images()
    assert (image.version, image.build) == (parse_os_version("12.7.6"), parse_build("21H1320"))
    assert (image.firmware, image.models, image.volume) == (
        IMAGE["firmware"],
        ("MacBookPro13,*",),
        "Loan",
    )
    assert SECRET_KEY not in image.url
    assert image.stored is not None
    file = image.stored.find()
    assert (file.size_bytes, file.sha256) == (len(DATA), image.sha256)
    # As a Mac continues a fetch that was cut.
    rest = httpx.get(image.url, headers={"Range": "bytes=1000-"}, trust_env=False)
    assert (rest.status_code, rest.content) == (206, DATA[1000:])
    assert httpx.get(image.url.split("?", 1)[0], trust_env=False).status_code == 403


def test_new_manifest_is_read_after_ten_minutes(bucket: InstallerBucket) -> None:
    put_manifest(bucket, IMAGE)
    clock = ManualClock(START)
    manifest = ImageManifest(lambda: bucket, clock)
    assert len(manifest.images()) == 1
    put_manifest(bucket)
    assert len(manifest.images()) == 1
    clock.now += MAX_AGE
    assert manifest.images() == ()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        pytest.param(None, "has no images.json", id="no manifest"),
        pytest.param(b"[", "Invalid JSON", id="no JSON"),
        pytest.param(json.dumps([IMAGE | {"key": "/x"}]).encode(), "0.key", id="bad key"),
        pytest.param(json.dumps([IMAGE | {"url": "http://x"}]).encode(), "0.url", id="extra"),
        pytest.param(b" " * 1_000_001, "larger", id="too large"),
    ],
)
def test_manifest_that_cannot_be_used_restores_no_mac(
    bucket: InstallerBucket, content: bytes | None, text: str
) -> None:
    if content is not None:
        put(bucket, MANIFEST, content)
    with pytest.raises(UnreachableError, match=text):
        ImageManifest(lambda: bucket, ManualClock(START)).images()


def test_storage_that_is_away_is_asked_again(bucket: InstallerBucket) -> None:
    put_manifest(bucket, IMAGE)
    ways = [other_way(bucket, "http://127.0.0.1:9"), bucket]
    manifest = ImageManifest(lambda: ways.pop(0), ManualClock(START))
    with pytest.raises(UnreachableError):
        manifest.images()
    assert len(manifest.images()) == 1


def test_refused_login_and_missing_secret_restore_no_mac(bucket: InstallerBucket) -> None:
    stranger = other_way(bucket, None, secret_key="another")
    with pytest.raises(UnreachableError, match="refuses"):
        ImageManifest(lambda: stranger, ManualClock(START)).images()

    def locked() -> InstallerBucket:
        raise SecretError("env:SK: this variable is not set")

    later = ManualClock(START + timedelta(hours=1))
    with pytest.raises(UnreachableError, match="env:SK"):
        ImageManifest(locked, later).images()
