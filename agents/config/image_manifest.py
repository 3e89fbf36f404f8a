"""Images for `asr` that a manifest in a bucket of S3 lists.

The object `<prefix>images.json` is a JSON array of images, each as `StoredImage`. A site with a
cache fetches an image once, through it. At another site each Mac fetches it by a link that is
signed for it and ends after a day. Who may write the bucket decides what
is restored, as who may write the configuration does.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from pydantic import TypeAdapter, ValidationError

from agents.config.model import StoredImage
from agents.config.secrets import SecretError
from agents.installers.bucket import BucketRefusedError, InstallerBucket, MissingError, s3_errors
from agents.installers.source import StoredFile
from agents.installers.transfer import TransferCutError
from agents.mac import UnreachableError
from agents.ssh.images import Image

MANIFEST: Final = "images.json"
MAX_AGE: Final = timedelta(minutes=10)
_LINK_LASTS: Final = timedelta(days=1)
_MAX_BYTES: Final = 1_000_000
_MANIFEST: Final = TypeAdapter(tuple[StoredImage, ...])


class ImageManifest:
    """The images of a bucket. `open_bucket` may raise SecretError; `now` is the clock."""

    def __init__(
        self, open_bucket: Callable[[], InstallerBucket], now: Callable[[], datetime]
    ) -> None:
        self._open_bucket = open_bucket
        self._now = now
        self._images: tuple[Image, ...] = ()
        self._read_at: datetime | None = None

    def images(self) -> tuple[Image, ...]:
        """Return the images, at most ten minutes old, with links for a day.

        Raises UnreachableError while the manifest cannot be read: then no Mac is restored.
        """
        now = self._now()
        if self._read_at is None or now - self._read_at >= MAX_AGE:
            self._images = self._read_manifest()
            self._read_at = now
        return self._images

    def _read_manifest(self) -> tuple[Image, ...]:
        try:
            bucket = self._open_bucket()
            stored = _MANIFEST.validate_json(_manifest(bucket))
            return tuple(_image(bucket, one) for one in stored)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"]))
            raise UnreachableError(f"{MANIFEST}: {place}: {fault['msg']}") from error
        except MissingError as error:
            raise UnreachableError(f"the bucket has no {MANIFEST}") from error
        except (SecretError, TransferCutError, BucketRefusedError) as error:
            raise UnreachableError(f"{MANIFEST}: {error}") from error


def _manifest(bucket: InstallerBucket) -> bytes:
    config = bucket.config
    with s3_errors(MANIFEST):
        found = bucket.client.get_object(Bucket=config.bucket, Key=config.prefix + MANIFEST)
        content: bytes = found["Body"].read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise BucketRefusedError(f"it is larger than {_MAX_BYTES} bytes")
    return content


def _image(bucket: InstallerBucket, stored: StoredImage) -> Image:
    place = {"Bucket": bucket.config.bucket, "Key": bucket.config.prefix + stored.key}
    with s3_errors(stored.name):
        url = bucket.client.generate_presigned_url(
            "get_object", Params=place, ExpiresIn=int(_LINK_LASTS.total_seconds())
        )
    facts = dict(stored)
    del facts["key"]
    what = f"the image {stored.name}"
    find = partial(bucket.find_file, what, place["Key"], stored.sha256)
    return Image(**facts, url=url, stored=StoredFile(stored.sha256, find))
