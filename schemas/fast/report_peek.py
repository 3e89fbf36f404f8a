"""Peek at an inventory report: its fields as JSON values, in a tenth of the time of `decode`.

Only JSON types are checked. If two peeks have equal fields, `decode` gives equal fields too.
`peek_report` returns None where that is not certain; the caller then uses `decode`.
"""

from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from schemas.envelope import LONGEST_ID, LONGEST_SOURCE, LONGEST_SUBJECT
from schemas.events.inventory import InventoryReported

# Numbers that change with nearly every report. `ReportPeek.values` puts them last.
TELEMETRY_FIELDS: Final = ("free_disk_gb", "battery_percent")


def _json_type(annotation: Any) -> Any:
    """Return the Python type of an optional field's JSON value.

    It is bool, float, a tuple of texts, or str for all other fields; each `| None`.
    """
    inner = get_args(annotation)[0]
    kind = get_args(inner)[0] if get_origin(inner) is Annotated else inner
    if get_origin(kind) is tuple:
        return tuple[str, ...] | None
    return (kind if kind in (bool, float) else str) | None


_FIELDS: Final = sorted(
    InventoryReported.model_fields.items(), key=lambda it: it[0] in TELEMETRY_FIELDS
)
_ReportedValues = msgspec.defstruct(
    "_ReportedValues",
    [(name, _json_type(field.annotation), None) for name, field in _FIELDS],
    forbid_unknown_fields=True,
    gc=False,
)


class ReportPeek(msgspec.Struct, gc=False):
    """Attributes and fields of a report as JSON values: times and versions are texts."""

    type: Literal["drydock.inventory.reported.v1"]
    subject: Annotated[str, Meta(min_length=1, max_length=LONGEST_SUBJECT)]
    time: str
    data: _ReportedValues  # type: ignore[valid-type]
    id: Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]
    source: Annotated[str, Meta(min_length=1, max_length=LONGEST_SOURCE)]
    specversion: Literal["1.0"] = "1.0"
    datacontenttype: Literal["application/json"] = "application/json"

    def values(self) -> tuple[Any, ...]:
        """Return the reported values, None for absent fields, with TELEMETRY_FIELDS last."""
        return msgspec.structs.astuple(self.data)


_DECODER: Final = msgspec.json.Decoder(ReportPeek)


def peek_report(raw: bytes) -> ReportPeek | None:
    """Return the report in these bytes; None if they are not certainly an inventory report.

    None also for a report with a field that this version does not know.
    """
    try:
        return _DECODER.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
