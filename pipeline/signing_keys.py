"""Ed25519 key pairs of each purpose: create, rotate, retire, load them.

Files of the key directory:

    <purpose>-<keyid>.pem           private key (PKCS8, mode 0600)
    <purpose>.current               id of the key that signs
    trust/<purpose>/<keyid>.pub     trusted public keys; an agent needs only these

Rotation deletes the old private key and keeps the old public key, so that jobs under way stay
valid. The age of a key is the age of its public file.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from runtime.private_files import exposed_reason, unsafe_reason
from runtime.trusted_keys import (
    KeyRing,
    KeysError,
    Purpose,
    TrustedKeys,
    load_trusted_keys,
    public_key_path,
    read_key_file,
)
from schemas.signing import key_id


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One key of a directory.

    `signs` is True for the current signing key, `trusted` if the public key is in `trust/`.
    `created_at` is the modification time of the public file, None for a key that is not trusted.
    """

    purpose: Purpose
    keyid: str
    signs: bool
    trusted: bool
    created_at: datetime | None


class KeyStore:
    """Makes, rotates and retires the keys in one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def make(self, purpose: Purpose) -> str:
        """Make the first key of a purpose and return its id.

        Raises KeysError if one exists, or if a file cannot be read or written.
        """
        current = self.current(purpose)
        if current is not None:
            raise KeysError(f"a key for {purpose} exists ({current}); rotate it instead")
        return self._add(purpose)

    def rotate(self, purpose: Purpose) -> str:
        """Make a new signing key and return its id.

        The old private key is deleted; the old public key stays trusted. Raises KeysError if there
        is no key to rotate, or if a file cannot be read or written, OSError if the old private key
        cannot be deleted: then both keys exist and the new one signs.
        """
        old = self.current(purpose)
        if old is None:
            raise KeysError(f"no key for {purpose} to rotate; make one first")
        new = self._add(purpose)
        self._private(purpose, old).unlink(missing_ok=True)
        return new

    def retire(self, purpose: Purpose, keyid: str) -> None:
        """Remove an old public key from `trust/`.

        Raises KeysError for the key that signs and for a key that is not trusted, OSError if the
        file cannot be deleted.
        """
        if keyid == self.current(purpose):
            raise KeysError(f"{keyid} signs {purpose}; rotate first")
        path = public_key_path(self._directory, purpose, keyid)
        if not path.is_file():
            raise KeysError(f"{keyid} is not trusted for {purpose}")
        path.unlink()

    def current(self, purpose: Purpose) -> str | None:
        """Return the id of the key that signs for the purpose, None if there is none.

        Raises KeysError if the file with the id cannot be read.
        """
        try:
            return self._pointer(purpose).read_text("ascii").strip() or None
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise KeysError(f"cannot read {self._pointer(purpose)}: {error}") from error

    def signer(self, purpose: Purpose) -> Ed25519PrivateKey:
        """Return the private key that signs for the purpose.

        Raises KeysError if the key is missing or unreadable, if its file is open to others, or if
        it is not the key of its name.
        """
        keyid = self.current(purpose)
        if keyid is None:
            raise KeysError(f"no key for {purpose} in {self._directory}; make one first")
        path = self._private(purpose, keyid)
        try:
            reason = exposed_reason(path) or unsafe_reason(path, self._directory)
            if reason is not None:
                raise KeysError(reason)
            key = load_pem_private_key(read_key_file(path), password=None)
        except OSError as error:
            raise KeysError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            if isinstance(error, KeysError):
                raise
            raise KeysError(f"{path} is not a private key") from error
        if not isinstance(key, Ed25519PrivateKey) or key_id(key.public_key()) != keyid:
            raise KeysError(f"{path} is not the Ed25519 key {keyid}")
        return key

    def keys(self, report: Callable[[str], None] = lambda _: None) -> list[KeyInfo]:
        """Return every trusted key and every signing key, sorted by purpose and id.

        `report` gets one sentence for each file in `trust/` that cannot be used. Raises KeysError
        if another user can write one of the folders.
        """
        found = []
        for purpose in Purpose:
            current = self.current(purpose)
            trusted = load_trusted_keys(self._directory, purpose, report)
            for keyid in sorted({*trusted, *([current] if current else [])}):
                path = public_key_path(self._directory, purpose, keyid)
                made = path.stat().st_mtime if keyid in trusted else None
                created_at = None if made is None else datetime.fromtimestamp(made, UTC)
                info = KeyInfo(purpose, keyid, keyid == current, keyid in trusted, created_at)
                found.append(info)
        return found

    def _add(self, purpose: Purpose) -> str:
        """Make a key pair, trust it, make it the signing key and return its id.

        Raises KeysError if a file cannot be written.
        """
        # Replace the pointer last: a crash before that leaves an unused key.
        key = Ed25519PrivateKey.generate()
        public = key.public_key()
        keyid = key_id(public)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public_pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        _write(self._private(purpose, keyid), pem, 0o600)
        _write(public_key_path(self._directory, purpose, keyid), public_pem, 0o644)
        _write(self._pointer(purpose), f"{keyid}\n".encode(), 0o644)
        return keyid

    def _private(self, purpose: Purpose, keyid: str) -> Path:
        return self._directory / f"{purpose}-{keyid}.pem"

    def _pointer(self, purpose: Purpose) -> Path:
        return self._directory / f"{purpose}.current"


@dataclass(frozen=True, slots=True)
class SigningKeys:
    """The key that signs jobs, the one that signs control, and the trusted keys.

    `control` is None in a directory without such a key.
    """

    jobs: Ed25519PrivateKey
    control: Ed25519PrivateKey | None
    trust: KeyRing


class WatchedSigningKeys:
    """The keys of a directory, read again when `current` finds them changed.

    `report` is called as by TrustedKeys, and if a new private key cannot be used: the previous one
    signs. The constructor raises KeysError.
    """

    def __init__(
        self, directory: Path, report: Callable[[str], None], interval_s: float = 1.0
    ) -> None:
        self._store = KeyStore(directory)
        self._trusted = TrustedKeys(directory, report, interval_s)
        self._report = report
        self._reported: str | None = None
        self._ids = self._signers()
        self._keys = self._load(self._trusted.current())

    def current(self) -> SigningKeys:
        """Return the keys; the same object until one of them changes."""
        trust = self._trusted.current()
        try:
            ids = self._signers()
            if trust is not self._keys.trust or ids != self._ids:
                self._keys, self._ids = self._load(trust), ids
            self._reported = None
        except KeysError as error:
            if trust is not self._keys.trust:
                self._keys = replace(self._keys, trust=trust)
            if str(error) != self._reported:
                self._reported = str(error)
                self._report(f"{error}; the previous key signs")
        return self._keys

    def _signers(self) -> tuple[str | None, str | None]:
        return self._store.current(Purpose.JOBS), self._store.current(Purpose.CONTROL)

    def _load(self, trust: KeyRing) -> SigningKeys:
        control = None
        if self._store.current(Purpose.CONTROL) is not None:
            control = self._store.signer(Purpose.CONTROL)
        return SigningKeys(self._store.signer(Purpose.JOBS), control, trust)


class WatchedKey:
    """The key that signs for one purpose, read again every second when its id has changed.

    `report` is called once for each reason for which a new key cannot be used: the previous one
    signs. The constructor raises KeysError.
    """

    def __init__(
        self,
        directory: Path,
        purpose: Purpose,
        report: Callable[[str], None],
        interval_s: float = 1.0,
    ) -> None:
        self._store = KeyStore(directory)
        self._purpose = purpose
        self._report = report
        self._reported: str | None = None
        self._interval_s = interval_s
        self._read_at = time.monotonic()
        self._id = self._store.current(purpose)
        self._key = self._store.signer(purpose)

    def current(self) -> Ed25519PrivateKey:
        """Return the key; the same object until it changes."""
        if time.monotonic() - self._read_at >= self._interval_s:
            self._read_at = time.monotonic()
            self._reload()
        return self._key

    def _reload(self) -> None:
        try:
            keyid = self._store.current(self._purpose)
            if keyid != self._id:
                self._key, self._id = self._store.signer(self._purpose), keyid
            self._reported = None
        except KeysError as error:
            if str(error) != self._reported:
                self._reported = str(error)
                self._report(f"{error}; the previous key signs")


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file atomically and durably. It never has more rights than `mode`.

    Raises KeysError if that fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeysError(f"cannot write {path}: {error.strerror}") from error
