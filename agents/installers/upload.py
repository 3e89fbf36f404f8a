"""Uploads in parts to S3: they continue after a cut or a crash, and one writer completes them.

The id of the upload is kept beside the local file. The next attempt lists the parts that S3 has,
compares their SHA-256 with the local file, and sends only the others.
"""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agents.installers.bucket import (
    InstallerBucket,
    MissingError,
    PreconditionError,
    StoredInstaller,
    s3_errors,
)
from agents.installers.transfer import TransferCutError, sync_folder
from schemas.macos import Build, OSVersion

# S3 permits 10,000 parts of at least 5 MiB: enough for 160 GB, and one part fits in memory.
PART_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A complete local file, to be stored as the installer of a build.

    `replaces` is the `etag` of an object that it replaces, None if there must be none.
    """

    file: Path
    build: Build
    version: OSVersion
    size_bytes: int
    sha256: str
    origin: str
    replaces: str | None = None


class DifferentObjectError(Exception):
    """The bucket has another file for the build; the message is one line."""


def upload(
    bucket: InstallerBucket,
    wanted: Upload,
    on_bytes: Callable[[int], None] = lambda _: None,
    part_bytes: int = PART_BYTES,
) -> StoredInstaller:
    """Store the file; return the object, also if another writer has stored equal bytes.

    `on_bytes` is called with the size of each part that was sent. Raises TransferCutError if S3 is
    away: call it again. Raises BucketRefusedError, or DifferentObjectError if the bucket has
    another file for the build.
    """
    note = _note_path(wanted.file)
    upload_id = _noted_upload(note, bucket, wanted, part_bytes)
    try:
        if upload_id is None:
            upload_id = _begin(bucket, wanted)
            _write_note(note, _note(bucket, wanted, part_bytes) | {"upload_id": upload_id})
        parts = _send_parts(bucket, wanted, upload_id, on_bytes, part_bytes)
        _complete(bucket, wanted, upload_id, parts)
    except MissingError:
        # The upload has ended: completed by a request whose response was lost, or aborted.
        note.unlink(missing_ok=True)
        return _existing(bucket, wanted)
    except PreconditionError:
        _abort(bucket, wanted.build, upload_id)
        note.unlink(missing_ok=True)
        return _existing(bucket, wanted)
    note.unlink(missing_ok=True)
    return _existing(bucket, wanted)


def discard_upload(bucket: InstallerBucket, file: Path, build: Build) -> None:
    """End the upload that was begun for a local file, if there is one; S3 deletes its parts."""
    note = _note_path(file)
    upload_id = _read_note(note).get("upload_id")
    if isinstance(upload_id, str):
        _abort(bucket, build, upload_id)
    note.unlink(missing_ok=True)


def _existing(bucket: InstallerBucket, wanted: Upload) -> StoredInstaller:
    found = bucket.find(wanted.build)
    if found is None or found.etag == wanted.replaces:
        raise TransferCutError(f"the upload of {wanted.build} has ended: it begins again")
    if found.sha256 != wanted.sha256:
        detail = f"the bucket has another file for {wanted.build}: SHA-256 {found.sha256}"
        raise DifferentObjectError(f"{detail}, not {wanted.sha256}")
    return found


def _begin(bucket: InstallerBucket, wanted: Upload) -> str:
    with s3_errors(f"the upload of {wanted.build}"):
        begun = bucket.client.create_multipart_upload(
            Bucket=bucket.config.bucket,
            Key=bucket.key(wanted.build),
            ChecksumAlgorithm="SHA256",
            ContentType="application/octet-stream",
            Metadata={
                "build": str(wanted.build),
                "version": str(wanted.version),
                "sha256": wanted.sha256,
                "origin": wanted.origin,
            },
        )
    return str(begun["UploadId"])


def _send_parts(
    bucket: InstallerBucket,
    wanted: Upload,
    upload_id: str,
    on_bytes: Callable[[int], None],
    part_bytes: int,
) -> list[dict[str, Any]]:
    present = _present_parts(bucket, wanted.build, upload_id)
    parts = []
    with wanted.file.open("rb", buffering=0) as file:
        for number, part in enumerate(_parts(file, part_bytes), start=1):
            digest = base64.b64encode(hashlib.sha256(part).digest()).decode()
            known = present.get(number, {})
            if known.get("ChecksumSHA256") == digest and known.get("Size") == len(part):
                etag = known["ETag"]
            else:
                with s3_errors(f"part {number} of {wanted.build}"):
                    etag = bucket.client.upload_part(
                        Bucket=bucket.config.bucket,
                        Key=bucket.key(wanted.build),
                        UploadId=upload_id,
                        PartNumber=number,
                        Body=part,
                        ChecksumSHA256=digest,
                    )["ETag"]
                if not etag.endswith('"'):
                    raise TransferCutError(f"part {number} of {wanted.build}: the response was cut")
                on_bytes(len(part))
            parts.append({"PartNumber": number, "ETag": etag, "ChecksumSHA256": digest})
    return parts


def _parts(file: Any, part_bytes: int) -> Iterator[bytes]:
    while part := file.read(part_bytes):
        yield part


def _present_parts(
    bucket: InstallerBucket, build: Build, upload_id: str
) -> Mapping[int, dict[str, Any]]:
    with s3_errors(f"the parts of {build}"):
        pages = bucket.client.get_paginator("list_parts").paginate(
            Bucket=bucket.config.bucket, Key=bucket.key(build), UploadId=upload_id
        )
        return {row["PartNumber"]: row for page in pages for row in page.get("Parts", ())}


def _complete(
    bucket: InstallerBucket, wanted: Upload, upload_id: str, parts: list[dict[str, Any]]
) -> None:
    condition = {"IfMatch": wanted.replaces} if wanted.replaces else {"IfNoneMatch": "*"}
    with s3_errors(f"the end of the upload of {wanted.build}"):
        bucket.client.complete_multipart_upload(
            Bucket=bucket.config.bucket,
            Key=bucket.key(wanted.build),
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
            **condition,
        )


def _abort(bucket: InstallerBucket, build: Build, upload_id: str | None) -> None:
    # S3's own rule for unfinished uploads deletes those that cannot be aborted now.
    with suppress(MissingError, TransferCutError), s3_errors(f"the upload of {build}"):
        bucket.client.abort_multipart_upload(
            Bucket=bucket.config.bucket, Key=bucket.key(build), UploadId=upload_id
        )


def _note_path(file: Path) -> Path:
    return file.with_name(file.name + ".upload")


def _note(bucket: InstallerBucket, wanted: Upload, part_bytes: int) -> dict[str, object]:
    """Return the facts for which an upload can be continued."""
    return {
        "endpoint": bucket.config.endpoint,
        "bucket": bucket.config.bucket,
        "key": bucket.key(wanted.build),
        "sha256": wanted.sha256,
        "part_bytes": part_bytes,
    }


def _noted_upload(
    note: Path, bucket: InstallerBucket, wanted: Upload, part_bytes: int
) -> str | None:
    found = _read_note(note)
    upload_id = found.pop("upload_id", None)
    is_ours = found == _note(bucket, wanted, part_bytes)
    return upload_id if is_ours and isinstance(upload_id, str) else None


def _read_note(note: Path) -> dict[str, object]:
    try:
        found = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_note(note: Path, content: Mapping[str, object]) -> None:
    new = note.with_name(note.name + ".new")
    new.write_text(json.dumps(content))
    new.replace(note)
    sync_folder(note.parent)
