"""The rule that the plain contenders carry out: a Mac on an older macOS than the target is told
to update, once until it has done so. No guarantee of Drydock's beyond that."""

from typing import Final, NamedTuple

import msgspec

from schemas.envelope import InventoryEvent, decode
from schemas.macos import parse_os_version
from tests.bench.kafka_reports import TARGET

_TARGET: Final = parse_os_version(TARGET)


class Ruled(NamedTuple):
    """What a report leads to. `state` is the Mac's new state, None if it is the one it had."""

    udid: str
    state: bytes | None
    job: bytes | None


def rule(raw: bytes, kept: "dict[str, bytes]") -> Ruled:
    """Decode a report with Drydock's models, and see whether its Mac is outdated."""
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
    return Ruled(udid, None if state == before else state, job)
