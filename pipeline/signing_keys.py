"""Ed25519 key pairs that sign jobs and approvals: create, rotate, retire and load them.

Files of the key directory:

    <purpose>-<keyid>.pem           private key (PKCS8, mode 0600)
    <purpose>.current               id of the key that signs
    trust/<purpose>/<keyid>.pub     trusted public keys; an agent needs only these

Rotation deletes the old private key and keeps the old public key, so that jobs under way stay
valid. The age of a key is the age of its public file.
"""

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from runtime.trusted_keys import (
    KeysError,
    Purpose,
    load_trusted_keys,
    public_key_path,
    read_key_file,
)
from schemas.signing import key_id

_OTHERS: Final = 0o077


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

        Raises KeysError for the key that signs, for a key that is not trusted, and if a key file
        cannot be read or is invalid; OSError if the file cannot be deleted.
        """
        if keyid == self.current(purpose):
            raise KeysError(f"{keyid} signs {purpose}; rotate first")
        known = load_trusted_keys(self._directory, purpose)
        if keyid not in known:
            raise KeysError(f"{keyid} is not trusted for {purpose}")
        public_key_path(self._directory, purpose, keyid).unlink()

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
            # OpenSSH has the same rule: a key that others can read does not prove the signer.
            if path.stat().st_mode & _OTHERS:
                raise KeysError(f"{path} is open to others; chmod 600 it, or rotate the key")
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

    def keys(self) -> list[KeyInfo]:
        """Return every trusted key and every signing key, sorted by purpose and id.

        Raises KeysError if one of the files cannot be read or is not the key of its name.
        """
        found = []
        for purpose in Purpose:
            current = self.current(purpose)
            trusted = load_trusted_keys(self._directory, purpose)
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


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file atomically and durably. It is never readable beyond `mode`.

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
