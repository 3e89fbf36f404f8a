"""Dead letters: inputs that could not be used, with the reason and their bytes."""

import base64
import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, NamedTuple, Protocol

from pydantic import AwareDatetime, Field

from schemas.ids import TextField, clean_text
from schemas.model import WireModel

MAX_KEPT_BYTES: Final = 256 * 1024


class DeadLetterCode(StrEnum):
    """The closed set of reasons for a dead letter."""

    NOT_JSON = "not_json"
    NOT_PLIST = "not_plist"
    NOT_XML = "not_xml"
    NOT_UTF8 = "not_utf8"
    TOO_LARGE = "too_large"
    TOO_DEEP = "too_deep"
    BAD_SHAPE = "bad_shape"
    BAD_VALUE = "bad_value"
    UNKNOWN_TYPE = "unknown_type"
    NO_DEVICE = "no_device"
    USER_CHANNEL = "user_channel"
    NOT_A_MAC = "not_a_mac"
    UNREADABLE = "unreadable"
    FORBIDDEN = "forbidden"
    BAD_IDENTITY = "bad_identity"
    TOO_MANY_NEW = "too_many_new"
    UNSTAMPED = "unstamped"
    UNSIGNED = "unsigned"
    BUG = "bug"


class DeadLetter(WireModel):
    """An input that could not be used.

    `where` is the position of the error in the input (`$.OSVersions[2].Build`, `line 3`). `origin`
    is the input's source: a file, `topic/partition/offset`, a webhook. `raw` is the base64 of its
    redacted bytes, None if they exceed the size limit. `raw_sha256` and `raw_size` describe the
    bytes as received. `sender` is the login that delivered it, None for an input of Drydock's own.
    """

    code: DeadLetterCode
    detail: TextField
    where: TextField = ""
    source: TextField
    origin: TextField = ""
    received_at: AwareDatetime | None = None
    sender: TextField | None = None
    raw: str | None = None
    raw_sha256: str
    raw_size: Annotated[int, Field(ge=0)]


class DeadLetterReason(Protocol):
    """The reason for a dead letter: `where` is a path in the input, empty if there is none.

    Errors that report unusable inputs have these attributes.
    """

    @property
    def code(self) -> DeadLetterCode: ...  # noqa: D102 - fields of DeadLetter
    @property
    def detail(self) -> str: ...  # noqa: D102
    @property
    def where(self) -> str: ...  # noqa: D102


class Problem(NamedTuple):
    """A reason for a dead letter that is not an exception."""

    code: DeadLetterCode
    detail: str
    where: str = ""


def make_dead_letter(
    reason: DeadLetterReason,
    raw: bytes,
    *,
    source: str,
    origin: str,
    received_at: datetime,
    redacted: bytes | None = None,
    sender: str | None = None,
    max_kept_bytes: int = MAX_KEPT_BYTES,
) -> DeadLetter:
    """Return a dead letter for these bytes, with the code, detail and path of `reason`.

    The result has the hash and size of `raw`, and as its own `raw` the base64 of `redacted`, the
    bytes without secrets. That is None if `redacted` is None, because the bytes could not be
    searched for secrets, or is over `max_kept_bytes`. Texts are cleaned and cut to 1,024
    characters.
    """
    kept = redacted if redacted is not None and len(redacted) <= max_kept_bytes else None
    return DeadLetter(
        code=reason.code,
        detail=clean_text(reason.detail),
        where=clean_text(reason.where),
        source=clean_text(source),
        origin=clean_text(origin),
        received_at=received_at,
        sender=sender,
        raw=None if kept is None else base64.b64encode(kept).decode(),
        raw_sha256=hashlib.sha256(raw).hexdigest(),
        raw_size=len(raw),
    )


def encode_dead_letter(letter: DeadLetter) -> bytes:
    """Return a dead letter as it is published and stored: JSON without fields that are None."""
    return letter.model_dump_json(exclude_none=True).encode()
