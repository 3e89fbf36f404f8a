"""Trusted public keys of the signatures of each purpose, from a key directory.

Files that this module reads:

    trust/<purpose>/<keyid>.pub     trusted public keys (PEM)

An agent needs only these. `pipeline/signing_keys.py` writes them, and has the private keys. Another
user must not be able to write the folders; a file that is unreadable, not a key, not the key of its
name, or that another user can write is left out and reported, and the other keys count.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from runtime.private_files import unsafe_reason
from schemas.signing import key_id

_MAX_KEY_FILE_BYTES: Final = 16 * 1024
_READ_INTERVAL_S: Final = 1.0


class KeysError(ValueError):
    """A key file or folder is missing, unreadable, open to others, or not the key of its name."""


class Purpose(StrEnum):
    """Use of a key. A signature by a key of one purpose is never valid for another.

    - `jobs`: the service or the workers sign jobs, their withdrawals, queries, and the halts of an
      action that Drydock itself sets
    - `approvals`: a person signs the approvals of erasing jobs
    - `control`: operators sign halts, policies, resets and identities
    - `records`: gateways sign the records of Macs, which the agents of live sites read
    """

    JOBS = "jobs"
    APPROVALS = "approvals"
    CONTROL = "control"
    RECORDS = "records"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The trusted public keys of each purpose, by key id.

    `problems` has one sentence for each file that is left out.
    """

    jobs: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    approvals: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    control: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    records: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Return the keys under `directory`/trust; no keys if the folder is missing.

        Raises KeysError if another user can write one of the folders.
        """
        problems: list[str] = []
        rings = {
            purpose.value: load_trusted_keys(directory, purpose, problems.append)
            for purpose in Purpose
        }
        return cls(**rings, problems=tuple(problems))

    def has_same_keys(self, other: "KeyRing") -> bool:
        """Return True if both trust the same keys for each purpose."""
        return all(
            getattr(self, purpose.value).keys() == getattr(other, purpose.value).keys()
            for purpose in Purpose
        )


class TrustedKeys:
    """The trusted keys of a directory, read again every second. Any thread may use it.

    `report` is called with one sentence for each problem, once until it changes: a file that is
    left out, or a folder that cannot be used. Then the keys that were read before stay in use. The
    constructor raises KeysError if another user can write one of the folders.
    """

    def __init__(
        self,
        folder: Path,
        report: Callable[[str], None],
        interval_s: float = _READ_INTERVAL_S,
    ) -> None:
        self._folder = folder
        self._report = report
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._read_at = time.monotonic()
        self._reported: tuple[str, ...] = ()
        self._ring = KeyRing.load(folder)
        self._report_new(self._ring.problems)

    def current(self) -> KeyRing:
        """Return the trusted keys; the same object until a key is added or removed."""
        with self._lock:
            if time.monotonic() - self._read_at >= self._interval_s:
                self._read_at = time.monotonic()
                self._reload()
            return self._ring

    def _reload(self) -> None:
        try:
            ring = KeyRing.load(self._folder)
        except KeysError as error:
            self._report_new((f"{error}; the keys that were read before stay in use",))
            return
        self._report_new(ring.problems)
        if not ring.has_same_keys(self._ring):
            self._ring = ring

    def _report_new(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            if problem not in self._reported:
                self._report(problem)
        self._reported = problems


class LiveKeys(Mapping[str, Ed25519PublicKey]):
    """Public keys by key id, which can be replaced while others verify with them."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = keys

    def replace(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        """Use these keys from now on."""
        self._keys = keys

    def __getitem__(self, keyid: str) -> Ed25519PublicKey:
        """Return a key. Raises KeyError."""
        return self._keys[keyid]

    def __iter__(self) -> Iterator[str]:
        """Return the ids."""
        return iter(self._keys)

    def __len__(self) -> int:
        """Return the number of keys."""
        return len(self._keys)


def public_key_path(directory: Path, purpose: Purpose, keyid: str) -> Path:
    """Return the path of a trusted public key."""
    return directory / "trust" / purpose / f"{keyid}.pub"


def load_trusted_keys(
    directory: Path, purpose: Purpose, report: Callable[[str], None]
) -> dict[str, Ed25519PublicKey]:
    """Return the trusted public keys of a purpose, by key id; empty without any.

    A file that cannot be used is left out, and `report` gets the reason. Raises KeysError if
    another user can write one of the folders.
    """
    keys: dict[str, Ed25519PublicKey] = {}
    folder = directory / "trust" / purpose
    if not folder.is_dir():
        return keys
    for each in (directory, directory / "trust", folder):
        try:
            unsafe = unsafe_reason(each, directory)
        except OSError as error:
            raise KeysError(f"cannot read {each}: {error.strerror}") from error
        if unsafe is not None:
            raise KeysError(unsafe)
    for path in sorted(folder.glob("*.pub")):
        try:
            keys[path.stem] = _read_public_key(path, directory)
        except KeysError as error:
            report(f"{error}; the key is not trusted")
    return keys


def _read_public_key(path: Path, directory: Path) -> Ed25519PublicKey:
    """Return the public key of a file. Raises KeysError if it cannot be used."""
    try:
        unsafe = unsafe_reason(path, directory)
        if unsafe is not None:
            raise KeysError(unsafe)
        key = load_pem_public_key(read_key_file(path))
    except OSError as error:
        raise KeysError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, KeysError):
            raise
        raise KeysError(f"{path} is not a public key") from error
    if not isinstance(key, Ed25519PublicKey) or key_id(key) != path.stem:
        raise KeysError(f"{path} is not the Ed25519 key of its name")
    return key


def read_key_file(path: Path) -> bytes:
    """Return the first 16 KiB of a file. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_MAX_KEY_FILE_BYTES)
