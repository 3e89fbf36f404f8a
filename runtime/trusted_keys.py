"""Trusted public keys of the signatures of jobs and of approvals, read from a key directory.

Files that this module reads:

    trust/<purpose>/<keyid>.pub     trusted public keys (PEM)

An agent needs only these. `pipeline/signing_keys.py` writes them, and has the private keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from schemas.signing import key_id

_MAX_KEY_FILE_BYTES: Final = 16 * 1024


class KeysError(ValueError):
    """A key file is missing, unreadable, readable by others, or does not match its name."""


class Purpose(StrEnum):
    """Use of a key. A signature by a key of one purpose is never valid for the other."""

    JOBS = "jobs"
    APPROVALS = "approvals"


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The trusted public keys of each purpose, by key id."""

    jobs: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)
    approvals: Mapping[str, Ed25519PublicKey] = field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Return the keys under `directory`/trust; no keys if the folder is missing.

        Raises KeysError for a file that is unreadable, not an Ed25519 public key, or not the key of
        its name.
        """
        return cls(
            load_trusted_keys(directory, Purpose.JOBS),
            load_trusted_keys(directory, Purpose.APPROVALS),
        )


def public_key_path(directory: Path, purpose: Purpose, keyid: str) -> Path:
    """Return the path of a trusted public key."""
    return directory / "trust" / purpose / f"{keyid}.pub"


def load_trusted_keys(directory: Path, purpose: Purpose) -> dict[str, Ed25519PublicKey]:
    """Return the trusted public keys of a purpose, by key id; empty without any.

    Raises KeysError for a file that is unreadable, not an Ed25519 public key, or not the key of its
    name.
    """
    keys = {}
    for path in sorted((directory / "trust" / purpose).glob("*.pub")):
        try:
            key = load_pem_public_key(read_key_file(path))
        except OSError as error:
            raise KeysError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise KeysError(f"{path} is not a public key") from error
        if not isinstance(key, Ed25519PublicKey) or key_id(key) != path.stem:
            raise KeysError(f"{path} is not the Ed25519 key of its name")
        keys[path.stem] = key
    return keys


def read_key_file(path: Path) -> bytes:
    """Return the first 16 KiB of a file. Raises OSError."""
    with path.open("rb") as file:
        return file.read(_MAX_KEY_FILE_BYTES)
