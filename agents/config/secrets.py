"""Secrets of the configuration of sites, as the agents read them."""

import re
from collections.abc import Mapping
from typing import Final

from pydantic import SecretStr

from agents.mdm.server import ServerUnavailableError
from runtime.secret_refs import SecretRef, UnreadableSecretError, resolve_secret

_PIN: Final = re.compile(r"\d{6}", re.ASCII)


class SecretError(ServerUnavailableError):
    """A secret cannot be used; the message has its place and never its value.

    For a request it is an outage: a secret can be missing for a moment, while it is replaced.
    """


def read_secret(reference: SecretRef, environment: Mapping[str, str]) -> SecretStr:
    """Return the secret (`resolve_secret`). Raises SecretError if it cannot be used."""
    try:
        return resolve_secret(reference, environment)
    except UnreadableSecretError as error:
        raise SecretError(str(error)) from error.__cause__


def read_erase_pin(reference: SecretRef, environment: Mapping[str, str]) -> SecretStr:
    """Return the PIN for an erase. Raises SecretError, also if it is not six digits."""
    pin = read_secret(reference, environment)
    if _PIN.fullmatch(pin.get_secret_value()) is None:
        raise SecretError(f"{reference}: is not six digits")
    return pin
