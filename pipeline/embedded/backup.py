"""Back-up of a data directory while its service runs, and its restoration.

    drydock.sqlite           the database, as of one moment
    journals/<site>.sqlite   the journal of each site's executor
    keys/trust/              the trusted public keys; a back-up has no private key and no token
    backup.json              the time, the versions, the signing keys' ids, a checksum of each file

The database is copied first. An executor gets a job after the database has it, so each journal in a
back-up has every result that the database has. After a restoration the database is still older than
the Macs: it is marked as a copy, and the service checks each Mac before an order
(`pipeline.embedded.journal_check`).
"""

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from agents.journal import Journal, JournalError
from pipeline.embedded.log import FILE, VERSION, Log, StoreError
from pipeline.embedded.store import IDENTITY_SETTING, LOCK, Store
from pipeline.signing_keys import KeyStore
from runtime import sqlite
from runtime.trusted_keys import KeyRing, Purpose

MANIFEST: Final = "backup.json"
JOURNALS: Final = "journals"
_FORMAT: Final = 1
_TRUST: Final = Path("keys") / "trust"
_ARCHIVES: Final = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz"}
_IGNORED: Final = frozenset({"lost+found"})

FetchJournal = Callable[[str], bytes]
"""Returns a copy of a site's journal, made after the call."""


class BackupError(RuntimeError):
    """The back-up cannot be made or restored; the message is the reason, in one line."""


@dataclass(frozen=True, slots=True)
class Backup:
    """The content of a back-up.

    `last_seq` is the number of the last log entry, `signing_keys` the ids of the keys that signed
    at that time, by purpose; their private keys are not in the back-up.
    """

    made_at: datetime
    last_seq: int
    sites: tuple[str, ...]
    signing_keys: dict[str, str]


def back_up(data_dir: Path, target: Path, now: datetime, fetch_journal: FetchJournal) -> Backup:
    """Write a back-up of a data directory to `target`, and return its content.

    `target` is a folder, or an archive if its name ends in .tar, .tar.gz or .tgz. It appears whole
    or not at all. Raises BackupError if it exists or cannot be written, StoreError if the database
    is damaged, and any exception of `fetch_journal`.
    """
    _check_absent(target)
    with _partial(target) as folder:
        with Log.open(data_dir) as log:
            log.copy_to(folder / FILE)
            last_seq = log.last_seq()
        sites = tuple(path.stem for path in sorted((data_dir / JOURNALS).glob("*.sqlite")))
        (folder / JOURNALS).mkdir(mode=0o700)
        for site in sites:
            path = folder / JOURNALS / f"{site}.sqlite"
            path.write_bytes(fetch_journal(site))
            _check_journal(path)
        _copy_public_keys(data_dir, folder)
        keys = {
            purpose.value: keyid
            for purpose in Purpose
            if (keyid := KeyStore(data_dir / "keys").current(purpose)) is not None
        }
        made = Backup(now, last_seq, sites, keys)
        _write_manifest(folder, made)
        _publish(folder, target)
    return made


def copy_closed_journal(data_dir: Path, site: str) -> bytes:
    """Return a copy of a site's journal that no service has open. Raises JournalError."""
    with Journal(data_dir / JOURNALS / f"{site}.sqlite") as journal:
        return journal.copy()


def restore(source: Path, data_dir: Path) -> Backup:
    """Put a back-up into an empty or missing folder and return its content.

    Every file is compared with its checksum, and the structure and version of each database are
    checked, before anything is put in place; the database is put last. Raises BackupError if the
    folder is not empty, or if the back-up is incomplete, altered, damaged or of another version.
    """
    if data_dir.exists() and (
        not data_dir.is_dir() or {path.name for path in data_dir.iterdir()} - _IGNORED
    ):
        raise BackupError(f"{data_dir} is not empty: restore into a new folder")
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        staging = Path(tempfile.mkdtemp(prefix=".restore-", dir=data_dir))
        try:
            _unpack(source, staging)
            try:
                made = _verify(staging)
            except BackupError as error:
                raise BackupError(f"{source}: {error}") from error
            _mark_as_copy(staging)
            for name in (JOURNALS, "keys", FILE):
                if (staging / name).exists():
                    (staging / name).replace(data_dir / name)
                    _sync_folder(data_dir)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise BackupError(f"cannot restore {source} to {data_dir}: {error}") from error
    return made


def _check_absent(target: Path) -> None:
    if target.exists():
        raise BackupError(f"{target} exists: give a new name")
    if not target.absolute().parent.is_dir():
        raise BackupError(f"{target.absolute().parent} is not a folder")


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Yield a new folder beside the target, and delete it at the end. OSError: BackupError."""
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}-", dir=target.absolute().parent, ignore_cleanup_errors=True
        ) as name:
            folder = Path(name) / "backup"
            folder.mkdir(mode=0o700)
            yield folder
    except OSError as error:
        raise BackupError(f"cannot write {target}: {error}") from error


def _copy_public_keys(data_dir: Path, folder: Path) -> None:
    """Copy the trusted public keys, after a check that each is one. Raises KeysError."""
    KeyRing.load(data_dir / "keys")
    for path in sorted((data_dir / _TRUST).glob("*/*.pub")):
        copy = folder / path.relative_to(data_dir)
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        shutil.copy2(path, copy)  # with its time, which is the age of the key


def _files(folder: Path) -> list[Path]:
    """Return the files of a back-up without its manifest, relative to the folder, sorted."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path != Path(MANIFEST))


def _write_manifest(folder: Path, made: Backup) -> None:
    fields = {
        "format": _FORMAT,
        "made_at": made.made_at.isoformat(),
        "drydock": version("drydock"),
        "schema": VERSION,
        "last_seq": made.last_seq,
        "sites": list(made.sites),
        "signing_keys": made.signing_keys,
        "files": {path.as_posix(): _digest(folder / path) for path in _files(folder)},
    }
    (folder / MANIFEST).write_text(json.dumps(fields, indent=2) + "\n")


def _publish(folder: Path, target: Path) -> None:
    """Make the files durable and give the folder, or an archive of it, its name."""
    for path in [*_files(folder), Path(MANIFEST)]:
        _sync(folder / path)
    suffix = _archive_suffix(target)
    if suffix is None:
        folder.replace(target)
    else:
        archive = folder.with_name("archive")
        with tarfile.open(archive, _ARCHIVES[suffix]) as tar:  # type: ignore[call-overload]
            tar.add(folder, arcname="")
        archive.chmod(0o600)
        _sync(archive)
        archive.replace(target)
    _sync_folder(target.absolute().parent)


def _archive_suffix(path: Path) -> str | None:
    return next((suffix for suffix in _ARCHIVES if path.name.endswith(suffix)), None)


def _unpack(source: Path, staging: Path) -> None:
    """Copy the files of a back-up, a folder or an archive, to `staging`."""
    if source.is_dir():
        shutil.copytree(source, staging, dirs_exist_ok=True)
        return
    try:
        with tarfile.open(source) as tar:
            tar.extractall(staging, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise BackupError(f"{source} is no archive, or it is damaged or incomplete") from error


def _verify(folder: Path) -> Backup:
    """Return the content of an unpacked back-up. Raises BackupError unless it is whole."""
    try:
        fields: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        files: dict[str, str] = fields["files"]
        made = Backup(
            datetime.fromisoformat(fields["made_at"]),
            fields["last_seq"],
            tuple(fields["sites"]),
            fields["signing_keys"],
        )
    except FileNotFoundError:
        raise BackupError(f"no {MANIFEST}: this is no back-up of `drydock backup`") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BackupError(f"{MANIFEST} cannot be read: {error}") from error
    if fields.get("format") != _FORMAT:
        raise BackupError(f"the back-up has format {fields.get('format')}, not {_FORMAT}")
    present = {path.as_posix() for path in _files(folder)}
    if present != files.keys():
        odd = sorted(present ^ files.keys())[0]
        raise BackupError(f"{odd} is {'missing' if odd in files else 'not part of the back-up'}")
    for name, digest in files.items():
        if _digest(folder / name) != digest:
            raise BackupError(f"{name} was altered: its checksum differs; use another back-up")
    if FILE not in files:
        raise BackupError(f"{FILE} is missing")
    for site in made.sites:
        _check_journal(folder / JOURNALS / f"{site}.sqlite")
    return made


def _check_journal(path: Path) -> None:
    """Raise BackupError for a journal that is damaged or of another version."""
    try:
        sqlite.check_file(path)
        with Journal(path):
            pass
    except (JournalError, sqlite.OpenError) as error:
        raise BackupError(f"{path.name}: {error}") from error


def _mark_as_copy(folder: Path) -> None:
    """Check version and structure of the database, and mark it as older than the Macs."""
    try:
        sqlite.check_file(folder / FILE)
        with closing(Store.open(folder)) as store, store.transaction("restore"):
            store.put_setting(IDENTITY_SETTING, b"restored")
    except (StoreError, sqlite.OpenError) as error:
        raise BackupError(str(error)) from error
    (folder / LOCK).unlink(missing_ok=True)
    _sync(folder / FILE)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
