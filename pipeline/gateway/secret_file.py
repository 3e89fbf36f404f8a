"""Files with secrets that a server makes at its first start."""

import errno
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from runtime.private_files import exposed_reason, unsafe_reason

REDACTION_KEY: Final = "redaction.key"


def random_key() -> bytes:
    """Return 32 random bytes."""
    return secrets.token_bytes(32)


def read_or_make(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the content of a file; a missing file is made with the content `make()`.

    Only its owner can read a file that is made; a crash leaves no part of it. Raises OSError, a
    PermissionError if others can read or write the file.
    """
    if not path.exists():
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(make())
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    reason = exposed_reason(path) or unsafe_reason(path, path.parent)
    if reason is not None:
        raise PermissionError(errno.EACCES, reason, str(path))
    return path.read_bytes()
