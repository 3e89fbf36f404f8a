"""Installers in a bucket of S3: one object for each build, whose metadata has its SHA-256.

| key | `<prefix><build>/InstallAssistant.pkg` |
| --- | --- |
| metadata `build`, `version` | of the system that it installs |
| metadata `sha256` | of the whole file, computed when it was fetched from Apple |
| metadata `origin` | the URL that it came from |

An object is written once: by an upload in parts, which S3 completes only if the key does not exist
(`If-None-Match`). So the object appears whole, with its SHA-256, or not at all.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from threading import Lock
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    TokenRetrievalError,
)
from urllib3.exceptions import HTTPError

from agents.installers.transfer import ChangedError, TransferCutError
from schemas.macos import Build, OSVersion, parse_build, parse_os_version

FILE_NAME: Final = "InstallAssistant.pkg"
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
# Clients are thread-safe, their creation by one session is not.
_CREATING: Final = Lock()
_PIECE: Final = 64 * 1024
# Answers that a later request may not get.
_TRANSIENT: Final = frozenset(
    {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "ThrottlingException"}
)
_MISSING: Final = frozenset({"404", "NoSuchKey", "NotFound"})
_CHANGED: Final = frozenset({"412", "PreconditionFailed"})


class BucketRefusedError(Exception):
    """S3 refuses the request: the login, the bucket or the permission. One line without a key."""


class UnusableObjectError(Exception):
    """An object without valid metadata: it was not written by `drydock installers sync`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketConfig:
    """A bucket and its login.

    `endpoint` is the URL of a server other than Amazon's. Without `access_key` the login is found
    as boto3 finds it: environment, shared files, or the role of the machine. `prefix` begins each
    key. `timeout_s`, in seconds, limits connecting and each read.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredInstaller:
    """One installer in the bucket. `etag` is S3's version of the object."""

    build: Build
    version: OSVersion
    size_bytes: int
    sha256: str
    etag: str
    origin: str
    stored_at: datetime


def make_client(config: BucketConfig) -> Any:
    """Return a client of S3, which any thread may use.

    It repeats no request: the callers continue where the failed one ended.
    """
    with _CREATING:
        session = _session()
        return _client(session, config)


@cache
def _session() -> Any:
    # It reads and keeps the descriptions of S3, which takes a second.
    return boto3.session.Session()


def _client(session: Any, config: BucketConfig) -> Any:
    return session.client(
        "s3",
        endpoint_url=config.endpoint,
        region_name=config.region or "us-east-1",
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        config=Config(
            signature_version="s3v4",
            connect_timeout=config.timeout_s,
            read_timeout=config.timeout_s,
            retries={"total_max_attempts": 1},
            # The SHA-256 of the whole file is compared instead.
            response_checksum_validation="when_required",
            # A server behind an IP address or a private name has no name for each bucket.
            s3={"addressing_style": "path"} if config.endpoint else {},
        ),
    )


class InstallerBucket:
    """The installers of a bucket.

    Every call raises TransferCutError if S3 is away, BucketRefusedError if it refuses.
    """

    def __init__(self, config: BucketConfig, client: Any = None) -> None:
        self.config = config
        self.client = make_client(config) if client is None else client

    def key(self, build: Build) -> str:
        """Return the key of a build's object."""
        return f"{self.config.prefix}{build}/{FILE_NAME}"

    def find(self, build: Build) -> StoredInstaller | None:
        """Return a build's installer, None if the bucket has none.

        Raises UnusableObjectError if its metadata is not valid.
        """
        what = f"the installer of {build}"
        place = {"Bucket": self.config.bucket, "Key": self.key(build)}
        try:
            found = self._first_byte(what, place)
        except MissingError:
            return None
        except _EmptyError as error:
            raise UnusableObjectError(f"{self.key(build)} is empty") from error
        stored = _stored(found)
        if stored.build != build:
            raise UnusableObjectError(f"{self.key(build)} is the installer of {stored.build}")
        return stored

    def _first_byte(self, what: str, place: Mapping[str, str]) -> Mapping[str, Any]:
        """Return S3's response with the metadata of an object."""
        with s3_errors(what):
            # Python's HTTP client takes a response that was cut within its headers for a complete
            # one. So this reads the first byte too: it comes after the last header.
            found: Mapping[str, Any] = self.client.get_object(**place, Range="bytes=0-0")
            if len(found["Body"].read()) != 1:
                raise TransferCutError(f"{what}: the response was cut")
        return found

    def builds(self) -> tuple[Build, ...]:
        """Return the builds that have an object, sorted."""
        found: set[Build] = set()
        with s3_errors("the list of installers"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.config.bucket, Prefix=self.config.prefix
            )
            for page in pages:
                for row in page.get("Contents", ()):
                    build = self._build_of(row["Key"])
                    if build is not None:
                        found.add(build)
        return tuple(sorted(found))

    def open(self, stored: StoredInstaller) -> "BucketFile":
        """Return the file of an installer, in exactly this version."""
        what = f"the installer of {stored.build}"
        return BucketFile(
            self,
            what,
            self.key(stored.build),
            etag=stored.etag,
            size_bytes=stored.size_bytes,
            sha256=stored.sha256,
        )

    def find_file(self, what: str, object_key: str, sha256: str) -> "BucketFile | None":
        """Return the present version of an object that must have this SHA-256, None without one.

        `what` names it in messages.
        """
        place = {"Bucket": self.config.bucket, "Key": object_key}
        try:
            found = self._first_byte(what, place)
            size = _size_of(found)
        except MissingError:
            return None
        except _EmptyError as error:
            raise UnusableObjectError(f"{object_key} is empty") from error
        return BucketFile(
            self, what, object_key, etag=str(found["ETag"]), size_bytes=size, sha256=sha256
        )

    def _build_of(self, key: str) -> Build | None:
        folder, _, name = key.removeprefix(self.config.prefix).partition("/")
        try:
            return parse_build(folder) if name == FILE_NAME else None
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class BucketFile:
    """One version of an object, for `continue_transfer`; `what` names it in messages."""

    bucket: InstallerBucket
    what: str
    object_key: str
    etag: str
    size_bytes: int
    sha256: str

    @property
    def tag(self) -> str:
        """The version of the object, and the SHA-256 that it must have."""
        return f"{self.etag} {self.sha256}"

    @contextmanager
    def read_from(self, offset: int) -> Iterator[Iterator[bytes]]:
        """Yield the bytes from an offset to the end; see RemoteFile."""
        place = self.what
        client, config = self.bucket.client, self.bucket.config
        try:
            with s3_errors(place):
                found = client.get_object(
                    Bucket=config.bucket,
                    Key=self.object_key,
                    IfMatch=self.etag,
                    Range=f"bytes={offset}-",
                )
        except (MissingError, _EmptyError) as error:
            raise ChangedError(f"{place} was deleted or is shorter") from error
        body, size = found["Body"], self.size_bytes
        if found.get("ContentRange") != f"bytes {offset}-{size - 1}/{size}":
            body.close()
            raise TransferCutError(f"{place}: S3 responds with other bytes than asked for")
        try:
            yield _pieces(body, place)
        finally:
            body.close()


class MissingError(Exception):
    """S3 has no such object or upload."""


class _EmptyError(Exception):
    """The object has no byte at this offset."""


class PreconditionError(ChangedError):
    """The object exists already, or has another version."""


@contextmanager
def s3_errors(what: str) -> Iterator[None]:
    """Raise the errors of boto3 in the block as those of this module.

    TransferCutError: S3 is away. MissingError: no such object or upload. PreconditionError: a
    condition of the request was not met. BucketRefusedError: any other error.
    """
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code in _MISSING or code == "NoSuchUpload":
            raise MissingError(what) from error
        if code == "InvalidRange" or status == 416:
            raise _EmptyError(what) from error
        if code in _CHANGED or status == 412:
            raise PreconditionError(f"{what}: S3 has another version") from error
        # 409: another request for the key is at work.
        if status >= 500 or status in (409, 429) or code in _TRANSIENT:
            raise TransferCutError(f"{what}: S3 responds with {code or status}") from error
        raise BucketRefusedError(f"{what}: S3 refuses with {code or status}") from error
    except (NoCredentialsError, PartialCredentialsError, TokenRetrievalError) as error:
        raise BucketRefusedError(f"{what}: no login of S3 is configured") from error
    except ParamValidationError as error:
        raise BucketRefusedError(f"{what}: the name of the bucket is not valid") from error
    except (BotoCoreError, HTTPError, ValueError) as error:  # ValueError: a header that was cut
        raise TransferCutError(f"{what}: {type(error).__name__}") from error


def _pieces(body: Any, what: str) -> Iterator[bytes]:
    with s3_errors(what):
        yield from body.iter_chunks(_PIECE)


def _size_of(found: Mapping[str, Any]) -> int:
    return int(found["ContentRange"].rpartition("/")[2])


def _stored(found: Mapping[str, Any]) -> StoredInstaller:
    metadata = found.get("Metadata", {})
    sha256 = metadata.get("sha256", "")
    try:
        build, version = parse_build(metadata["build"]), parse_os_version(metadata["version"])
        size = _size_of(found)
    except (KeyError, ValueError) as error:
        raise UnusableObjectError("it has no build, no version or no size") from error
    if _SHA256.fullmatch(sha256) is None:
        raise UnusableObjectError(f"the metadata of {build} has no SHA-256")
    return StoredInstaller(
        build=build,
        version=version,
        size_bytes=size,
        sha256=sha256,
        etag=str(found["ETag"]),
        origin=metadata.get("origin", ""),
        stored_at=found["LastModified"],
    )
