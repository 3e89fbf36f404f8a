"""Translation of osquery's result log (osquery.readthedocs.io, deployment/logging).

A result is differential (`action` is added or removed, with `columns`), a snapshot (`snapshot`, or
with `--logger_snapshot_event_type` one result with `columns` for each row) or a batch
(`diffResults`). Every value is text unless `numerics` is set.

Macs are identified by hardware UUID: run osquery with `--host_identifier=uuid`, or decorate results
with `host_uuid` and `hardware_serial`. The generated ids of `--host_identifier=instance` and
`=ephemeral` look like hardware UUIDs and would create a second Mac.
"""

import io
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Final

from pipeline.ingest.device_payload import DevicePayload, canonical_json, plausible_time
from pipeline.ingest.foreign_fields import Fields, from_epoch
from pipeline.ingest.json_payload import load_json
from pipeline.ingest.osquery_tables import is_known_table, is_table_name, read_row, row_fields
from pipeline.ingest.payload_retention import FieldsBy, PayloadFields, ReadFields, values
from pipeline.ingest.redaction import Redactor
from pipeline.ingest.translation import PayloadError, Translation
from schemas.dead_letters import DeadLetterCode
from schemas.ids import is_real_udid

SOURCE: Final = "osquery"
MAX_RESULTS: Final = 10_000
MAX_ROWS: Final = 1_000

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_PRESENT: Final = ("added", "snapshot", None)
_REMOVED: Final = "removed"
_RESULT: Final = FieldsBy(lambda result: _result_fields(result.get("name")))
RESULT_FIELDS: Final = PayloadFields(_RESULT)
# A document has results, or is one.
DOCUMENT_FIELDS: Final = PayloadFields(
    FieldsBy(lambda document: {**_result_fields(document.get("name")), "data": _RESULT})
)
# A number in place of a text has lost its form: 26.1 and 26.10 are one number.
_TEXTS: Final = frozenset({"version", "build", "extra"})


def translate(raw: bytes, *, origin: str, received_at: datetime, redactor: Redactor) -> Translation:
    """Return the events of a result, an array of results, a TLS logger's body, or JSON lines.

    Each result about a Mac's system gives one inventory report; removed rows, and no rows at all,
    only record a contact. Other results are dead letters: other queries `unknown_type`, other
    systems `not_a_mac`, results without a device `no_device`. A document or line that cannot be
    parsed is one dead letter. An invalid field is a dead letter, and the rest is used; so are rows
    of other tables beside one that is read. A report is dated `unixTime`, or
    `received_at` if that is missing, invalid or more than a day later. Raises nothing.
    """
    if _is_lines(raw):
        lines = translate_lines(
            io.BytesIO(raw), origin=origin, received_at=received_at, redactor=redactor
        )
        return Translation.join(lines)
    return _translate_document(raw, origin, received_at, redactor)


def translate_lines(
    lines: Iterable[bytes], *, origin: str, received_at: datetime, redactor: Redactor
) -> Iterator[Translation]:
    """Yield one translation for each line that is not blank, in order.

    Only one line is in memory at a time. Each line is a JSON document; one that cannot be parsed
    gives a dead letter. The origin of a dead letter is `origin:N`, where N counts all lines from 1.
    """
    for number, line in enumerate(lines, 1):
        content = line.strip()
        if content:
            yield _translate_document(content, f"{origin}:{number}", received_at, redactor)


def _result_fields(name: object) -> ReadFields:
    row = row_fields(name if isinstance(name, str) else "")
    return {
        **values("name", "action", "unixTime", "hostIdentifier"),
        "decorations": values("host_uuid", "hardware_uuid", "uuid", "hardware_serial"),
        "columns": row,
        "snapshot": row,
        "diffResults": {"added": row, "removed": row},
    }


def _is_lines(raw: bytes) -> bool:
    """Return True if this is no JSON document, and any of several lines is one with content.

    A line is a result, or an array of results. A line that was cut off, or written without the
    line break before it, costs only itself.
    """
    lines = [line for line in raw.split(b"\n") if line.strip()]
    return len(lines) > 1 and not _is_json(raw) and any(map(_is_json, lines))


def _is_json(raw: bytes) -> bool:
    """Return True if these bytes are a JSON object or array that is not empty."""
    if raw.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        return bool(load_json(raw))
    except PayloadError:
        return False


def _translate_document(
    raw: bytes, origin: str, received_at: datetime, redactor: Redactor
) -> Translation:
    """Return the translation of one JSON document: a result, an array, or a logger's body.

    A document that cannot be parsed, or has no results or more than MAX_RESULTS, gives one dead
    letter and no events. Raises nothing.
    """

    def translate_result(value: Any, raw: bytes, location: str) -> Translation:
        payload = DevicePayload(SOURCE, raw, origin, received_at, redactor)
        if location in ("$", "$[0]"):
            payload.problems.add_all(unreadable)
        try:
            payload.keep(value, RESULT_FIELDS)
            payload.identity = canonical_json(value)
            if not isinstance(value, dict):
                raise PayloadError(DeadLetterCode.BAD_SHAPE, "not an object", location)
            _report(Fields(value, f"{location}.", payload.problems), payload)
        except PayloadError as error:
            return payload.refuse(error)
        return payload.translation()

    unreadable: list[PayloadError] = []
    try:
        found = load_json(raw, unreadable)
        if isinstance(found, dict) and isinstance(found.get("data"), list):
            found = found["data"]
        if not isinstance(found, list):
            return translate_result(found, raw, "$")
        if not found:
            raise PayloadError(DeadLetterCode.BAD_SHAPE, "no results", "$")
        if len(found) > MAX_RESULTS:
            raise PayloadError(DeadLetterCode.TOO_LARGE, f"more than {MAX_RESULTS} results", "$")
    except PayloadError as error:
        return DevicePayload(SOURCE, raw, origin, received_at, redactor).refuse(error)
    return Translation.join(
        translate_result(item, canonical_json(item), f"$[{index}]")
        for index, item in enumerate(found)
    )


def _report(result: Fields, payload: DevicePayload) -> None:
    """Add the inventory report of one result to the payload.

    Raises PayloadError: `unknown_type` if no row is of a table that Drydock reads, or the result
    has no name; `not_a_mac` for a row of another system; `no_device` without a UUID and a serial
    number; `bad_shape` for a result without rows in a known form.
    """
    name = result.text("name")
    if name is None:
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE, "not a result of a query: no name", result.where + "name"
        )
    present, removed = _rows(result)
    rows = (*present, *removed)
    other = [row for row in rows if not is_known_table(name, row)]
    if len(other) == len(rows) and not (is_table_name(name) and not rows):
        raise PayloadError(
            DeadLetterCode.UNKNOWN_TYPE,
            f"the query {name} has no columns about a Mac's system",
            result.where + "name",
        )
    if other:
        detail = f"{len(other)} rows without columns about a Mac's system; this is the first"
        result.problems.add(DeadLetterCode.UNKNOWN_TYPE, detail, other[0].where)
    fields: dict[str, Any] = {}
    for row in removed:
        read_row(name, row)  # raises for rows of another system; the fields are not used
    for row in present:
        fields |= {key: value for key, value in read_row(name, row).items() if value is not None}
    decorations = result.group("decorations")
    uuid = _uuid(fields.pop("uuid", None)) or _uuid(
        decorations.text("host_uuid", "hardware_uuid", "uuid")
    )
    udid = uuid or _uuid(result.text("hostIdentifier"))
    serial = fields.pop("serial", None) or decorations.serial("hardware_serial")
    if udid is None and serial is None:
        raise PayloadError(
            DeadLetterCode.NO_DEVICE,
            "neither a hardware UUID nor a serial number",
            result.where + "hostIdentifier",
        )
    at = plausible_time(_at(result), payload.received_at)
    payload.add_inventory("osquery", at, udid=udid, serial=serial, **fields)


def _rows(result: Fields) -> tuple[list[Fields], list[Fields]]:
    """Return the present rows, and the removed rows; each list may be empty.

    Raises PayloadError `bad_shape` if the result has none of `diffResults`, `snapshot` and
    `columns`, or an action that osquery does not write.
    """
    action = result.text("action")
    if "diffResults" in result:
        batch = result.group("diffResults")
        return _list(batch, "added"), _list(batch, "removed")
    if isinstance(result.values.get("columns"), dict) and action in (*_PRESENT, _REMOVED):
        row = _row(result.values["columns"], f"{result.where}columns.", result)
        return ([], [row]) if action == _REMOVED else ([row], [])
    if "snapshot" in result and action in _PRESENT:
        return _list(result, "snapshot"), []
    raise PayloadError(
        DeadLetterCode.BAD_SHAPE, "no columns, snapshot or diffResults", result.where + "action"
    )


def _list(parent: Fields, name: str) -> list[Fields]:
    """Return the rows of a list, at most MAX_ROWS; [] if it is absent or not a list.

    osquery writes an empty list in a batch as "". Any other value that is not a list, a longer
    list, and an item that is not a dict are recorded as problems; such an item is left out.
    """
    if parent.values.get(name) == "":
        return []
    return [_row(row.values, row.where, parent) for row in parent.groups(name, MAX_ROWS)]


def _row(columns: Any, where: str, parent: Fields) -> Fields:
    """Return a row with all values as text, with or without `numerics`.

    Values that are neither text nor a number, such as booleans and null, are left out. A number
    with a fraction stays one in the columns that are text in osquery: it is recorded as a problem.
    """
    text = {
        name: value
        if isinstance(value, str) or (isinstance(value, float) and name in _TEXTS)
        else str(value)
        for name, value in columns.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    return Fields(text, where, parent.problems)


def _uuid(text: str | None) -> str | None:
    """Return a hardware UUID in upper case; None for None, other text and a placeholder."""
    if text is None or not _UUID.fullmatch(text) or not is_real_udid(text):
        return None
    return text.upper()


def _at(result: Fields) -> datetime | None:
    """Return the UTC time of `unixTime`, which is a number of seconds or its text.

    None if it is absent, 0, before 2001 or after 2099; None, with a problem, for other text or
    another type.
    """
    value = result.values.get("unixTime")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 12:
        value = int(value)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value == 0):
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        result.bad_shape("unixTime", "not seconds since 1970")
        return None
    return from_epoch(value) if abs(value) < 10**12 else None
