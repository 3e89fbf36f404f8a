"""The intent of a job that activates something on a Mac: the name, and the reinstall before it."""

from typing import Final

# An intent has up to 1,024 characters.
MAX_ACTIVATION_NAME: Final = 256
_PREFIX: Final = "activation:"


def activation_intent(name: str, reinstall_us: int) -> str:
    """Return the intent to carry out an activation after the reinstall issued at `reinstall_us`."""
    return f"{_PREFIX}{name}@{reinstall_us}"


def activation_name(intent: str) -> str | None:
    """Return the name of the activation in an intent; None for another intent."""
    name, at, _ = intent.removeprefix(_PREFIX).rpartition("@")
    return name if at and name and intent.startswith(_PREFIX) else None
