"""Identifiers of devices, sites, jobs, advisories and events, and the type of bounded text."""

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
SITE_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
SiteField = Annotated[str, StringConstraints(pattern=SITE_PATTERN)]

# Placeholders that firmware, hypervisors and examples of APIs have in place of an identifier.
_PLACEHOLDERS: Final = frozenset(
    {
        "",
        "(NULL)",
        "0123456789",
        "1234567890",
        "123456789",
        "DEFAULT STRING",
        "EMPTY",
        "EXAMPLE",
        "INVALID",
        "N/A",
        "NA",
        "NIL",
        "NO SERIAL",
        "NONE",
        "NOT APPLICABLE",
        "NOT AVAILABLE",
        "NOT SPECIFIED",
        "NULL",
        "HARDWARE SERIAL",
        "HARDWARE UUID",
        "SERIAL",
        "SERIALNUMBER",
        "SERIAL NUMBER",
        "STRING",
        "SYSTEM SERIAL NUMBER",
        "SYSTEM SERIAL#",
        "TBD",
        "TEST",
        "TO BE FILLED BY O.E.M.",
        "TO BE FILLED BY OEM",
        "UDID",
        "UNDEFINED",
        "UNKNOWN",
        "UUID",
        # UUIDs that boards of several vendors share
        "03000200-0400-0500-0006-000700080009",
        "12345678-1234-1234-1234-123456789012",
        "12345678-1234-5678-90AB-CDDEEFAABBCC",
    }
)
_ZERO_AND_F: Final = frozenset("0Ff-")
# Template variables that were not filled in: `$SERIALNUMBER`, `%UDID%`, `{{serial}}`, `<udid>`.
_OF_TEMPLATES: Final = frozenset("$%{}<>")


def is_real_serial(serial: str | None) -> bool:
    """Return True if `serial` identifies a Mac, so that records can be joined by it.

    False for None, a placeholder such as `string` or `To Be Filled By O.E.M.`, a variable of a
    template, and a text of one repeated character.
    """
    return serial is not None and not _is_placeholder(serial)


def is_real_udid(udid: str | None) -> bool:
    """Return True if `udid` identifies a Mac.

    False for None, a placeholder such as `string`, a variable of a template, and a UUID with one
    repeated digit, or with only the digits 0 and F.
    """
    return udid is not None and not _is_placeholder(udid) and not _ZERO_AND_F.issuperset(udid)


def _is_placeholder(text: str) -> bool:
    stripped = text.strip()
    if stripped.upper().replace("_", " ") in _PLACEHOLDERS or not _OF_TEMPLATES.isdisjoint(text):
        return True
    # A text of one character ends as it begins; most texts do not, so nothing is counted.
    if stripped[0] != stripped[-1]:
        return False
    others = stripped.replace("-", "")
    return not others or others == others[0] * len(others)


def advisory_id(platform: str, version: str) -> AdvisoryId:
    """Return the id of an advisory: `macOS-26.2` for platform `macOS` and version `26.2`.

    Builds and severity are no part of it: feeds change them later.
    """
    return AdvisoryId(f"{platform}-{version}")


# Cached: each id is derived twice within a short time, to name the job and to validate it.
@lru_cache(maxsize=256)
def derive_job_id(udid: str, action: str, target: str, generation: int) -> JobId:
    """Return the id of a job: `job-` and 32 hex digits, always the same for equal arguments.

    `target` is the job's intent: a version (`26.2`), or the cause of a reinstall or re-enrollment.
    `generation` is 0 for the first job for an intent, else one more than the highest of the ended
    jobs for it. See docs/decisions/0002-one-job-id-per-intent.md.
    """
    digest = hashlib.sha256(f"{udid}\n{action}\n{target}\n{generation}".encode()).hexdigest()
    return JobId(f"job-{digest[:32]}")


def event_id(*parts: str | bytes) -> str:
    """Return a CloudEvents id of 32 hex digits, always the same for equal `parts`.

    Each part is prefixed with its length: ("ab", "c") and ("a", "bc") give different ids.
    """
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()[:32]


# Text from other programs that may be shown on a terminal: at most 1,024 characters, and no control
# characters or line separators, which could forge terminal output or log lines.
TextField = Annotated[
    str, StringConstraints(max_length=1024, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$")
]


def logged_source(sender: str | None, source: str) -> str:
    """Return the source under which a log knows an event, from its `sender` and `source`.

    With the sender: otherwise one sender could use the id of another one's next event, which would
    then count as a repeat and change nothing.
    """
    return source if sender is None else f"{sender} {source}"


def clean_text(value: str) -> str:
    """Return `value` as a TextField: without unprintable characters, then cut to 1,024."""
    if not value.isprintable():
        value = "".join(character for character in value if character.isprintable())
    return value[:1024]
