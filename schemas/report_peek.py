"""An inventory report at a glance: what its bytes say, at a tenth of the price of `decode`.

Nothing is validated beyond JSON's own types. What two reports at a glance have alike, `decode`
reads alike; what is not sure to be so is seen as nothing, and left to `decode`.
"""

from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from schemas.envelope import LONGEST_ID, LONGEST_SOURCE, LONGEST_SUBJECT
from schemas.events.inventory import InventoryReported

# The numbers that move with every report; they stand last.
TELEMETRY_FIELDS: Final = ("free_disk_gb", "battery_percent")


def _json_type(annotation: Any) -> Any:
    """The JSON type of an optional field: what is no flag, figure or list is a text."""
    inner = get_args(annotation)[0]
    kind = get_args(inner)[0] if get_origin(inner) is Annotated else inner
    if get_origin(kind) is tuple:
        return tuple[str, ...] | None
    return (kind if kind in (bool, float) else str) | None


_FIELDS: Final = sorted(
    InventoryReported.model_fields.items(), key=lambda it: it[0] in TELEMETRY_FIELDS
)
_Facts = msgspec.defstruct(
    "_Facts",
    [(name, _json_type(field.annotation), None) for name, field in _FIELDS],
    forbid_unknown_fields=True,
    gc=False,
)


class ReportPeek(msgspec.Struct, gc=False):
    """A report's attributes and facts, as texts."""

    type: Literal["drydock.inventory.reported.v1"]
    subject: Annotated[str, Meta(min_length=1, max_length=LONGEST_SUBJECT)]
    time: str
    data: _Facts  # type: ignore[valid-type]
    id: Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]
    source: Annotated[str, Meta(min_length=1, max_length=LONGEST_SOURCE)]
    specversion: Literal["1.0"] = "1.0"
    datacontenttype: Literal["application/json"] = "application/json"

    def facts(self) -> tuple[Any, ...]:
        """What the report says, None where it says nothing; the FIGURES last."""
        return msgspec.structs.astuple(self.data)


_DECODER: Final = msgspec.json.Decoder(ReportPeek)


def peek_report(raw: bytes) -> ReportPeek | None:
    """The report that these bytes are; None for everything else, and where it is not sure."""
    try:
        return _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
