"""Dead letters: inputs that could not be used, with the reason and their bytes."""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from schemas.ids import TextField
from schemas.model import WireModel


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
    BUG = "bug"


class DeadLetter(WireModel):
    """An input that could not be used.

    `where` is the position of the error in the input (`$.OSVersions[2].Build`, `line 3`). `origin`
    is the input's source: a file, `topic/partition/offset`, a webhook. `raw` is the base64 of its
    redacted bytes, None if they exceed the size limit. `raw_sha256` and `raw_size` describe the
    bytes as received.
    """

    code: DeadLetterCode
    detail: TextField
    where: TextField = ""
    source: TextField
    origin: TextField = ""
    received_at: AwareDatetime | None = None
    raw: str | None = None
    raw_sha256: str
    raw_size: Annotated[int, Field(ge=0)]
