"""What could not be used, why, and the bytes themselves."""

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from schemas.ids import TextField
from schemas.model import WireModel


class DeadLetterCode(StrEnum):
    """The closed set of reasons for setting an input aside."""

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
    """An input dead-lettered. `where` is the place of the error inside it (`$.OSVersions[2].Build`,
    `line 3`), `origin` where it came from (a file, `topic/partition/offset`, a webhook).

    `raw` is base64 of its bytes with secrets cut out, None if larger than is kept; `raw_sha256`
    and `raw_size` describe the bytes as they arrived.
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
