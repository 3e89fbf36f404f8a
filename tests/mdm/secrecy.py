"""Search of everything that Drydock's programs write or serve for the secrets that they used."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.mdm.drydock import CHALLENGE, SENDERS
from tests.mdm.servers import KMFDDM_KEY, NANOMDM_KEY

_PRIVATE = frozenset({".pem", ".key", ".token", ".mobileconfig"})


def secrets_of(folder: Path) -> dict[str, bytes]:
    """Return the logins and the keys of the programs by name; `folder` has their files."""
    found = {
        "NanoMDM's API key": NANOMDM_KEY.encode(),
        "KMFDDM's API key": KMFDDM_KEY.encode(),
        "challenge of the enrollment": CHALLENGE.encode(),
        **{name: secret.encode() for name, secret in SENDERS.items()},
    }
    for path in sorted(folder.rglob("*")):
        if path.is_file() and _is_private(path) and "mdm" not in path.relative_to(folder).parts:
            lines = [line for line in path.read_bytes().splitlines() if b"-----" not in line]
            found[str(path.relative_to(folder))] = b"\n".join(lines).strip()
    return found


def exposed_secrets(
    folder: Path, pages: Mapping[str, bytes], secrets: Mapping[str, bytes]
) -> list[str]:
    """Return where secrets were found: in files below `folder`, and in pages by their names.

    Files whose purpose is to hold a secret are left out: the logins that the configuration names,
    private keys, and what the MDM servers keep for themselves.
    """
    contents: Iterable[tuple[str, bytes]] = (*_files(folder), *pages.items())
    return [
        f"{where}: {name}"
        for where, content in contents
        for name, secret in secrets.items()
        if secret in content
    ]


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder).parts
        if path.is_file() and inside[0] != "mdm" and not _is_private(path):
            yield str(path.relative_to(folder)), path.read_bytes()


def _is_private(path: Path) -> bool:
    """Return True for a file that holds a private key, a login or a token."""
    return path.suffix in _PRIVATE
