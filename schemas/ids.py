"""Identifiers: whose Mac, which serial number, which job, which advisory."""

import hashlib
from functools import lru_cache
from typing import Annotated, Final, NewType

from pydantic import StringConstraints

Udid = NewType("Udid", str)
JobId = NewType("JobId", str)
AdvisoryId = NewType("AdvisoryId", str)

SERIAL_SUBJECT_PREFIX: Final = "serial:"

UdidField = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, to_upper=True, min_length=1, max_length=128, pattern=r"^[!-~]+$"
    ),
]
SerialField = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, to_upper=True, min_length=1, max_length=64, pattern=r"^[!-~]+$"
    ),
]
SiteField = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]

# Placeholders that firmware and hypervisors report where a serial number should be.
_NO_SERIAL: Final = frozenset(
    {"0", "NOT AVAILABLE", "NONE", "N/A", "SYSTEM SERIAL#", "UNKNOWN", ""}
)


def is_real_serial(serial: str | None) -> bool:
    """Whether a serial number can join records: placeholders cannot."""
    return serial is not None and serial.strip().upper() not in _NO_SERIAL


def advisory_id(platform: str, version: str) -> AdvisoryId:
    """`macOS`, `26.2` -> `macOS-26.2`: an advisory is its platform and version, nothing that a
    feed rewrites later (builds go blank, severities move)."""
    return AdvisoryId(f"{platform}-{version}")


# A job's id is derived to name it and again to check it, shortly after.
@lru_cache(maxsize=256)
def derive_job_id(udid: str, action: str, target: str, generation: int) -> JobId:
    """The id of the one job for an intent; the same intent always yields the same id.

    `target` is what is wanted (`26.2`, or what a re-enrolment answers); `generation` counts the
    closed jobs for the same intent before this one.
    """
    digest = hashlib.sha256(f"{udid}\n{action}\n{target}\n{generation}".encode()).hexdigest()
    return JobId(f"job-{digest[:32]}")


def event_id(*parts: str | bytes) -> str:
    """A CloudEvents id derived from content, so that a repeat of the same fact is the same event.

    Parts are length-prefixed: ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()[:32]


# Free text from outside that people may see on a terminal: bounded, no control characters.
TextField = Annotated[
    str, StringConstraints(max_length=1024, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")
]


def clean_text(value: str) -> str:
    """Foreign text as a TextField takes it: control characters out, 1,024 characters at most."""
    if not value.isprintable():
        value = "".join(character for character in value if character.isprintable())
    return value[:1024]
