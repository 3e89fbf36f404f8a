"""Events without secrets in their texts, and without fields that no translator reads."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from pipeline.ingest.ddm_status import STATUS_ERRORS, STATUS_ITEMS
from pipeline.ingest.payload_retention import Field, retained
from pipeline.ingest.redaction import Redactor
from schemas.envelope import OutsideEvent
from schemas.ids import clean_text
from schemas.model import WireModel

Data = TypeVar("Data", bound=WireModel)

# Names of Macs and programs: another text in their place would be another Mac.
_IDENTITIES: Final = frozenset({"udid", "serial", "enrollment_id", "site", "command_uuid"})
# Parts of a status report that an event has as they were sent.
_PARTS: Final[Mapping[str, Field]] = {"status_items": STATUS_ITEMS, "errors": STATUS_ERRORS}


def without_secrets(data: Data, redactor: Redactor) -> Data:
    """Return an event's data with a fingerprint in place of each secret that its form shows.

    Of `status_items` and `errors` only the fields that a translator reads keep their values.
    """
    changed: dict[str, Any] = {}
    for name in data.model_fields_set - _IDENTITIES:
        value = getattr(data, name)
        found = _without_secrets(name, value, redactor)
        if found is not value and found != value:
            changed[name] = found
    return data.model_copy(update=changed) if changed else data


def _without_secrets(name: str, value: Any, redactor: Redactor) -> Any:
    if name in _PARTS:
        parts = list(value) if isinstance(value, tuple) else value
        found = redactor.cut(retained(parts, _PARTS[name]))
        return tuple(found) if isinstance(value, tuple) else found
    if isinstance(value, str):
        # A fingerprint is longer than a short secret.
        return clean_text(redactor.text(value))
    if type(value) is tuple:  # a version is a tuple of numbers
        return tuple(_without_secrets("", item, redactor) for item in value)
    return without_secrets(value, redactor) if isinstance(value, WireModel) else value


def retained_event(event: OutsideEvent, redactor: Redactor) -> OutsideEvent:
    """Return an event of a sender as it is kept: without secrets, and without its payload's bytes.

    A sender's own payload has fields that no translator here knows; its SHA-256 stays.
    """
    changed: dict[str, Any] = {"data": without_secrets(event.data, redactor)}
    if event.rawbase64 is not None:
        changed["rawbase64"] = None
    return event.model_copy(update=changed)
