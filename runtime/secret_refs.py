"""References to secrets in configuration files: a variable or a file has the secret itself."""

import stat
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, Self

from pydantic import SecretStr, model_serializer, model_validator

from runtime.yaml_model import StrictModel
from schemas.ids import TextField

_SECRET_FORM: Final = (
    "must be env:NAME or file:/absolute/path; the secret itself never belongs in this file"
)
_MAX_BYTES: Final = 64 * 1024


class UnreadableSecretError(Exception):
    """A secret cannot be used; the message has its place and never its value."""


class SecretRef(StrictModel):
    """The place of a secret: an environment variable, or a file with an absolute path.

    In the file it is one text, `env:NANOMDM_API_KEY` or `file:/etc/drydock/nanomdm.key`. The secret
    itself is never in the file, in an error, or in this model.
    """

    source: Literal["env", "file"]
    name: TextField

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Return the fields of a reference, which `_check` reads; ValueError for other text.

        The value is not in the message: a literal secret must not reach a log or a terminal.
        """
        if isinstance(value, dict) and value.keys() == cls.model_fields.keys():
            return value
        if isinstance(value, str) and value.startswith(("env:", "file:")):
            source, _, name = value.partition(":")
            return {"source": source, "name": name}
        raise ValueError(_SECRET_FORM)

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Return the reference; ValueError unless it is a variable's name or an absolute path."""
        name = self.name
        is_variable = name.isascii() and name.isidentifier()
        if is_variable if self.source == "env" else PurePosixPath(name).is_absolute():
            return self
        raise ValueError(_SECRET_FORM)

    @model_serializer
    def _text(self) -> str:
        return str(self)

    def __str__(self) -> str:
        """Return the text of the file: `env:NANOMDM_API_KEY`."""
        return f"{self.source}:{self.name}"


def resolve_secret(reference: SecretRef, environment: Mapping[str, str]) -> SecretStr:
    """Return the secret, without white space around it.

    Raises UnreadableSecretError if the variable is not set, the file cannot be read or is larger
    than 64 KiB, or the secret is empty or has characters that an HTTP login cannot have.
    """
    if reference.source == "env":
        text = environment.get(reference.name)
        if text is None:
            raise UnreadableSecretError(f"{reference}: this variable is not set")
    else:
        text = _read_file(reference)
    text = text.strip()
    if not text:
        raise UnreadableSecretError(f"{reference}: is empty")
    if not (text.isascii() and text.isprintable()):
        raise UnreadableSecretError(
            f"{reference}: has more than one line, or characters outside ASCII"
        )
    return SecretStr(text)


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
        raise UnreadableSecretError(f"{reference}: {error.strerror or error}") from error
    if len(raw) > _MAX_BYTES:
        raise UnreadableSecretError(f"{reference}: is larger than 64 KiB")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        # Without the cause: its text shows the bytes.
        raise UnreadableSecretError(f"{reference}: is no text") from None
