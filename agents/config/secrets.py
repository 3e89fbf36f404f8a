"""Secrets that a configuration refers to, read from the environment and from files."""

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from agents.config.model import SecretRef
from agents.mdm.server import ServerUnavailableError

_MAX_BYTES: Final = 64 * 1024
_PIN: Final = re.compile(r"\d{6}", re.ASCII)


class SecretError(ServerUnavailableError):
    """A secret cannot be used; the message has its place and never its value.

    For a request it is an outage: a secret can be missing for a moment, while it is replaced.
    """


def read_secret(reference: SecretRef, environment: Mapping[str, str]) -> SecretStr:
    """Return the secret, without white space around it.

    Raises SecretError if the variable is not set, the file cannot be read or is larger than 64 KiB,
    or the secret is empty or has characters that an HTTP login cannot have.
    """
    if reference.source == "env":
        text = environment.get(reference.name)
        if text is None:
            raise SecretError(f"{reference}: this variable is not set")
    else:
        text = _read_file(reference)
    text = text.strip()
    if not text:
        raise SecretError(f"{reference}: is empty")
    if not (text.isascii() and text.isprintable()):
        raise SecretError(f"{reference}: has more than one line, or characters outside ASCII")
    return SecretStr(text)


def read_erase_pin(reference: SecretRef, environment: Mapping[str, str]) -> SecretStr:
    """Return the PIN for an erase. Raises SecretError, also if it is not six digits."""
    pin = read_secret(reference, environment)
    if _PIN.fullmatch(pin.get_secret_value()) is None:
        raise SecretError(f"{reference}: is not six digits")
    return pin


def weak_permissions(reference: SecretRef) -> str | None:
    """Return the reason for which other users can read a secret's file; None if they cannot.

    Also None for a variable, and for a file that cannot be examined.
    """
    if reference.source == "env":
        return None
    try:
        mode = Path(reference.name).stat().st_mode
    except OSError:
        return None
    if mode & stat.S_IROTH:
        return f"{reference}: every user of this machine can read it; chmod o-rwx"
    return None


def _read_file(reference: SecretRef) -> str:
    try:
        with Path(reference.name).open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise SecretError(f"{reference}: {error.strerror or error}") from error
    if len(raw) > _MAX_BYTES:
        raise SecretError(f"{reference}: is larger than 64 KiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # Without the cause: its text shows the bytes.
        raise SecretError(f"{reference}: is no text") from None
