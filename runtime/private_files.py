"""Owner and mode of files with keys and tokens, checked by OpenSSH's rules.

A file that another user can write proves nothing, and a secret that another user can read is none
(OpenSSH, `misc.c`: safe_path; `authfile.c`: sshkey_perm_ok).
"""

import os
import stat
from pathlib import Path
from typing import Final

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH
_OPEN_TO_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
PRIVATE_UMASK: Final = 0o077


def use_private_umask() -> None:
    """Create files and folders for their owner alone, from now on in this process."""
    os.umask(PRIVATE_UMASK)


def unsafe_reason(path: Path, folder: Path) -> str | None:
    """Return the reason for which another user could have written `path`; None if none could.

    Its owner must be this user or root; for root also the owner of `folder`, because administrators
    run commands on the folders of services. Group and others must not be able to write it. Two
    exceptions are Kubernetes' mounts of Secrets: a read-only volume, and a folder with the sticky
    bit, in which each file is checked by its own owner. Raises OSError if there is no such file.
    """
    found = path.stat()
    owners = {0, os.geteuid()}
    if os.geteuid() == 0:
        owners.add(folder.stat().st_uid)
    if not {found.st_uid, path.lstat().st_uid} <= owners:
        return f"{path} belongs to another user (uid {found.st_uid})"
    if not found.st_mode & _WRITABLE_BY_OTHERS or _is_read_only(path):
        return None
    if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX:
        return None
    return f"other users can write {path}: chmod go-w"


def exposed_reason(path: Path) -> str | None:
    """Return the reason for which a secret in `path` is none; None if only its owner can read it.

    Raises OSError if there is no such file.
    """
    if path.stat().st_mode & _OPEN_TO_OTHERS:
        return f"{path} is open to others; chmod 600 it, or replace the secret"
    return None


def make_private(path: Path) -> None:
    """Take the rights of group and others from a file or folder of this user. Raises OSError.

    Nothing is changed if it belongs to another user.
    """
    found = path.stat()
    if found.st_uid == os.geteuid() and found.st_mode & _OPEN_TO_OTHERS:
        path.chmod(stat.S_IMODE(found.st_mode) & ~_OPEN_TO_OTHERS)


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
