"""The part of a raw declarative status report that an executor needs. Pure.

Format: github.com/apple/device-management, declarative/protocol/statusreport.yaml. A report is
incremental: an absent item is unchanged. The gateway reads the same report from the webhook, with
every field and with a dead letter for each invalid one; here an invalid field is unknown.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError

from agents.mdm.server import DeclarationStatus
from schemas.events.checkin import DdmStatusReported
from schemas.ids import clean_text
from schemas.macos import running_system

_FIELDS: Final[Mapping[str, TypeAdapter[Any]]] = {
    name: TypeAdapter(field.rebuild_annotation())
    for name, field in DdmStatusReported.model_fields.items()
}

_ITEMS: Final = {
    "os_version": ("device", "operating-system", "version"),
    "build": ("device", "operating-system", "build-version"),
    "install_state": ("softwareupdate", "install-state"),
    "pending_version": ("softwareupdate", "pending-version", "os-version"),
    "pending_build": ("softwareupdate", "pending-version", "build-version"),
    "failure_count": ("softwareupdate", "failure-reason", "count"),
    "failure_reason": ("softwareupdate", "failure-reason", "reason"),
    "failure_at": ("softwareupdate", "failure-reason", "timestamp"),
    "declaration_id": ("softwareupdate", "install-reason", "declaration-id"),
}
_SUPPLEMENT: Final = ("device", "operating-system", "supplemental")
_LETTER: Final = re.compile(r"\(?([a-z])\)?", re.IGNORECASE | re.ASCII)


def read_status(report: Any, udid: str) -> DdmStatusReported | None:
    """Return the fields of a parsed report that are valid; None if it is no report.

    `status_items` and `errors` are left empty: they can have secrets.
    """
    items = _at(report, "StatusItems")
    if not isinstance(items, dict):
        return None
    found = {name: _valid(name, _at(items, *path)) for name, path in _ITEMS.items()}
    found["os_version"], found["build"] = running_system(
        found["os_version"],
        found["build"],
        _letter(_at(items, *_SUPPLEMENT, "extra-version")),
        _valid("build", _at(items, *_SUPPLEMENT, "build-version")),
    )
    known = {name: value for name, value in found.items() if value is not None}
    return DdmStatusReported(udid=udid, full=_at(report, "FullReport") is True, **known)


def read_declarations(report: Any) -> dict[str, DeclarationStatus] | None:
    """Return the Mac's verdicts on its configurations and activations; None if it lists none."""
    listed = _at(report, "StatusItems", "management", "declarations")
    if not isinstance(listed, dict):
        return None
    return {
        clean_text(one["identifier"]): DeclarationStatus(
            one.get("active") is True,
            clean_text(str(one.get("valid", "unknown"))),
            "; ".join(_reasons(one.get("reasons"))),
        )
        for kind in ("configurations", "activations")
        for one in _entries(listed.get(kind))
        if isinstance(one.get("identifier"), str)
    }


def _letter(found: Any) -> str | None:
    """Return the letter of a supplement, `a` for `(a)`; None for anything else."""
    match = _LETTER.fullmatch(found) if isinstance(found, str) else None
    return None if match is None else match[1].lower()


def _reasons(found: Any) -> Iterator[str]:
    for reason in _entries(found):
        code, text = reason.get("code"), reason.get("description")
        yield clean_text(" ".join(str(part) for part in (code, text) if part))


def _entries(found: Any) -> list[dict[str, Any]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _at(part: Any, *path: str) -> Any:
    """Return the value under these keys, None if one is absent."""
    for name in path:
        part = part.get(name) if isinstance(part, dict) else None
    return part


def _valid(name: str, value: Any) -> Any:
    """Return the value of a field as its type, None if it is absent, empty or invalid."""
    if value is None or value == "":
        return None
    try:
        return _FIELDS[name].validate_python(value)
    except ValidationError:
        return None
