"""Transfers of large files that continue after a cut, a crash or a power failure.

A transfer writes `<target>.partial`. Beside it, `<target>.partial.durable` has two values: the tag
of the remote file, and the bytes that were on the disk when it was written. The next transfer
continues there:

| interruption | lost |
| --- | --- |
| the connection is cut at any byte | nothing, or one piece of 64 KiB |
| the disk becomes full | nothing |
| the process is killed, or power fails | what came after the last sync, at most 64 MiB |
| the remote file has changed (another tag) | everything: it begins again |

The bytes beyond the durable ones are cut off, since after a power failure they may be zeros. The
caller compares the SHA-256 of the whole file.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final, Protocol

_SYNC_EVERY_BYTES: Final = 64 * 1024 * 1024
_NOTE_BYTES: Final = 512
_HASH_CHUNK: Final = 1024 * 1024
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class TransferCutError(Exception):
    """The other side is away or cut the transfer: it can be continued. The message is one line."""


class ChangedError(TransferCutError):
    """The remote file has another content than the one that was asked for."""


class NoRoomError(Exception):
    """The disk has no room for the file; the message is one line."""


class RemoteFile(Protocol):
    """One version of a file elsewhere. `tag` differs between versions; `size_bytes` is its size."""

    @property
    def tag(self) -> str: ...  # noqa: D102

    @property
    def size_bytes(self) -> int: ...  # noqa: D102

    def read_from(self, offset: int) -> AbstractContextManager[Iterator[bytes]]:
        """Return its bytes from an offset to the end, in pieces.

        Raises TransferCutError, also while they are read, ChangedError for another version.
        """
        ...


def partial_path(target: Path) -> Path:
    """Return the path of the unfinished file of a target."""
    return target.with_name(target.name + ".partial")


def durable_path(target: Path) -> Path:
    """Return the path of the file that states the durable bytes of the unfinished file."""
    return target.with_name(target.name + ".partial.durable")


def discard(target: Path) -> None:
    """Delete the unfinished file of a target, if there is one."""
    durable_path(target).unlink(missing_ok=True)
    partial_path(target).unlink(missing_ok=True)


def partial_bytes(target: Path) -> int:
    """Return the size of the unfinished file of a target, 0 without one."""
    try:
        return partial_path(target).stat().st_size
    except OSError:
        return 0


def continue_transfer(
    remote: RemoteFile,
    target: Path,
    on_bytes: Callable[[int], None] = lambda _: None,
    sync_every_bytes: int = _SYNC_EVERY_BYTES,
) -> Path:
    """Fetch the rest of a remote file; return the path of the complete, durable partial file.

    `on_bytes` is called with the size of each piece; what it raises ends the transfer, which can be
    continued. Raises TransferCutError if the other side is away or cuts the transfer, NoRoomError
    if the disk is full, OSError if it fails otherwise.
    """
    partial = partial_path(target)
    try:
        with partial.open("ab") as file:
            offset = _durable_bytes(remote, target)
            file.truncate(offset)
            # Before the first byte, so that a full disk has room for later notes.
            _note(remote, target, offset)
            if offset < remote.size_bytes:
                _copy(remote, file.fileno(), target, offset, on_bytes, sync_every_bytes)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise NoRoomError(f"no room for {target.name}: {error.strerror}") from error
        raise
    return partial


def _copy(
    remote: RemoteFile,
    file: int,
    target: Path,
    offset: int,
    on_bytes: Callable[[int], None],
    sync_every_bytes: int,
) -> None:
    written = synced = offset
    try:
        with remote.read_from(offset) as pieces:
            for piece in pieces:
                if written + len(piece) > remote.size_bytes:
                    raise ChangedError(f"{target.name}: more bytes came than its size")
                _write(file, piece)
                written += len(piece)
                on_bytes(len(piece))
                if written - synced >= sync_every_bytes:
                    _sync(remote, file, target, written)
                    synced = written
    finally:
        # On a failing disk this fails too: then the next transfer continues at an earlier byte.
        with suppress(OSError):
            _sync(remote, file, target, written)
    if written < remote.size_bytes:
        raise TransferCutError(f"{target.name}: cut after {written} of {remote.size_bytes} bytes")


def sha256_of(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits; what `on_bytes` raises ends it."""
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_HASH_CHUNK):
            found.update(piece)
            on_bytes(len(piece))
    return found.hexdigest()


def finish(target: Path, name: str | None = None) -> Path:
    """Rename the complete partial file of a target, durably; return its new path.

    `name` replaces the name of the target.
    """
    done = target if name is None else target.with_name(name)
    partial_path(target).replace(done)
    durable_path(target).unlink(missing_ok=True)
    sync_folder(target.parent)
    return done


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(file: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(file, rest) :]


def _durable_bytes(remote: RemoteFile, target: Path) -> int:
    """Return the bytes of the partial file that are known to be on disk, 0 for another version."""
    try:
        found = json.loads(durable_path(target).read_bytes())
        tag, size = found["tag"], found["bytes"]
    except (OSError, ValueError, TypeError, KeyError):
        return 0
    if tag != remote.tag or type(size) is not int:
        return 0
    return max(min(size, partial_bytes(target), remote.size_bytes), 0)


def _sync(remote: RemoteFile, file: int, target: Path, size: int) -> None:
    os.fsync(file)
    _note(remote, target, size)


def _note(remote: RemoteFile, target: Path, size: int) -> None:
    """Write the durable bytes over the last note: a full disk has room for that.

    A note that a crash tears is not valid JSON; then the transfer begins again.
    """
    content = json.dumps({"tag": remote.tag, "bytes": size}).encode().ljust(_NOTE_BYTES)
    handle = os.open(durable_path(target), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(handle, content, 0)
        os.fsync(handle)
    finally:
        os.close(handle)
