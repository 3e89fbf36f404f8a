"""The rule of the plain consumers: one job for each Mac below the target, until it is updated.

It gives none of Drydock's other guarantees.
"""

from typing import Final, NamedTuple

import msgspec

from schemas.envelope import InventoryEvent, decode
from schemas.macos import parse_os_version
from tests.bench.kafka_reports import TARGET

_TARGET: Final = parse_os_version(TARGET)


class RuleResult(NamedTuple):
    """Effects of a report; `state` is None if the Mac's state did not change."""

    udid: str
    state: bytes | None
    job: bytes | None


def rule(raw: bytes, kept: "dict[str, bytes]") -> RuleResult:
    """Decode a report with Drydock's models and return its effects; `kept` has the states."""
    event = decode(raw)
    assert isinstance(event, InventoryEvent)
    report = event.data
    udid, version = report.udid, report.os_version
    assert udid is not None
    assert version is not None
    outdated = version < _TARGET
    before = kept.get(udid)
    state = msgspec.json.encode(
        (str(version), str(report.build), report.hostname, str(report.boot_at), outdated)
    )
    was_outdated = before is not None and before.endswith(b"true]")
    job = None
    if outdated and not was_outdated:
        job = msgspec.json.encode({"udid": udid, "version": TARGET})
    return RuleResult(udid, None if state == before else state, job)
